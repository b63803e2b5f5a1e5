"""A client that connects again when its connection is lost. One task of its own dials, and lives through each session.

Handlers, middleware, callbacks and the context belong to the client; every session is a new one. What was sent before the
loss fails as everywhere; what is asked while there is no session waits for the next one, within its deadline.
"""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Coroutine, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import anyio

from echokernel.client import CLOSE_SECONDS, EchoClient, _ask
from echokernel.engine import inherited
from echokernel.engine.deadlines import check_timeout
from echokernel.engine.flow_options import BUFFER_FRAMES
from echokernel.engine.hello import dial_session
from echokernel.engine.later_calls import LaterStreamingCall
from echokernel.errors import ConnectionClosed, EchoError, InvalidArgument, Overloaded, RequestTimeout
from echokernel.handlers import FunctionHandler
from echokernel.reconnect import is_final
from echokernel.tasks import open_tasks
from echokernel_protocol.codes import Code

if TYPE_CHECKING:
    from echokernel.addresses import Address
    from echokernel.calling import CallOptions
    from echokernel.client import Credentials
    from echokernel.engine.node import Node
    from echokernel.flows import Delivery, OnFull, StreamSender
    from echokernel.reconnect import Notice, Reconnecting
    from echokernel.session import Session
    from echokernel.streaming import Items, StreamingCall
    from echokernel.tasks import Future, TaskScope
    from echokernel.transport import Transport
    from echokernel_protocol.describe import Description, Health

WAIT_SECONDS = 30.0  # what may wait without a deadline of its own does so no longer, where the node has no default
MAX_WAITING = 16_384  # calls that wait for a connection: room for a busy program, an end for one that starts more and more
CALLBACK_SECONDS = 5.0  # a callback that hangs must not keep the client from connecting
MAX_PAUSE = 3_600.0  # seconds; a policy or a server that asks for more is not obeyed

logger = logging.getLogger("echokernel.client")

__all__ = ["ReconnectingClient"]


