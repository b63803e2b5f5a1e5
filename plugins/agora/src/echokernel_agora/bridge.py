"""The bridge: sessions of a node are agents of its router, beside those that speak WebSocket."""

from __future__ import annotations

import contextvars
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import anyio
from msgspec import Raw

from echokernel import HandlerError, InvalidArgument, Session, event, rpc
from echokernel.tasks import current_backend, open_tasks
from echokernel_agora.controls import page
from echokernel_agora.crossing import AgentPage, ListQuery, Outgoing, Registered, Registration, checked
from echokernel_agora.principal import Principal
from echokernel_agora.seat import Seat
from echokernel_protocol.codes import Code

if TYPE_CHECKING:
    from echokernel import ServerBuilder, ServerContext
    from echokernel.tasks import Future, Task, TaskScope
    from echokernel_agora.router import Router

__all__ = ["HANDLERS", "AgoraBridge", "who_is"]

KEY = "agora.bridge"
ANONYMOUS = Principal("local", anonymous=True)


def who_is(session: Session) -> Principal:
    """Return who a session speaks for: whom an authenticator or its certificate says, else nobody in particular."""
    if session.principal is not None:
        return Principal(session.principal)
    if session.peer_identity is not None:
        return Principal(session.peer_identity.fingerprint)
    return ANONYMOUS


class AgoraBridge:
    """Lets the sessions of a node be agents: ``EchoServer.builder().plugin(AgoraBridge(router))``.

    A node whose configuration has the service ``agora`` has one already. ``principal_of(session)`` says who a session is, by
    default as :func:`who_is` does, or raises PermissionDenied; it is called when the session first asks for anything.
    """

    name = "agora-bridge"

    def __init__(self, router: Router, *, principal_of: Callable[[Session], Principal] | None = None) -> None:
        self.router = router
        """Where the agents meet."""
        self.principal_of = principal_of or who_is
        self._seats: dict[Session, Seat] = {}
        self._tasks: TaskScope | None = None
        self._context = contextvars.Context()
        self._scope: anyio.CancelScope | None = None  # it can only be made where a loop runs
        self._ended = anyio.Event()
        self._owner: object = None

    def install(self, builder: ServerBuilder) -> ServerBuilder:
        """Add the handlers, and this as a service."""
        for handler in HANDLERS:
            builder.add_handler(handler)
        return builder.service(self)

    # --- a service -----------------------------------------------------------------------------------------------

    async def start(self, context: ServerContext) -> None:
        """Take sessions."""
        if self._owner is not None:
            raise InvalidArgument("this bridge has run already; make another one")
        context.set(KEY, self)
        self._scope, ready = anyio.CancelScope(), anyio.Event()
        if current_backend() == "asyncio":
            import asyncio

            self._owner = asyncio.create_task(self._run(self._scope, ready), name="agora bridge")
        else:
            import trio

            self._owner = trio.lowlevel.spawn_system_task(self._run, self._scope, ready, name="agora bridge")
        await ready.wait()

    async def stop(self) -> None:
        """Take no session any more; those that are agents are none from now on."""
        for seat in list(self._seats.values()):
            seat.leave("the router stops")
        if self._scope is not None:
            self._scope.cancel()
            await self._ended.wait()

    async def _run(self, scope: anyio.CancelScope, ready: anyio.Event) -> None:
        try:
            with scope:
                async with open_tasks() as tasks:
                    # a stream that a request started outlives it: no deadline and no metadata of a handler's belongs to it
                    self._tasks, self._context = tasks, contextvars.copy_context()
                    ready.set()
                    while True:
                        await anyio.sleep(1)
                        self.router.tick()
                        for seat in list(self._seats.values()):
                            seat.check_stuck()
        finally:
            self._tasks = None
            self._ended.set()

    @property
    def is_running(self) -> bool:
        """Whether sessions are taken."""
        return self._tasks is not None

    # --- for seats -----------------------------------------------------------------------------------------------

    def start_task(self, function: Callable[..., Any], *, name: str) -> Task:
        """Start a task that belongs to no handler."""
        return self._scope_of_tasks.start(function, name=name, context=self._context.copy())

    def stop_task(self, task: Task) -> None:
        """Cancel such a task."""
        if self._tasks is not None:
            self._tasks.stop(task)

    def future(self) -> Future[Any]:
        """Return a future for one waiting task."""
        return self._scope_of_tasks.future()

    def now(self) -> float:
        """Return monotonic seconds."""
        return self._scope_of_tasks.now()

    def forget(self, seat: Seat) -> None:
        """A seat is over."""
        if self._seats.get(seat.session) is seat:
            del self._seats[seat.session]

    @property
    def _scope_of_tasks(self) -> TaskScope:
        if self._tasks is None:
            raise HandlerError("the router of this node has stopped", code=Code.FAILED_PRECONDITION)
        return self._tasks

    # --- for handlers --------------------------------------------------------------------------------------------

    def seat(self, session: Session) -> Seat:
        """Return a session's place at the router. Raises PermissionDenied, HandlerError while the node stops."""
        seat = self._seats.get(session)
        if seat is None:
            tasks = self._scope_of_tasks
            if session.closed is not None:
                raise session.closed.with_traceback(None)
            seat = self._seats[session] = Seat(self, session)
            tasks.start(seat.watch, name="agora: session", context=self._context.copy())
        return seat


