"""How fast a path delivers, measured packet by packet. No clock and no IO: times are arguments, in seconds.

A sample is the data delivered between the sending of a packet and its acknowledgement, divided by the longer of the
time it took to send that much and the time it took to acknowledge it: neither a burst of ours nor a burst of
acknowledgements makes a path look faster than it is. Source: draft-cheng-iccrg-delivery-rate-estimation-02.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DeliveryMeter", "Sample"]


@dataclass(frozen=True, slots=True)
class Sample:
    """What one acknowledgement told."""

    rate: float
    """Bytes per second; 0 where no time passed to divide by."""
    limited: bool
    """The program had too little to send: the path may be faster than ``rate``."""
    prior_delivered: int
    """Bytes that were delivered when the newest of these packets was sent."""
    acked: int
    """Bytes that this acknowledgement took out of flight."""


@dataclass(slots=True)
class _Sent:
    size: int
    time: float
    delivered: int
    delivered_time: float
    first_time: float
    limited: bool
    in_flight: int


class DeliveryMeter:
    """One connection's samples; packets are named by their numbers."""

    __slots__ = ("_acked", "_delivered_time", "_first_time", "_limited_until", "_newest", "_sent", "delivered")

    def __init__(self) -> None:
        self.delivered = 0
        """Bytes acknowledged in all."""
        self._sent: dict[int, _Sent] = {}
        self._delivered_time = self._first_time = 0.0
        self._limited_until = 0
        self._newest: _Sent | None = None
        self._acked = 0

    @property
    def limited(self) -> bool:
        """Whether what is sent now counts as held back by the program."""
        return self._limited_until > 0

    @property
    def watched(self) -> int:
        """How many packets are in flight."""
        return len(self._sent)

    def sent(self, number: int, size: int, *, in_flight: int, now: float) -> None:
        """``in_flight``: bytes, without this packet."""
        if in_flight <= 0:  # after a silence the clock starts with this packet
            self._first_time = self._delivered_time = now
        self._sent[number] = _Sent(
            size, now, self.delivered, self._delivered_time, self._first_time, self._limited_until > 0, in_flight + size
        )

    def acked(self, number: int, *, now: float) -> None:
        packet = self._sent.pop(number, None)
        if packet is None:
            return
        self.delivered += packet.size
        self._acked += packet.size
        self._delivered_time = now
        newest = self._newest
        if newest is None or packet.delivered >= newest.delivered:
            self._newest = packet
            self._first_time = packet.time

    def gone(self, number: int) -> int:
        """A packet was lost, or nobody waits for it any more. Return the bytes in flight when it was sent, 0: unknown."""
        packet = self._sent.pop(number, None)
        return 0 if packet is None else packet.in_flight

    def out_of_data(self, in_flight: int) -> None:
        """The program has no more to send while the window is open: what is in flight now says little about the path."""
        self._limited_until = self.delivered + in_flight or 1

    def take(self) -> Sample | None:
        """Return what the packets acknowledged since the last call tell, None when there were none."""
        packet = self._newest
        if packet is None:
            return None
        if 0 < self._limited_until < self.delivered:
            self._limited_until = 0
        self._newest = None
        acked, self._acked = self._acked, 0
        interval = max(packet.time - packet.first_time, self._delivered_time - packet.delivered_time)
        rate = (self.delivered - packet.delivered) / interval if interval > 0 else 0.0
        return Sample(rate, packet.limited, packet.delivered, acked)