class ReconnectingClient(EchoClient):
    """An :class:`EchoClient` with a reconnect policy."""

    def __init__(
        self, node: Node, address: Address, transport: Transport, credentials: Credentials, how: Reconnecting
    ) -> None:
        assert how.policy is not None
        super().__init__(node, address, transport, credentials)
        self._how = how
        self._policy = how.policy
        self._live: Session | None = None
        """The session that can be used; None while there is none."""
        self._changed = anyio.Event()
        """Set, and replaced, when a session can be used or there will be none any more."""
        self._waiting = 0
        self._why = "connecting"
        self._ended: ConnectionClosed | None = None
        """Why there will be no session any more."""
        self._leaving = False
        self._hint = anyio.Event()
        self._dialling: anyio.CancelScope | None = None
        self._lost_at: float | None = None

    # --- what a client does ------------------------------------------------------------------------------------

    # With a session, requests and events cost one look more than without a policy.

    def request(
        self,
        method: str,
        value: Any = None,
        *,
        timeout: float | None = None,
        returns: Any = Any,
        idempotent: bool = False,
        metadata: Mapping[str, str] | None = None,
        isolated: bool = False,
    ) -> Coroutine[Any, Any, Any]:
        session = self._live
        if session is None or session._calls.stopped is not None:
            return self._request_later(method, value, timeout, returns, idempotent, metadata, isolated)
        return session.request(
            method,
            value,
            timeout=timeout,
            returns=returns,
            idempotent=idempotent,
            metadata=metadata,
            isolated=isolated,
        )

    async def _request_later(
        self,
        method: str,
        value: Any,
        timeout: float | None,
        returns: Any,
        idempotent: bool,
        metadata: Mapping[str, str] | None,
        isolated: bool,
    ) -> Any:
        check_timeout(method, timeout)
        limit = self._node.limits.default_timeout if timeout is None else timeout
        began = anyio.current_time()
        session = await self._connected(method, limit)
        if limit:
            timeout = max(0.001, limit - (anyio.current_time() - began))
        return await session.request(
            method,
            value,
            timeout=timeout,
            returns=returns,
            idempotent=idempotent,
            metadata=metadata,
            isolated=isolated,
        )

    def request_stream(
        self,
        method: str,
        value: Any = None,
        *,
        items: Items | None = None,
        sends: bool = False,
        timeout: float | None = None,
        returns: Any = Any,
        metadata: Mapping[str, str] | None = None,
    ) -> StreamingCall:
        session = self._live
        if session is not None and session._calls.stopped is None:
            return session.request_stream(
                method, value, items=items, sends=sends, timeout=timeout, returns=returns, metadata=metadata
            )
        check_timeout(method, timeout)

        def make(session: Session) -> StreamingCall:
            return session.request_stream(
                method, value, items=items, sends=sends, returns=returns, metadata=metadata
            )

        return LaterStreamingCall(self._connected_soon, make, method, items, sends, timeout)

    def _call(self, handler: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: CallOptions) -> Any:
        session = self._live
        if session is not None and session._calls.stopped is None:
            return session._call(handler, args, kwargs, options)
        if not isinstance(handler, FunctionHandler) or not handler.yields:
            return self._call_later(handler, args, kwargs, options)
        check_timeout(handler.name, options.timeout)

        def make(session: Session) -> StreamingCall:
            call: StreamingCall = session._call(handler, args, kwargs, options)
            return call

        return LaterStreamingCall(self._connected_soon, make, handler.name, None, handler.takes_items, options.timeout)

    async def _call_later(
        self, handler: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: CallOptions
    ) -> Any:
        name = str(getattr(handler, "name", handler))
        timeout = options.timeout
        check_timeout(name, timeout)
        limit = self._node.limits.default_timeout if timeout is None else timeout
        began = anyio.current_time()
        session = await self._connected(name, limit)
        if limit:
            timeout = max(0.001, limit - (anyio.current_time() - began))
        return await session._call(handler, args, kwargs, replace(options, timeout=timeout))

    def emit(
        self,
        event: str,
        value: Any = None,
        *,
        metadata: Mapping[str, str] | None = None,
        reliable: bool = True,
        fallback: bool = False,
    ) -> Coroutine[Any, Any, None]:
        session = self._live
        if session is None or session._calls.stopped is not None:
            return self._emit_later(event, value, metadata, reliable, fallback)
        return session.emit(event, value, metadata=metadata, reliable=reliable, fallback=fallback)

    async def _emit_later(
        self, event: str, value: Any, metadata: Mapping[str, str] | None, reliable: bool, fallback: bool
    ) -> None:
        if not reliable:  # it never waits, and would be stale
            self._check()
            raise ConnectionClosed(f"{event}: not connected now ({self._why}); nothing was sent")
        session = await self._connected_soon(event)
        await session.emit(event, value, metadata=metadata)

    async def create_stream(
        self,
        name: str,
        *,
        delivery: Delivery = "reliable",
        max_age: float | None = None,
        on_full: OnFull = "wait",
        buffer: int = BUFFER_FRAMES,
        metadata: Mapping[str, str] | None = None,
    ) -> StreamSender:
        session = await self._connected_soon(name)
        return await session.create_stream(
            name, delivery=delivery, max_age=max_age, on_full=on_full, buffer=buffer, metadata=metadata
        )

    async def describe(self, *methods: str, schemas: bool = True, timeout: float | None = None) -> Description:
        session = await self._connected_soon("$describe", timeout)
        return await session.describe(*methods, schemas=schemas, timeout=timeout)

    async def health(self, timeout: float | None = None) -> Health:
        session = await self._connected_soon("$health", timeout)
        return await session.health(timeout)

    async def ping(self, timeout: float = 10.0) -> float:
        session = await self._connected_soon("ping", timeout)
        return await session.ping(timeout)

    @property
    def is_connected(self) -> bool:
        session = self._live
        return session is not None and session._calls.stopped is None

    @property
    def keeps_trying(self) -> bool:
        return self._how.first

    def reconnect_now(self) -> None:
        self._hint.set()

    async def close(self) -> None:
        if self._opened_by == anyio.get_current_task().id:
            await self._leave()
        else:
            self._stop()
            if self._live is not None:
                await self._live.close(Code.OK, "")  # the scope is closed by the task that entered it

    # --- waiting for a connection ------------------------------------------------------------------------------

    async def _connected_soon(self, what: str, timeout: float | None = None) -> Session:
        return await self._connected(what, timeout or self._node.limits.default_timeout or WAIT_SECONDS)

    async def _connected(self, what: str, limit: float) -> Session:
        """Return a session that takes something new, at once where there is one.

        ``limit``: seconds to wait, 0 for no end. Raises RequestTimeout, Overloaded, ConnectionClosed when there will be none.
        """
        session = self._live
        if session is not None and session._calls.stopped is None:
            return session
        end = anyio.current_time() + limit if limit else math.inf
        outer = inherited.deadline.get()
        if outer is not None:
            end = min(end, outer)
        if self._waiting >= MAX_WAITING:
            raise Overloaded(f"{what}: {MAX_WAITING:,} calls wait for a connection already; nothing was sent")
        self._waiting += 1
        try:
            with anyio.CancelScope(deadline=end):
                while True:
                    self._check()
                    session = self._live
                    if session is not None and session._calls.stopped is None:
                        return session
                    await self._changed.wait()
        finally:
            self._waiting -= 1
        raise RequestTimeout(f"{what}: not connected within its deadline ({self._why}); nothing was sent")

    def _check(self) -> None:
        if self._ended is not None:
            raise self._ended.with_traceback(None)

    def _wake(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    # --- life --------------------------------------------------------------------------------------------------

    async def _open(self) -> EchoClient:
        if self._tasks is not None:
            raise InvalidArgument("this client was connected already; make another one")
        self._opened_by = anyio.get_current_task().id
        tasks = self._tasks = open_tasks()
        await tasks.__aenter__()
        try:
            first: Future[None] = tasks.future()
            tasks.start(self._keep_connected, first, name="reconnect")
            await first
        except BaseException:
            self._stop()
            await tasks.__aexit__(None, None, None)  # shielded and bounded by itself
            raise
        return self

    async def _leave(self) -> None:
        tasks, self._tasks = self._tasks, None
        if tasks is None:
            return
        self._stop()
        try:
            with anyio.move_on_after(CLOSE_SECONDS, shield=True):
                if self._live is not None:
                    await self._live.close(Code.OK, "")
                await self._over.wait()
        finally:
            await tasks.__aexit__(None, None, None)  # shielded and bounded by itself

    def _stop(self) -> None:
        """Nothing is tried any more; a session that is open is closed by the caller."""
        self._leaving = True
        self._hint.set()
        if self._dialling is not None:
            self._dialling.cancel()

    async def _keep_connected(self, first: Future[None]) -> None:
        """The task of this client: it dials until the client is closed, or gives up."""
        # a handler may have dialled: its deadline and its metadata are none of what happens from now on
        inherited.deadline.set(None)
        inherited.metadata.set(None)
        error: Exception | None = None
        tries = 0
        try:
            error, tries = await self._keep_trying(first)
        except Exception as fault:  # of the policy
            logger.error("the reconnect policy failed: %s", type(fault).__name__, exc_info=fault)
            error = fault
        finally:
            await self._finish(first, error, tries)

    async def _keep_trying(self, first: Future[None]) -> tuple[Exception | None, int]:
        """Return why there will be no session any more, None for an end that this program chose, and the tries it took."""
        attempt = 0
        while True:
            error, session = await self._live_once(first)
            pause = 0.0
            if session is not None:
                attempt, self._lost_at = 0, anyio.current_time()
                goaway = session._channel.goaway
                if goaway is not None:
                    pause = goaway.retry_after / 1000
            if self._leaving or (session is not None and session.closed_here):
                return None, attempt
            if is_final(error) or (self._lost_at is None and not self._how.first):
                return error, attempt
            delay = self._policy.next_delay(attempt + 1, error)
            if delay is None:
                return error, attempt
            if not delay >= 0:
                raise InvalidArgument(f"the reconnect policy wants a pause of {delay} s; wanted 0 or more, or None")
            attempt += 1
            await self._pause(attempt, min(delay + pause, MAX_PAUSE), error)

    async def _pause(self, attempt: int, delay: float, error: Exception) -> None:
        self._why = f"{error}; try {attempt} to connect again"
        logger.info("%s: %s; try %d to connect in %.1f s", self._address, _said(error), attempt, delay)
        self._hint = anyio.Event()
        if self._leaving:
            return
        await self._tell(self._how.on_reconnecting, attempt, delay)
        if not self._leaving:
            with anyio.move_on_after(delay):
                await self._hint.wait()

    async def _live_once(self, first: Future[None]) -> tuple[Exception, Session | None]:
        """Dial, and stay until the session is over. Returns why it ended, and the session if there was one."""
        session: Session | None = None
        async with open_tasks() as tasks:
            over = anyio.Event()
            try:
                with anyio.CancelScope() as self._dialling, anyio.fail_after(self._policy.dial_timeout):
                    if self._leaving:
                        self._dialling.cancel()
                    session = await self._dial(tasks, over)
            except TimeoutError:
                return RequestTimeout(f"no connection to {self._address} within {self._policy.dial_timeout:g} s"), None
            except Exception as error:
                if not isinstance(error, EchoError):
                    logger.warning("connecting failed: %s", type(error).__name__, exc_info=error)
                return error, None
            finally:
                self._dialling = None
            if session is None:
                return ConnectionClosed("this client was closed while it connected", code=Code.CANCELLED), None
            self._live = session
            self._policy.connected()
            if not first.done():
                first.set_result(None)
            if self._lost_at is not None:
                gap = anyio.current_time() - self._lost_at
                logger.info("%s: connected again after %.1f s", self._address, gap)
                tasks.start(self._tell_reconnected, session, gap, name="on_reconnected")
            self._wake()
            try:
                await over.wait()
            finally:
                self._live = None
        assert session.closed is not None
        return session.closed, session

    async def _dial(self, tasks: TaskScope, over: anyio.Event) -> Session:
        """Return an open session; of one that is tried again also the early time is over: only then somebody has answered."""
        credentials = await _ask(self._credentials)
        connection = await self._transport.connect(self._address, tasks)
        session = await dial_session(connection, self._node, credentials)
        opened: Future[None] = tasks.future()
        tasks.start(self._live_through, session, opened, over, name="session")
        await opened
        if session._early is not None and (self._lost_at is not None or self._how.first):
            await session._early.over()
        return session

    async def _live_through(self, session: Session, opened: Future[None], over: anyio.Event) -> None:
        try:
            self._session = self.context().session = session  # it opens before anybody else has a turn
            await session.run(opened)
            with anyio.move_on_after(CALLBACK_SECONDS) as limit:
                await session._tell_disconnected()
            if limit.cancelled_caught:
                logger.warning("on_disconnect was given up after %g s", CALLBACK_SECONDS)
        finally:
            over.set()

    async def _tell_reconnected(self, session: Session, gap: float) -> None:
        await session.connected()
        if session.closed is None:
            await self._tell(self._how.on_reconnected, gap)

    async def _finish(self, first: Future[None], error: Exception | None, tries: int) -> None:
        """There will be no session any more: whoever waits learns it, and why."""
        never = not first.done()
        if error is None:
            self._ended = ConnectionClosed("this client was closed", code=Code.OK)
        else:
            tried = f" after {tries} {'try' if tries == 1 else 'tries'} to connect again" if tries else ""
            code = error.code if isinstance(error, EchoError) else int(Code.UNAVAILABLE)
            self._ended = ConnectionClosed(f"given up{tried}: {error}", code=code, retryable=False)
            self._ended.__cause__ = error
        if never:
            first.set_exception(error or self._ended)
        self._wake()
        try:
            if error is not None and not never:
                logger.warning("%s: given up: %s", self._address, _said(error))
                await self._tell(self._how.on_gave_up, error)
        finally:
            self._over.set()

    async def _tell(self, callbacks: list[Notice], *arguments: Any) -> None:
        for callback in callbacks:
            try:
                with anyio.move_on_after(CALLBACK_SECONDS) as limit:
                    result = callback(self.context(), *arguments)
                    if inspect.isawaitable(result):
                        await result
                if limit.cancelled_caught:
                    logger.warning("a callback about reconnecting was given up after %g s", CALLBACK_SECONDS)
            except Exception as error:
                logger.error("a callback about reconnecting failed: %s", type(error).__name__, exc_info=error)


def _said(error: Exception) -> str:
    """Return what a log line may hold: nothing of exceptions that are not ours, which may show credentials."""
    return str(error) if isinstance(error, EchoError) else type(error).__name__
