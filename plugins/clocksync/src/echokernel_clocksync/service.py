"""``[service.clock] use = "clocksync"``: the clock of a node from a configuration, with a reference or as one."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import TYPE_CHECKING

import anyio

from echokernel import EchoClient, EchoError
from echokernel_clocksync.background import Background
from echokernel_clocksync.clock_sync import ClockSync

if TYPE_CHECKING:
    from echokernel import ClientBuilder, ServerContext
    from echokernel.client import Connecting
    from echokernel_clocksync.settings import ClockSettings

logger = logging.getLogger("echokernel.clocksync")
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # s; a reference that is away is no hurry: the clock holds over
DIAL_SECONDS = 10.0

__all__ = ["ClockService"]


class ClockService(ClockSync):
    """A :class:`ClockSync` that dials its reference itself, and again whenever the connection is lost.

    ``dial``: ``lambda builder: builder.connect(url)``, called with a builder that has this clock. None: this node is the
    reference.
    """

    def __init__(self, dial: Callable[[ClientBuilder], Connecting] | None = None) -> None:
        super().__init__()
        self._dial = dial
        self.redials = self._follows = dial is not None
        self._background: Background | None = None

    async def start(self, context: ServerContext) -> None:
        """Begin to look for the reference; does not wait for it."""
        if self._dial is not None:
            self._background = Background(self._keep_connected)
            self._background.start()

    async def stop(self) -> None:
        """Leave the reference."""
        if self._background is not None:
            await self._background.stop()
            self._background = None

    async def _keep_connected(self) -> None:
        pause, told = FIRST_PAUSE, ""
        while True:
            try:
                await self._stay_connected()
                pause, text = FIRST_PAUSE, "the connection to the reference is over"
            except EchoError as error:
                text = f"the reference cannot be reached: {error}"
            except Exception as error:  # a transport's own fault must not end the clock
                text = f"the reference cannot be reached: {type(error).__name__}: {error}"
            if text != told:
                logger.warning("%s; the clock %s, and tries again", text, "holds over" if self.is_synced else "waits")
                told = text
            await anyio.sleep(random.uniform(pause / 2, pause))
            pause = min(LONGEST_PAUSE, pause * 2)

    async def _stay_connected(self) -> None:
        assert self._dial is not None
        over = anyio.Event()
        builder = EchoClient.builder().name("clock").describe(False).clock(self).on_disconnect(lambda _: over.set())
        with anyio.move_on_after(DIAL_SECONDS) as dialling:
            async with self._dial(builder):
                dialling.deadline = float("inf")
                await over.wait()
                return
        raise EchoError(f"no answer within {DIAL_SECONDS:g} s")


def create(settings: ClockSettings) -> ClockService:
    """Return the clock that the settings describe; nothing is dialled yet."""
    clock = ClockService(_dialler(settings) if settings.reference is not None else None)
    clock.with_burst(settings.burst, settings.burst_pause).with_interval(settings.interval)
    clock.with_max_slew_ppm(settings.max_slew_ppm)
    return clock


def _dialler(settings: ClockSettings) -> Callable[[ClientBuilder], Connecting]:
    transport = {**settings.connect}
    for name in ("fingerprint", "ca"):
        if (value := getattr(settings, name)) is not None:
            transport[name] = str(value)
    credentials = "" if settings.credentials is None else settings.credentials.get_secret_value()

    def dial(builder: ClientBuilder) -> Connecting:
        assert settings.reference is not None
        return builder.credentials(credentials).connect(settings.reference, **transport)

    return dial
