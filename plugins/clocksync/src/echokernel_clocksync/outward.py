"""The time that a program sees: it never goes back, and is led to where it should be gently. No IO, no clock, no task."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Line", "OutwardClock"]

STEP_NS = 10_000_000  # further off than this is no matter of seconds of slewing


class Line(NamedTuple):
    """What time it is elsewhere, as a function of ours: ``shared`` at our ``local``, both ns, and then ``1 + rate`` per ns."""

    local: int
    shared: int
    rate: float = 0.0

    def at(self, local: int) -> int:
        """Return the time elsewhere at our ``local``, ns."""
        passed = local - self.local
        return self.shared + passed + round(self.rate * passed)


class OutwardClock:
    """Follows a line that is corrected now and then, by at most ``slew`` per unit of time: it has no jumps, and never stands.

    A correction of more than 10 ms would take longer than that is worth: the clock then steps. Times are ns. All of its
    state is one tuple that is replaced as a whole, so other threads may read it.
    """

    __slots__ = ("_slew", "_state")

    def __init__(self, line: Line, *, slew: float) -> None:
        self._slew = slew
        self._state = (line, 0, line.local)

    @property
    def line(self) -> Line:
        """Where it is led to."""
        return self._state[0]

    def steer(self, line: Line, at: int, *, jump: bool = False) -> int:
        """Follow another line from our time ``at`` on. Returns by how much the clock stepped, ns; 0: it did not.

        ``jump``: step, however small the correction is.
        """
        lag = self.shared(at) - line.at(at)
        if jump or abs(lag) > STEP_NS:
            self._state = (line, 0, at)
            return -lag
        self._state = (line, lag, at)
        return 0

    def lag(self, at: int) -> int:
        """Return by how much the clock is ahead of its line, ns."""
        _, lag, since = self._state
        return self._left(lag, max(0, at - since))

    def shared(self, local: int) -> int:
        """Return the time at our ``local``. What was before the last correction is read as if it had been made before."""
        line, lag, since = self._state
        return line.at(local) + self._left(lag, max(0, local - since))

    def local(self, shared: int) -> int:
        """Return our time at which it is ``shared``: the inverse of :meth:`shared`, to the ns."""
        state_line = self._state[0]
        local = state_line.local + (shared - state_line.shared)
        for _ in range(6):  # each leaves a thousandth of what was wrong
            wrong = shared - self.shared(local)
            if not wrong:
                break
            local += wrong
        return local

    def _left(self, lag: int, passed: int) -> int:
        slewed = int(passed * self._slew)
        return max(0, lag - slewed) if lag > 0 else min(0, lag + slewed)
