"""A request that the peer has no room for yet. Ten thousand may wait: one object each, and no more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from echokernel.tasks import Future

Placed = tuple[int, Any, int]
"""A request that left: its id, the future of its answer, its bucket among the deadlines."""

__all__ = ["Placed", "WaitingRequest"]


@dataclass(slots=True, eq=False)
class WaitingRequest:
    """What is needed to put it in when its turn has come."""

    method: str
    head: bytes
    payload: bytes
    body: bytes | None
    size: int
    """Bytes of payload and body: what counts against credit."""
    ends: float
    """Its deadline; 0: none."""
    default: bool
    """Whether that is the node's default."""
    turn: Future[None]
    placed: Placed | None = None
