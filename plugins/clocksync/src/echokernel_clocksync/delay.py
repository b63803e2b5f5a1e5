"""How long frames are held before they are played: fixed, or as long as nearly all of them need. No IO, no clock.

A frame's *transit* is its arrival minus its stamp, in microseconds. Between synchronised clocks that is the one-way delay;
otherwise it is off by a constant that nobody knows, and only differences mean anything. Policies work with both.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_left, insort
from collections import deque
from typing import Final

WINDOW: Final = 300  # frames: 6 s at 50 frames/s; shorter forgets the rare slow ones, longer is slow to come down again
QUANTILE: Final = 0.985  # about 1 % is late in the end; 0.99 jumps between two delays where just 1 % are slow
GUARD_US: Final = 2_000  # for timers that wake up late
RELEASE_US: Final = 500  # per frame: 2.5 % faster at 50 frames/s, which nobody hears
MAX_DELAY_US: Final = 150_000  # beyond the quickest frame; a longer window of one-off stalls would be heard as an echo
JUMP_US: Final = 1_000_000  # a fixed delay that is farther off than this is not approached but taken

__all__ = ["AdaptiveDelay", "DelayPolicy", "FixedDelay", "TransitWindow"]


class TransitWindow:
    """The transits of the last frames, sorted too."""

    __slots__ = ("_recent", "_size", "_sorted")

    def __init__(self, size: int = WINDOW) -> None:
        self._size = size
        self._recent: deque[int] = deque()
        self._sorted: list[int] = []

    def __len__(self) -> int:
        return len(self._recent)

    def add(self, transit: int) -> None:
        self._recent.append(transit)
        insort(self._sorted, transit)
        if len(self._recent) > self._size:
            del self._sorted[bisect_left(self._sorted, self._recent.popleft())]

    def shift(self, by: int) -> None:
        """All transits are larger by ``by``: one of the two clocks was set."""
        self._recent = deque(transit + by for transit in self._recent)
        self._sorted = [transit + by for transit in self._sorted]

    @property
    def low(self) -> int:
        """The shortest one."""
        return self._sorted[0]

    def quantile(self, share: float) -> int:
        """Return the transit that ``share`` of them (0 to 1) do not exceed."""
        return self._sorted[max(0, math.ceil(share * len(self._sorted)) - 1)]


class DelayPolicy(ABC):
    """Decides the delay: a frame is played at its stamp plus :attr:`delay`. All times are integers, in microseconds."""

    delay: int = 0
    """What is in force: between a stamp and the moment when its frame is played."""
    target: int = 0
    """Where :attr:`delay` is going."""
    absolute: bool = False
    """Whether stamps and arrivals are of one clock, so that a transit is the one-way delay itself."""

    def __init__(self, *, window: int = WINDOW, max_delay_us: int = MAX_DELAY_US) -> None:
        self.window = TransitWindow(window)
        self.reach = max_delay_us
        """Transits farther from the shortest one than this tell nothing of the path's usual jitter."""

    @abstractmethod
    def add(self, transit: int) -> None:
        """A frame within :attr:`reach` is here: adjust :attr:`delay`."""

    def shift(self, by: int) -> None:
        """A clock was set: every transit, and so the delay, is larger by ``by``. Nothing is played at another time."""
        self.window.shift(by)
        self.delay += by
        self.target += by

    def relevel(self, by: int) -> int:
        """Transits are larger by ``by`` from now on, for whatever reason. Returns how much of it the delay follows."""
        self.shift(by)
        return by

    def is_strange(self, transit: int) -> bool:
        """Whether ``transit`` does not belong to those before."""
        return len(self.window) > 0 and abs(transit - self.window.low) > self.reach


class AdaptiveDelay(DelayPolicy):
    """Holds frames as long as all but the slowest four of the last 300 needed, and 2 ms more.

    It follows a slower path at once and a quicker one by 0.5 ms per frame. It never exceeds the quickest frame's transit by
    more than ``max_delay_us``.
    """

    def __init__(
        self,
        *,
        quantile: float = QUANTILE,
        guard_us: int = GUARD_US,
        release_us: int = RELEASE_US,
        window: int = WINDOW,
        max_delay_us: int = MAX_DELAY_US,
    ) -> None:
        super().__init__(window=window, max_delay_us=max_delay_us)
        self._quantile, self._guard, self._release = quantile, guard_us, release_us

    def add(self, transit: int) -> None:
        is_first = not len(self.window)
        self.window.add(transit)
        self.target = min(self.window.quantile(self._quantile) + self._guard, self.window.low + self.reach)
        if is_first or self.target > self.delay:
            self.delay = self.target
        else:
            self.delay = max(self.target, self.delay - self._release)


class FixedDelay(DelayPolicy):
    """Holds frames for one time: after their stamp where clocks agree, otherwise after the quickest frame's arrival.

    Where that changes, because clocks have come to agree, the delay follows by 0.5 ms per frame.
    """

    def __init__(
        self, delay_us: int, *, release_us: int = RELEASE_US, window: int = WINDOW, max_delay_us: int = MAX_DELAY_US
    ) -> None:
        super().__init__(window=window, max_delay_us=max_delay_us)
        self._fixed, self._release = delay_us, release_us

    def add(self, transit: int) -> None:
        is_first = not len(self.window)
        self.window.add(transit)
        self.target = self._fixed if self.absolute else self.window.low + self._fixed
        away = self.target - self.delay
        if is_first or abs(away) > JUMP_US:
            self.delay = self.target
        else:
            self.delay += max(-self._release, min(self._release, away))

    def relevel(self, by: int) -> int:
        if not self.absolute:
            return super().relevel(by)
        self.window.shift(by)  # what is played when is a promise to the other receivers
        return 0
