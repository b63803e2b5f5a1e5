"""Automatic reconnection for echokernel clients."""

from echokernel_reconnect.backoff import Backoff
from echokernel_reconnect.client_plugin import ReconnectPlugin

__all__ = ["Backoff", "ReconnectPlugin"]
