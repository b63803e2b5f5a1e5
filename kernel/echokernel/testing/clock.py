"""Time that jumps: a test that waits for a deadline takes no time, and never depends on how fast the machine is."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Mapping
from typing import Any

THREAD_PATIENCE = 0.001  # real seconds given to worker threads and sockets before time jumps

__all__ = ["VirtualTimeLoop", "virtual_time_backends"]


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An asyncio loop whose clock jumps to the next timer as soon as nothing is ready."""

    def __init__(self) -> None:
        self._virtual_now = 1_000.0
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        return self._virtual_now

    def jump(self, seconds: float) -> None:
        """Let ``seconds`` pass."""
        self._virtual_now += seconds


class _JumpingSelector(selectors.BaseSelector):
    """Asks the real selector, and lets virtual time pass instead of waiting."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        self._loop = loop
        self._real = selectors.DefaultSelector()

    def select(self, timeout: float | None = None) -> Any:
        ready = self._real.select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:  # no timer: only a thread or a socket can go on
            return self._real.select(None)
        ready = self._real.select(THREAD_PATIENCE)
        if not ready and timeout > 0:
            self._loop.jump(timeout)
        return ready

    def register(self, fileobj: Any, events: int, data: Any = None) -> Any:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> Any:
        return self._real.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> Any:
        return self._real.modify(fileobj, events, data)

    def get_map(self) -> Mapping[Any, Any]:
        return self._real.get_map()

    def get_key(self, fileobj: Any) -> Any:
        return self._real.get_key(fileobj)

    def close(self) -> None:
        self._real.close()


def virtual_time_backends() -> list[tuple[str, dict[str, Any]]]:
    """Return what anyio's ``anyio_backend`` fixture takes for asyncio and trio with virtual time.

    ::

        @pytest.fixture(params=virtual_time_backends(), ids=lambda backend: backend[0])
        def anyio_backend(request):
            return request.param
    """
    from trio.testing import MockClock

    return [("asyncio", {"loop_factory": VirtualTimeLoop}), ("trio", {"clock": MockClock(autojump_threshold=0)})]
