"""What can go wrong with the network itself."""

from __future__ import annotations

from echokernel import TransportError

__all__ = ["DiscoveryUnavailable"]


class DiscoveryUnavailable(TransportError):
    """This machine cannot take part in mDNS: no network takes multicast, or UDP port 5353 is taken. Says what helps."""
