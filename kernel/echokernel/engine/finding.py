"""A transport for names instead of addresses: ``mdns://echo-server``. It finds candidates, and dials them in parallel.

What discovery says is a hint. A fingerprint in it can only rule a candidate out; whom to trust, the transport decides.
"""

from __future__ import annotations

import logging
from collections import deque
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
SECOND_SECONDS: Final = 1.5  # after the beginning: the second question has been answered by then
OTHERS_SECONDS: Final = 0.5  # after all that were found have failed
SEARCH_SECONDS: Final = 15.0  # for everything
DIAL_SECONDS: Final = 5.0  # for one candidate; who is on the same network answers within milliseconds
DIALS: Final = 16  # at a time: a flood of announcements must not become a flood of dials
MAX_CANDIDATES: Final = 256  # in one search
SHOWN: Final = 5  # failures that a message tells
FINGERPRINT: Final = "fp"

logger = logging.getLogger("echokernel.client")

_Candidate = tuple[Address, str]
"""Where to dial, and the key that was announced for it."""

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
        except BaseException:
            with anyio.CancelScope(shield=True):
                await search.drop_winner()
            raise
        finally:
            search.stop()


class _Search:
    """One search, and the dials that come of it."""

    def __init__(self, how: FindingTransport, address: Address, tasks: TaskScope) -> None:
        self._how = how
        self._address = address
        self._tasks = tasks
        self._result: Future[Connection] = tasks.future()
        self._winner: Connection | None = None
        self._seen: set[_Candidate] = set()
        self._waiting: deque[tuple[_Candidate, ServiceInfo]] = deque()
        self._dials: dict[_Candidate, Task] = {}
        self._open: dict[str, int] = {}  # ways to an instance that may still succeed
        self._failures: list[tuple[Address, EchoError]] = []
        self._passed_over: dict[_Candidate, str] = {}
        self._trouble: EchoError | None = None
        self._watch: Task | None = None
        self._ends = 0.0
        self._timer: Timer | None = None
        self._time_over = False

    async def run(self) -> Connection:
        tasks = self._tasks
        self._ends = tasks.now() + FIND_SECONDS
        self._watch = tasks.start(self._look, name=f"find {self._address.host}")
        self._timer = tasks.call_at(self._ends, self._time_is_over)
        with anyio.move_on_after(SEARCH_SECONDS):
            return await self._result
        raise self._failure(f"none of the candidates answered within {SEARCH_SECONDS:g} s")

    def stop(self) -> None:
        """End everything that is not the result."""
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
        for task in (self._watch, *self._dials.values()):
            if task is not None:
                self._tasks.stop(task)

    async def drop_winner(self) -> None:
        """Nobody takes the connection that was found."""
        if self._winner is not None:
            await self._winner.close(drain=0)

    async def _look(self) -> None:
        events = self._how._discovery.discover_events(self._address.host)
        try:
            async for event in events:
                if event.kind != "gone":
                    self._take(event.service)
        except EchoError as error:  # discovery itself does not work
            self._trouble = error
        except Exception as error:
            logger.error("discovery failed: %s", type(error).__name__, exc_info=error)
            self._trouble = TransportError(f"discovery failed: {type(error).__name__}: {error}")
        finally:
            close = getattr(events, "aclose", None)
            if close is not None:
                with anyio.CancelScope(shield=True):
                    await close()
        self._time_is_over()  # it will say no more

    def _take(self, service: ServiceInfo) -> None:
        announced = service.get_property(FINGERPRINT) or ""
        pins = self._how._pins
        for address in service.addresses:
            candidate = (
                address,
                announced,
            )  # another key at the same address is another announcement, perhaps a truer one
            if candidate in self._seen or candidate in self._passed_over:
                continue
            if len(self._seen) >= MAX_CANDIDATES or len(self._passed_over) >= MAX_CANDIDATES:
                return
            if self._how._scheme not in ("", address.scheme):
                self._passed_over[candidate] = f"only {self._how._scheme}:// is dialled"
            elif pins and announced and announced not in pins:
                self._passed_over[candidate] = f"it announces the key {announced}, which is not the pinned one"
            else:
                self._seen.add(candidate)
                self._open[service.instance] = self._open.get(service.instance, 0) + 1
                self._waiting.append((candidate, service))
        self._dial_more()

    def _dial_more(self) -> None:
        while self._waiting and len(self._dials) < DIALS and not self._result.done():
            candidate, service = self._waiting.popleft()
            self._dials[candidate] = self._tasks.start(self._dial, candidate, service, name=f"dial {candidate[0]}")

    async def _dial(self, candidate: _Candidate, service: ServiceInfo) -> None:
        connection: Connection | None = None
        address = candidate[0]
        try:
            with anyio.fail_after(DIAL_SECONDS):
                connection = await self._how._transport.connect(address, self._tasks)
                await connection.confirmed()  # one with early data has not reached anybody yet
            _check_key(connection, address, service)
            if not self._result.done():
                logger.debug("%s: found at %s", self._address, address)
                self._winner = connection
                self._result.set_result(connection)
                connection = None
        except TimeoutError:
            self._failed(address, service, TransportError(f"no connection within {DIAL_SECONDS:g} s"))
        except EchoError as error:
            self._failed(address, service, error)
        except Exception as error:  # of a transport
            logger.error("dialling %s failed: %s", address, type(error).__name__, exc_info=error)
            self._failed(address, service, TransportError(f"{type(error).__name__}: {error}", retryable=False))
        finally:
            self._dials.pop(candidate, None)
            if connection is not None:
                with anyio.CancelScope(shield=True):
                    await connection.close(drain=0)
        self._dial_more()
        self._judge()

    def _failed(self, address: Address, service: ServiceInfo, error: EchoError) -> None:
        self._failures.append((address, error))
        self._open[service.instance] -= 1
        if not self._open[service.instance] and error.retryable:
            try:
                self._how._discovery.suspect(service)
            except Exception as fault:  # of a discovery
                logger.error("discovery failed: %s", type(fault).__name__, exc_info=fault)

    def _judge(self) -> None:
        """Nothing is being dialled: is it over?"""
        if self._dials or self._waiting or self._result.done():
            return
        if self._time_over:
            self._give_up()
        elif self._timer is not None:  # whoever else is there answers the second question at the latest
            self._timer.cancel()
            ends = min(self._ends, max(self._tasks.now() + OTHERS_SECONDS, self._ends - FIND_SECONDS + SECOND_SECONDS))
            self._timer = self._tasks.call_at(ends, self._time_is_over)

    def _time_is_over(self) -> None:
        self._time_over = True
        if not self._dials and not self._waiting:
            self._give_up()

    def _give_up(self) -> None:
        if not self._result.done():
            self._result.set_exception(self._failure(""))

    def _failure(self, why: str) -> EchoError:
        """Return what kept the search from finding a node."""
        where, failures = self._address, self._failures
        found = [f"{address}: {error}" for address, error in failures]
        found += [f"{address}: {reason}" for (address, _), reason in self._passed_over.items()]
        if self._trouble is not None:
            found.append(str(self._trouble))
        if not found:
            why = why or (
                f"no {where.host!r} was found within {FIND_SECONDS:g} s; is it advertised here? See: echokernel discover"
            )
            return TransportError(f"{where}: {why}")
        retryable = any(error.retryable for _, error in failures) or (self._trouble is not None and not failures)
        if len(found) == 1:
            code, text = None, found[0]
            if failures:
                address, error = failures[0]
                code, text = error.code, str(error) if str(address) in str(error) else text
            return TransportError(f"{where}: {text}", code=code, retryable=retryable)
        more = f"\n  and {len(found) - SHOWN:,} more" if len(found) > SHOWN else ""
        lines = "".join(f"\n  {line}" for line in found[:SHOWN])
        return TransportError(f"{where}: {len(found):,} found, none could be used:{lines}{more}", retryable=retryable)


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
