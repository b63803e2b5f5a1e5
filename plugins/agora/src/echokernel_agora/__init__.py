"""A WebSocket router for AI agents, bridged to the sessions of the node."""

from echokernel_agora.limits import Limits

__all__ = ["Limits"]