def _seat(session: Session) -> Seat:
    bridge: AgoraBridge | None = session.server_ctx.get(KEY)
    if bridge is None:
        raise HandlerError(
            'this node has no router of agents; its configuration needs [service.agents] with use = "agora"',
            code=Code.FAILED_PRECONDITION,
        )
    return bridge.seat(session)


@rpc("agora.register")
async def register(session: Session, registration: Registration) -> Registered:
    """Make the session an agent, or change what is known of it."""
    fields: dict[str, Any] = {"type": "register", "id": registration.id, "name": registration.name}
    if registration.endpoint is not None:
        fields["endpoint"] = registration.endpoint
    if registration.capabilities:
        fields["capabilities"] = registration.capabilities
    if registration.card is not None:
        fields["card"] = Raw(checked(registration.card, "the card"))
    seat = _seat(session)
    fields["features"] = ["receipt", "credit", "presence"]
    answer = seat.ask(fields)
    if "presence" in seat.peer.features:
        seat.ask({"type": "watch" if registration.watch else "unwatch"})
    return Registered(answer.id or registration.id, seat.router.limits.max_frame)


@rpc("agora.leave")
async def leave(session: Session) -> None:
    """Be no agent any more; the session goes on."""
    _seat(session).leave("it left")


@rpc("agora.list")
async def list_agents(session: Session, query: ListQuery | None) -> AgentPage:
    """Return the agents that the session may see; whoever asks need not be one."""
    fields: dict[str, Any] = {"type": "list"}
    if query is not None:
        about = {"limit": query.limit, "cursor": query.cursor, "capability": query.capability}
        fields |= {name: value for name, value in about.items() if value is not None}
        if query.card:
            fields["card"] = True
    return page(_seat(session).ask(fields))


@rpc("agora.send")
async def send(session: Session, message: Outgoing) -> str:
    """Send a message. Returns "delivered" when the receiver's connection has it, "stored" where that may come back."""
    return await _seat(session).send(message)


@event("agora.send")
async def tell(session: Session, message: Outgoing) -> None:
    """Send a message; what goes wrong comes as an event ``agora.error``. Those for one receiver keep their order."""
    _seat(session).post(message)


@rpc("agora.flush")
async def flush(session: Session, to: str) -> None:
    """Return when the router has all messages for an agent that came as events."""
    await _seat(session).flush(to)


@rpc("agora.stream")
async def stream(session: Session, start: Outgoing, chunks: AsyncIterator[bytes]) -> str:
    """Send a stream of chunks, JSON strings. Returns when the receiver's connection has its end."""
    return await _seat(session).stream(start, chunks)


HANDLERS = (register, leave, list_agents, send, tell, flush, stream)
"""What a node with a bridge handles; the agent's side calls the same functions."""
