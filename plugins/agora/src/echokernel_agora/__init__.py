"""A WebSocket router for AI agents, bridged to the sessions of the node."""

from echokernel_agora.access import Token
from echokernel_agora.agents import Outlet, Peer
from echokernel_agora.limits import Limits
from echokernel_agora.principal import Principal
from echokernel_agora.router import Router
from echokernel_agora.server import AgoraServer
from echokernel_agora.service import AgoraService

__all__ = ["AgoraServer", "AgoraService", "Limits", "Outlet", "Peer", "Principal", "Router", "Token"]
