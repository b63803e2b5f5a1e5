"""The table of what a node can handle: names to handlers, bound to serializers once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from echokernel.errors import InvalidArgument
from echokernel.handlers import FunctionHandler, Kind, Runner
from echokernel.serializer import RawSerializer
from echokernel_protocol.frames import check_method

if TYPE_CHECKING:
    from echokernel.serializer import Serializer
    from echokernel.session import Session

__all__ = ["BoundMethods", "MethodTable"]


@dataclass(frozen=True, slots=True)
class BoundMethods:
    """The table as one session sees it: handlers by name, for each a runner per serializer slot; slot 0 is raw."""

    rpcs: dict[str, tuple[Runner, ...]]
    events: dict[str, tuple[Runner, ...]]
    concurrent: frozenset[str]
    """Events whose handlers run in tasks of their own."""
    streams: dict[str, Callable[..., Any]]


class MethodTable:
    """Handlers of one node, by kind and name."""

    def __init__(self) -> None:
        self._handlers: dict[tuple[Kind, str], Any] = {}
        self._bound: dict[tuple[str, ...], BoundMethods] = {}

    def add(self, kind: Kind, handler: Any) -> None:
        """Add a handler. Raises InvalidArgument for a name that is not valid or is taken."""
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
        taken = self._handlers.get((kind, name))
        if taken is not None:
            raise InvalidArgument(f"two {kind} handlers are called {name!r}: {taken!r} and {handler!r}")
        if isinstance(handler, FunctionHandler):
            _ = handler.signature  # a wrong annotation is reported when the handler is added
        self._handlers[kind, name] = handler
        self._bound.clear()

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
        bound = self._bound.get(key)
        if bound is None:
            tables: dict[str, dict[str, Any]] = {"rpc": {}, "event": {}, "stream": {}}
            for (kind, name), handler in self._handlers.items():
                if kind == "stream":
                    tables[kind][name] = handler.run_stream if isinstance(handler, FunctionHandler) else handler.handle
                elif isinstance(handler, FunctionHandler):
                    tables[kind][name] = (_bind_raw(handler), *(handler.bind(serializer) for serializer in serializers))
                else:
                    tables[kind][name] = (handler.handle,) * (1 + len(serializers))
            concurrent = frozenset(
                name
                for (kind, name), handler in self._handlers.items()
                if kind == "event" and getattr(handler, "concurrent", False)
            )
            bound = self._bound[key] = BoundMethods(tables["rpc"], tables["event"], concurrent, tables["stream"])
        return bound


def _bind_raw(handler: FunctionHandler[Any, Any]) -> Runner:
    try:
        return handler.bind(RawSerializer())
    except InvalidArgument as error:
        message = str(error)

        async def refuse(session: Session, payload: bytes) -> bytes:
            raise InvalidArgument(message)

        return refuse
