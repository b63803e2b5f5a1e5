"""Which congestion control runs in a connection, and the pacer that goes with it.

Private names of aioquic are used here; ``tests/test_quic_aioquic_contract.py`` pins each of them.
"""

from __future__ import annotations

from aioquic.quic.congestion.base import register_congestion_control
from aioquic.quic.recovery import QuicPacketPacer, QuicPacketRecovery

from echokernel_quic.bbr import Bbr
from echokernel_quic.pacing import CoarsePacer, RatePacer

__all__ = ["make_pacer", "rate_control"]

register_congestion_control("bbr", Bbr)  # aioquic has "cubic" and "reno"; it makes one object per connection


def rate_control(recovery: QuicPacketRecovery) -> Bbr | None:
    """Return the congestion control that wants to hear when there is nothing to send; None: it does not care."""
    return recovery._cc if isinstance(recovery._cc, Bbr) else None


def make_pacer(recovery: QuicPacketRecovery, max_datagram_size: int, *, loopback: bool) -> QuicPacketPacer:
    """Return the pacer for the congestion control that ``recovery`` made for its connection."""
    control = rate_control(recovery)
    if control is not None:
        return RatePacer(max_datagram_size=max_datagram_size, control=control)
    return CoarsePacer(max_datagram_size=max_datagram_size, enabled=not loopback)
