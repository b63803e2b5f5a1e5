"""The table of what a node can handle: names to handlers, bound to serializers once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from echokernel.errors import InvalidArgument
from echokernel.handlers import FunctionHandler, Kind, Runner, StreamingRunner
from echokernel.serializer import RawSerializer
from echokernel_protocol.frames import check_method

if TYPE_CHECKING:
    from typing import Self

    from echokernel.handlers import EventHandler, Exchange, RpcHandler, StreamHandler
    from echokernel.serializer import Serializer
    from echokernel.session import Session

__all__ = ["BoundMethods", "HandlerOwner", "MethodTable"]


@dataclass(slots=True)
class BoundMethods:
    """The table as sessions see it: handlers by name, for each a runner per serializer slot; slot 0 is raw.

    Sessions with the same serializers share one. It changes in place when handlers come and go; ``version`` then grows.
    """

    rpcs: dict[str, tuple[Runner, ...]] = field(default_factory=dict)
    streaming: dict[str, tuple[StreamingRunner, ...]] = field(default_factory=dict)
    """Requests that take or answer with many values; no name is in ``rpcs`` as well."""
    events: dict[str, tuple[Runner, ...]] = field(default_factory=dict)
    concurrent: set[str] = field(default_factory=set)
    """Events whose handlers run in tasks of their own."""
    streams: dict[str, Callable[..., Any]] = field(default_factory=dict)
    version: int = 0

    def put(self, kind: Kind, handler: Any, serializers: Sequence[Serializer]) -> None:
        """Add a handler. Raises InvalidArgument for a type that a serializer cannot express, and changes nothing then."""
        name: str = handler.name
        if kind == "stream":
            self.streams[name] = handler.run_stream if isinstance(handler, FunctionHandler) else handler.handle
        elif is_streaming(handler):
            self.streaming[name] = _bind_streaming(handler, serializers)
        else:
            runners = _bind(handler, serializers)
            (self.rpcs if kind == "rpc" else self.events)[name] = runners
            if kind == "event" and getattr(handler, "concurrent", False):
                self.concurrent.add(name)
        self.version += 1

    def drop(self, kind: Kind, name: str) -> None:
        """Forget a handler; what it is handling goes on."""
        if kind == "stream":
            self.streams.pop(name, None)
        elif kind == "rpc":
            self.rpcs.pop(name, None)
            self.streaming.pop(name, None)
        else:
            self.events.pop(name, None)
            self.concurrent.discard(name)
        self.version += 1


def is_streaming(handler: Any) -> bool:
    """Whether a handler of requests takes or answers with many values."""
    if isinstance(handler, FunctionHandler):
        return handler.is_streaming
    return inspect.isasyncgenfunction(handler.handle)


class MethodTable:
    """Handlers of one node, by kind and name."""

    def __init__(self) -> None:
        self._handlers: dict[tuple[Kind, str], Any] = {}
        self._bound: dict[tuple[str, ...], tuple[Sequence[Serializer], BoundMethods]] = {}
        self.version = 0
        """Grows with every change."""

    def add(self, kind: Kind, handler: Any) -> None:
        """Add a handler; sessions that are open see it at once.

        Raises InvalidArgument for a name that is not valid or is taken, and for a type that cannot be expressed.
        """
        actual = getattr(handler, "__echokernel_kind__", kind)
        if actual != kind:
            raise InvalidArgument(f"{handler!r} handles {actual}s; add it with add_{actual}")
        name = getattr(handler, "name", None)
        if not isinstance(name, str) or not callable(getattr(handler, "handle", None)):
            raise InvalidArgument(
                f"{handler!r} is no handler: wanted a function decorated with @{kind}, or an object with name and handle"
            )
        try:
            check_method(name)
        except ValueError as error:
            raise InvalidArgument(str(error)) from None
        if name.startswith("$"):
            raise InvalidArgument(f"{name!r}: names that begin with $ belong to the kernel")
        taken = self._handlers.get((kind, name))
        if taken is not None:
            raise InvalidArgument(f"two {kind} handlers are called {name!r}: {taken!r} and {handler!r}")
        if isinstance(handler, FunctionHandler):
            _ = handler.signature  # a wrong annotation is reported when the handler is added
        done = []
        try:
            for serializers, bound in self._bound.values():
                bound.put(kind, handler, serializers)
                done.append(bound)
        except BaseException:
            for bound in done:
                bound.drop(kind, name)
            raise
        self._handlers[kind, name] = handler
        self.version += 1

    def remove(self, kind: Kind, name: str) -> Any:
        """Forget a handler and return it; what it is handling goes on. Raises InvalidArgument where there is none."""
        handler = self._handlers.pop((kind, name), None)
        if handler is None:
            known = ", ".join(self.names(kind)) or "none"
            raise InvalidArgument(f"no {kind} handler is called {name!r}; there are: {known}")
        for _, bound in self._bound.values():
            bound.drop(kind, name)
        self.version += 1
        return handler

    def find(self, kind: Kind, name: str) -> Any:
        """Return a handler, None where there is none."""
        return self._handlers.get((kind, name))

    def __len__(self) -> int:
        return len(self._handlers)

    def __iter__(self) -> Iterator[tuple[Kind, str, Any]]:
        """Yield kind, name and handler of each."""
        return iter([(kind, name, handler) for (kind, name), handler in self._handlers.items()])

    def names(self, kind: Kind) -> list[str]:
        """Return the names of one kind, sorted."""
        return sorted(name for found, name in self._handlers if found == kind)

    def check(self, serializers: Sequence[Serializer]) -> None:
        """Raise InvalidArgument for a type that one of the serializers cannot express."""
        self.bind(serializers)

    def bind(self, serializers: Sequence[Serializer]) -> BoundMethods:
        """Return the handlers bound to the serializers of slots 1, 2, 3; made once per combination."""
        key = tuple(serializer.name for serializer in serializers)
        entry = self._bound.get(key)
        if entry is None:
            bound = BoundMethods()
            for (kind, _), handler in self._handlers.items():
                bound.put(kind, handler, serializers)
            entry = self._bound[key] = (tuple(serializers), bound)
        return entry[1]


class HandlerOwner:
    """Adds and removes handlers: what builders, servers and clients share. While a node runs, open sessions see the change
    at once; what a removed handler is handling goes on to its end.
    """

    @property
    def _methods(self) -> MethodTable:
        raise NotImplementedError

    def add_rpc(self, handler: RpcHandler) -> Self:
        """Answer requests with what ``@rpc`` made, or an object with ``name`` and ``handle``.

        Raises InvalidArgument for a name that is taken, and for types that a serializer cannot express.
        """
        self._methods.add("rpc", handler)
        return self

    def add_event(self, handler: EventHandler) -> Self:
        """Take events with what ``@event`` made, or an object with ``name`` and ``handle``."""
        self._methods.add("event", handler)
        return self

    def add_stream(self, handler: StreamHandler) -> Self:
        """Take streams with what ``@stream`` made, or an object with ``name`` and ``handle``."""
        self._methods.add("stream", handler)
        return self

    def add_handler(self, handler: Any) -> Self:
        """Add what one of the three decorators made."""
        kind = getattr(handler, "__echokernel_kind__", None)
        if kind is None:
            raise InvalidArgument(f"{handler!r} does not say what it handles; use add_rpc, add_event or add_stream")
        self._methods.add(kind, handler)
        return self

    def remove_rpc(self, name: str) -> None:
        """Answer no more requests of this name: they get MethodNotFound. Raises InvalidArgument where there is none."""
        self._methods.remove("rpc", name)

    def remove_event(self, name: str) -> None:
        """Take no more events of this name; those that wait are dropped. Raises InvalidArgument where there is none."""
        self._methods.remove("event", name)

    def remove_stream(self, name: str) -> None:
        """Take no more streams of this name: they are refused. Raises InvalidArgument where there is none."""
        self._methods.remove("stream", name)


def _bind(handler: Any, serializers: Sequence[Serializer]) -> tuple[Runner, ...]:
    if isinstance(handler, FunctionHandler):
        return (_bind_raw(handler), *(handler.bind(serializer) for serializer in serializers))
    return (handler.handle,) * (1 + len(serializers))


def _bind_streaming(handler: Any, serializers: Sequence[Serializer]) -> tuple[StreamingRunner, ...]:
    if isinstance(handler, FunctionHandler):
        try:
            raw = handler.bind_streaming(RawSerializer())
        except InvalidArgument as error:
            raw = _refusing_streaming(str(error))
        return (raw, *(handler.bind_streaming(serializer) for serializer in serializers))

    async def run(session: Session, payload: bytes, exchange: Exchange) -> None:
        async with aclosing(handler.handle(session, payload)) as answers:
            async for answer in answers:
                await exchange.send(answer)

    return (run,) * (1 + len(serializers))


def _refusing_streaming(message: str) -> StreamingRunner:
    async def refuse(session: Session, payload: bytes, exchange: Exchange) -> None:
        raise InvalidArgument(message)

    return refuse


def _bind_raw(handler: FunctionHandler[Any, Any]) -> Runner:
    try:
        return handler.bind(RawSerializer())
    except InvalidArgument as error:
        message = str(error)

        async def refuse(session: Session, payload: bytes) -> bytes:
            raise InvalidArgument(message)

        return refuse
