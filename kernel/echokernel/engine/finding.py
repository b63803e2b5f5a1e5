"""A transport for names instead of addresses: ``mdns://echo-server``. It finds candidates, and dials them in parallel.

What discovery says is a hint. A fingerprint in it can only rule a candidate out; whom to trust, the transport decides.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Final, NoReturn

import anyio

from echokernel.addresses import Address
from echokernel.errors import EchoError, InvalidArgument, TransportError
from echokernel.transport import Transport

if TYPE_CHECKING:
    from echokernel.discovery import Discovery, ServiceInfo
    from echokernel.tasks import Future, Task, TaskScope, Timer
    from echokernel.transport import Connection, Listener

FIND_SECONDS: Final = 3.0  # for the first candidate to come; a second question of mDNS goes out after 1 s
OTHERS_SECONDS: Final = 0.5  # after all that were found have failed
DIAL_SECONDS: Final = 5.0  # for one candidate; who is on the same network answers within milliseconds
DIALS: Final = 16  # at a time: a flood of announcements must not become a flood of dials
MAX_CANDIDATES: Final = 256  # in one search
SHOWN: Final = 5  # failures that a message tells
FINGERPRINT: Final = "fp"

logger = logging.getLogger("echokernel.client")

__all__ = ["FindingTransport", "pins_in"]


class FindingTransport(Transport):
    """Connects to a service of a name. ``transport`` dials addresses of ``scheme``, others are passed over; "": of any.

    A service that announces another key than those in ``pins`` is not dialled, unless ``pins`` is empty.
    """

    takes_names = True

    def __init__(self, discovery: Discovery, transport: Transport, scheme: str, pins: Collection[str] = ()) -> None:
        self._discovery = discovery
        self._transport = transport
        self._scheme = scheme
        self._pins = frozenset(pins)

    async def listen(self, address: Address, tasks: TaskScope) -> Listener:
        raise InvalidArgument(f"nobody can listen on {address}: it is a name to be found; advertise the server instead")

    async def connect(self, address: Address, tasks: TaskScope) -> Connection:
        """Return the first connection to a service called ``address.host`` that is complete.

        Raises TransportError where none was found in 3 s, or none of those that were could be reached and trusted.
        """
        search = _Search(self, address, tasks)
        try:
            return await search.run()
        finally:
            search.stop()


class _Search:
    """One search, and the dials that come of it."""

    def __init__(self, how: FindingTransport, address: Address, tasks: TaskScope) -> None:
        self._how = how
        self._address = address
        self._tasks = tasks
        self._result: Future[Connection] = tasks.future()
        self._seen: set[Address] = set()
        self._waiting: list[tuple[Address, ServiceInfo]] = []
        self._dials: dict[Address, Task] = {}
        self._open: dict[str, int] = {}  # ways to an instance that may still succeed
        self._failures: list[tuple[Address, EchoError]] = []
        self._passed_over: list[str] = []
        self._watch: Task | None = None
        self._timer: Timer | None = None
        self._time_over = False

    async def run(self) -> Connection:
        tasks = self._tasks
        self._watch = tasks.start(self._look, name=f"find {self._address.host}")
        self._timer = tasks.call_at(tasks.now() + FIND_SECONDS, self._time_is_over)
        return await self._result

    def stop(self) -> None:
        """End everything that is not the result."""
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
        for task in (self._watch, *self._dials.values()):
            if task is not None:
                self._tasks.stop(task)

    async def _look(self) -> None:
        try:
            async for event in self._how._discovery.discover_events(self._address.host):
                if event.kind != "gone":
                    self._take(event.service)
            self._time_is_over()  # it will say no more
        except EchoError as error:  # discovery itself does not work
            self._settle(error)
        except Exception as error:
            logger.error("discovery failed: %s", type(error).__name__, exc_info=error)
            self._settle(TransportError(f"{self._address}: discovery failed: {type(error).__name__}: {error}"))

    def _take(self, service: ServiceInfo) -> None:
        announced = service.get_property(FINGERPRINT)
        pins = self._how._pins
        for address in service.addresses:
            if address in self._seen or len(self._seen) >= MAX_CANDIDATES:
                continue
            self._seen.add(address)
            if self._how._scheme not in ("", address.scheme):
                self._passed_over.append(f"{address}: only {self._how._scheme}:// is dialled")
            elif pins and announced and announced not in pins:
                self._passed_over.append(f"{address}: it announces the key {announced}, which is not the pinned one")
            else:
                self._open[service.instance] = self._open.get(service.instance, 0) + 1
                self._waiting.append((address, service))
        self._dial_more()

    def _dial_more(self) -> None:
        while self._waiting and len(self._dials) < DIALS and not self._result.done():
            address, service = self._waiting.pop(0)
            self._dials[address] = self._tasks.start(self._dial, address, service, name=f"dial {address}")

    async def _dial(self, address: Address, service: ServiceInfo) -> None:
        connection: Connection | None = None
        try:
            with anyio.fail_after(DIAL_SECONDS):
                connection = await self._how._transport.connect(address, self._tasks)
            _check_key(connection, address, service)
            if not self._result.done():
                logger.debug("%s: found at %s", self._address, address)
                self._result.set_result(connection)
                connection = None
        except TimeoutError:
            self._failed(address, service, TransportError(f"no connection within {DIAL_SECONDS:g} s"))
        except EchoError as error:
            self._failed(address, service, error)
        finally:
            self._dials.pop(address, None)
            if connection is not None:
                with anyio.CancelScope(shield=True):
                    await connection.close(drain=0)
        self._dial_more()
        self._judge()

    def _failed(self, address: Address, service: ServiceInfo, error: EchoError) -> None:
        self._failures.append((address, error))
        self._open[service.instance] -= 1
        if not self._open[service.instance] and error.retryable:
            self._how._discovery.suspect(service)

    def _judge(self) -> None:
        """Nothing is being dialled: is it over?"""
        if self._dials or self._waiting or self._result.done():
            return
        if self._time_over:
            self._give_up()
        elif self._timer is not None:
            self._timer.cancel()  # whoever else is there was heard with those that failed, or a moment later
            self._timer = self._tasks.call_at(self._tasks.now() + OTHERS_SECONDS, self._time_is_over)

    def _time_is_over(self) -> None:
        self._time_over = True
        if not self._dials and not self._waiting:
            self._give_up()

    def _give_up(self) -> None:
        where, failures = self._address, self._failures
        if len(failures) == 1 and not self._passed_over:
            address, error = failures[0]
            text = str(error) if str(address) in str(error) else f"{address}: {error}"
            self._settle(type(error)(f"{where}: {text}", code=error.code, retryable=error.retryable))
            return
        found = [f"{address}: {error}" for address, error in failures] + self._passed_over
        if not found:
            what = f"no {where.host!r} was found within {FIND_SECONDS:g} s; is it advertised here? See: echokernel discover"
            self._settle(TransportError(f"{where}: {what}"))
            return
        more = f"\n  and {len(found) - SHOWN:,} more" if len(found) > SHOWN else ""
        lines = "".join(f"\n  {line}" for line in found[:SHOWN])
        retryable = any(error.retryable for _, error in failures)
        self._settle(
            TransportError(f"{where}: {len(found):,} found, none could be used:{lines}{more}", retryable=retryable)
        )

    def _settle(self, error: EchoError) -> None:
        if not self._result.done():
            self._result.set_exception(error)


def pins_in(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the keys that the settings of a transport pin."""
    pinned = settings.get("fingerprint") or ()
    return (pinned,) if isinstance(pinned, str) else tuple(pinned)


def _check_key(connection: Connection, address: Address, service: ServiceInfo) -> None:
    """Raise TransportError where the key is another one than was announced: somebody's announcement, or server, is false."""
    announced = service.get_property(FINGERPRINT)
    identity: Any = connection.peer_identity
    if announced and identity is not None and identity.fingerprint != announced:
        _refuse(address, f"its key is {identity.fingerprint}, announced was {announced}")


def _refuse(address: Address, why: str) -> NoReturn:
    raise TransportError(f"{address}: {why}", retryable=False)
