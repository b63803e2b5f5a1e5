"""Who a connection speaks for, as far as a token proves it."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

__all__ = ["LOCAL", "Principal"]

EVERYBODY = ("*",)


@dataclass(frozen=True, slots=True)
class Principal:
    """What a token allows. ``ids`` and ``reaches`` are patterns as of :mod:`fnmatch`: ``team-a/*``."""

    name: str
    """Names it in logs and in the console; never the token."""
    ids: tuple[str, ...] = EVERYBODY
    """Ids under which it may register."""
    reaches: tuple[str, ...] = EVERYBODY
    """Ids that it may send to, and sees. Others are to it as if they did not exist."""
    operator: bool = False
    """Whether it may see the console and the metrics."""
    anonymous: bool = False
    """No token proves it: it takes over nobody's id."""

    def may_be(self, agent_id: str) -> bool:
        return _fits(agent_id, self.ids)

    def may_reach(self, agent_id: str) -> bool:
        return _fits(agent_id, self.reaches)


def _fits(agent_id: str, patterns: tuple[str, ...]) -> bool:
    return patterns == EVERYBODY or any(fnmatchcase(agent_id, pattern) for pattern in patterns)


LOCAL = Principal("local", operator=True, anonymous=True)
"""Everybody, where no tokens are set: the listener is on loopback then."""
