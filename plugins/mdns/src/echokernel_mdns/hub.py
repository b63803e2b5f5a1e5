"""The thread that speaks mDNS: one for the process, there while somebody needs it."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar, TypeVarTuple

from echokernel_mdns.bridge import run_in
from echokernel_mdns.station import Station
from echokernel_mdns.suspects import Key, Suspects

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Choice = tuple[tuple[str, ...] | None, bool]
"""Interfaces and whether IPv6 takes part: who chooses alike shares sockets."""

GOODBYE = 2.0  # seconds that the end of the program waits for goodbyes; they take a quarter of one

__all__ = ["Lease", "lease", "suspect"]


class _Thread:
    """An event loop of its own, always asyncio's plain one: what the program's loop is does not matter."""

    def __init__(self) -> None:
        self.stations: dict[Choice, tuple[Station, int]] = {}
        self._over = asyncio.Event()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), name="echokernel-mdns", daemon=True)
        self._thread.start()
        ready.wait()

    def _run(self, ready: threading.Event) -> None:
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            self.loop = runner.get_loop()
            runner.run(self._live(ready))

    async def _live(self, ready: threading.Event) -> None:
        ready.set()
        await self._over.wait()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.wait(others, timeout=GOODBYE) if others else None

    def close(self, station: Station) -> None:
        """Close a station that nobody has any more."""
        asyncio.run_coroutine_threadsafe(station.close(), self.loop)

    def end(self, *, wait: bool = False) -> None:
        """End when what is under way is done. ``wait``: until then, for 2 s."""
        for station, _ in self.stations.values():
            self.close(station)
        self.loop.call_soon_threadsafe(self._over.set)
        if wait:
            self._thread.join(GOODBYE)


_lock = threading.Lock()
_thread: _Thread | None = None
_suspects = Suspects()


class Lease:
    """A share of a station. Given back with :meth:`end`, which never waits and may be called from anywhere, twice too."""

    def __init__(self, thread: _Thread, choice: Choice, station: Station) -> None:
        self.station = station
        self._thread = thread
        self._choice = choice
        self._given_back = False

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run ``work`` in the thread and wait for it here."""
        return await run_in(self._thread.loop, work)

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run ``work`` in the thread; nobody has to wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._thread.loop)

    def soon(self, function: Callable[[*Ts], object], *arguments: *Ts) -> None:
        """Call ``function`` in the thread; nobody waits for it."""
        with suppress(RuntimeError):  # the program ends, and the thread's loop is closed
            self._thread.loop.call_soon_threadsafe(function, *arguments)

    def end(self) -> None:
        global _thread
        with _lock:
            if self._given_back:
                return
            self._given_back = True
            station, users = self._thread.stations[self._choice]
            if users > 1:
                self._thread.stations[self._choice] = station, users - 1
                return
            del self._thread.stations[self._choice]
            self._thread.close(station)
            if not self._thread.stations and self._thread is _thread:
                _thread = None
                self._thread.end()


def lease(choice: Choice) -> Lease:
    """Return a share of the station for ``choice``; the thread begins with the first one."""
    global _thread
    with _lock:
        if _thread is None:
            _thread = _Thread()
        station, users = _thread.stations.get(choice) or (_make(choice), 0)
        _thread.stations[choice] = station, users + 1
        return Lease(_thread, choice, station)


def suspect(key: Key, looks: object) -> None:
    """A service could not be reached: no station of this process offers it for now."""
    with _lock:
        until = _suspects.add(key, looks, now=time.monotonic())
        if _thread is not None:
            for station, _ in _thread.stations.values():
                _thread.loop.call_soon_threadsafe(station.suspect, until)


def _make(choice: Choice) -> Station:
    interfaces, ipv6 = choice
    return Station(interfaces, _suspects, ipv6=ipv6)


@atexit.register
def _say_goodbye() -> None:
    """The program ends without having stopped what it announced: others should not wait two minutes to notice."""
    with _lock:
        thread = _thread
    if thread is not None:
        thread.end(wait=True)


def _after_fork() -> None:
    global _thread, _lock
    _thread, _lock = None, threading.Lock()  # threads and sockets are the parent's


os.register_at_fork(after_in_child=_after_fork)
