"""A WebSocket router for AI agents, bridged to the sessions of the node."""

from echokernel_agora.agents import Outlet, Peer
from echokernel_agora.bridge import AgoraBridge
from echokernel_agora.limits import Limits
from echokernel_agora.principal import Principal
from echokernel_agora.router import Router

__all__ = ["AgoraBridge", "Limits", "Outlet", "Peer", "Principal", "Router"]
