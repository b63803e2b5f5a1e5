"""Requests that the peer has no room for yet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from echokernel.tasks import Future

Placed = tuple[int, Any, int]
"""A request that left: its id, the future of its answer, its bucket among the deadlines."""

__all__ = ["Placed", "WaitingRequest"]


class WaitingRequest:
    """A request in its place in the row. Ten thousand may wait: one object each, and no more."""

    __slots__ = ("body", "default", "ends", "head", "method", "payload", "placed", "size", "turn")

    def __init__(
        self,
        method: str,
        head: bytes,
        payload: bytes,
        body: bytes | None,
        size: int,
        ends: float,
        default: bool,
        turn: Future[None],
    ) -> None:
        self.method = method
        self.head = head
        self.payload = payload
        self.body = body
        self.size = size
        self.ends = ends
        self.default = default
        self.turn = turn
        self.placed: Placed | None = None
