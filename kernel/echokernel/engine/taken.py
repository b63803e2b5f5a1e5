"""What became of the peer's streams: their sender may ask how much of one was taken."""

from __future__ import annotations

from collections.abc import Container
from typing import TYPE_CHECKING

from echokernel.errors import EchoError
from echokernel_protocol.codes import Code

if TYPE_CHECKING:
    from echokernel.tasks import Future, TaskScope

REMEMBERED = 256  # streams that have ended; who wants to know asks within a round trip of the end

__all__ = ["TakenStreams"]


class TakenStreams:
    """The streams of one session that have ended here."""

    def __init__(self, open_streams: Container[int], tasks: TaskScope) -> None:
        self._open = open_streams
        self._tasks = tasks
        self._ended: dict[int, int | EchoError] = {}
        self._waiting: dict[int, list[Future[int]]] = {}

    def ended(self, flow_id: int, outcome: int | EchoError) -> None:
        """A stream's handler has ended after so many frames, or failed, or the stream was refused."""
        self._ended[flow_id] = outcome
        if len(self._ended) > REMEMBERED:
            del self._ended[next(iter(self._ended))]
        for future in self._waiting.pop(flow_id, ()):
            if not future.done():
                if isinstance(outcome, EchoError):
                    future.set_exception(outcome)
                else:
                    future.set_result(outcome)

    async def wait(self, flow_id: int) -> int:
        """Wait for a stream's end and return how many frames its handler took; raises what it failed with."""
        outcome = self._ended.get(flow_id)
        if isinstance(outcome, EchoError):
            raise outcome.with_traceback(None)
        if outcome is not None:
            return outcome
        if flow_id not in self._open:
            raise EchoError(f"no stream {flow_id} of yours is known here", code=Code.NOT_FOUND)
        future: Future[int] = self._tasks.future()
        self._waiting.setdefault(flow_id, []).append(future)
        try:
            return await future
        finally:
            waiting = self._waiting.get(flow_id)
            if waiting is not None and future in waiting:
                waiting.remove(future)
                if not waiting:
                    del self._waiting[flow_id]
