"""QUIC for echokernel: an endpoint of its own around aioquic's protocol core."""

from __future__ import annotations

from echokernel_quic.config import CongestionControl, QuicConfig, QuicConfigBuilder
from echokernel_quic.transport import QuicTransport

__all__ = ["CongestionControl", "QuicConfig", "QuicConfigBuilder", "QuicTransport"]
