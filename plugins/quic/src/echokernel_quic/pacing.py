"""When the next packet may leave. No clock and no IO: times are arguments, in seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioquic.quic.recovery import QuicPacketPacer

if TYPE_CHECKING:
    from echokernel_quic.bbr import Bbr

TIMER_GRAIN = 0.002  # seconds; event loops cannot wait for less than a millisecond, so pacing sends that much ahead
WAKE = 0.001  # seconds; waiting for less than what leaves in this time would only cost wake-ups

__all__ = ["CoarsePacer", "RatePacer"]


class CoarsePacer(QuicPacketPacer):
    """Lets through in a burst what belongs to one grain of the event loop's timers."""

    def __init__(self, *, max_datagram_size: int, enabled: bool) -> None:
        super().__init__(max_datagram_size=max_datagram_size)
        self._enabled = enabled

    def update_rate(self, congestion_window: int, smoothed_rtt: float) -> None:
        if self._enabled:
            super().update_rate(congestion_window, smoothed_rtt)
            self.bucket_max = max(self.bucket_max, TIMER_GRAIN)


class RatePacer(QuicPacketPacer):
    """Keeps to the rate that the congestion control names, on average exactly.

    aioquic's pacer counts in packets, derives its rate from the window and forgets what it let through too early: late
    timers make it up to twice as fast. That does not matter to a window; to a rate it does. This one counts bytes. A
    pass builds its packets before it tells their sizes, so each costs what the last ones had until it was sent.
    """

    def __init__(self, *, max_datagram_size: int, control: Bbr) -> None:
        super().__init__(max_datagram_size=max_datagram_size)
        self._control = control
        self._credit = 0.0
        self._built = 0
        self._usual_size: float = max_datagram_size
        control.on_bytes_sent = self._sent

    def next_send_time(self, now: float) -> float | None:  # type: ignore[override]  # aioquic says float, returns None
        rate = self._control.pacing_rate
        if rate is None:
            return None
        if now > self.evaluation_time:
            burst = max(2 * self._max_datagram_size, rate * TIMER_GRAIN)
            self._credit = min(self._credit + rate * (now - self.evaluation_time), burst)
            self.evaluation_time = now
            self._built = 0
        left = self._credit - self._built * self._usual_size
        if left > 0:
            return None
        return now + max(-left / rate, WAKE)

    def update_after_send(self, now: float) -> None:
        self._built += 1

    def update_rate(self, congestion_window: int, smoothed_rtt: float) -> None:
        """The rate is asked for when it is needed."""

    def _sent(self, size: int) -> None:
        if self._control.pacing_rate is None:
            return  # nothing was counted yet that this could be taken from
        self._credit -= size
        self._built = max(0, self._built - 1)
        self._usual_size += (size - self._usual_size) / 8
