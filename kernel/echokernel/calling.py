"""Calling with types: the handler's own function, or a Protocol class, says what goes there and what comes back."""

from __future__ import annotations

import inspect
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, overload

from echokernel.errors import InvalidArgument
from echokernel.handlers import FunctionHandler, item_type, resolve_hints

if TYPE_CHECKING:
    from echokernel.session import Session
    from echokernel.streaming import StreamingCall

P = ParamSpec("P")
T = TypeVar("T")

__all__ = ["DEFAULT", "CallOptions", "Caller", "TypedCalls"]


@dataclass(frozen=True, slots=True)
class CallOptions:
    """What is said beside a call's arguments; as in :meth:`Session.request`."""

    timeout: float | None = None
    idempotent: bool = False
    metadata: Mapping[str, str] | None = None
    isolated: bool = False


DEFAULT = CallOptions()


class TypedCalls:
    """What sessions and clients share: calls by the function that handles them at the other end."""

    __slots__ = ()

    def _call(self, handler: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: CallOptions) -> Any:
        raise NotImplementedError

    def _own_options(self) -> CallOptions:
        return DEFAULT

    # mypy: an AsyncIterator could be awaitable, too; none is
    @overload
    def call(  # type: ignore[overload-overlap]
        self, handler: FunctionHandler[Concatenate[Session, P], AsyncIterator[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> StreamingCall: ...
    @overload
    def call(  # type: ignore[overload-overlap]
        self, handler: FunctionHandler[P, AsyncIterator[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> StreamingCall: ...
    @overload
    def call(
        self, handler: FunctionHandler[Concatenate[Session, P], Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, T]: ...
    @overload
    def call(
        self, handler: FunctionHandler[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, T]: ...
    @overload
    def call(
        self, handler: FunctionHandler[Concatenate[Session, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, T]: ...
    @overload
    def call(self, handler: FunctionHandler[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]: ...

    def call(self, handler: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call the handler of this name at the other end: ``await client.call(add, 10, 20)`` instead of ``add(10, 20)``.

        ``handler``: what ``@rpc`` or ``@event`` made, the very function or one with the same signature; without the session,
        if it takes one. Its annotations are the types of what is sent and received. An event returns once it is on its way.
        A handler that yields makes a :class:`~echokernel.streaming.StreamingCall`; many values that it takes are an argument,
        any iterable or async iterable. Deadlines and metadata: :meth:`with_options`.

        The first call of a method brings along what its types look like: a peer whose own are different answers
        InvalidArgument with both signatures, and runs nothing. Otherwise raises what :meth:`Session.request` does.
        """
        return self._call(handler, args, kwargs, self._own_options())

    def with_options(
        self,
        *,
        timeout: float | None = None,
        idempotent: bool = False,
        metadata: Mapping[str, str] | None = None,
        isolated: bool = False,
    ) -> Caller:
        """Return what calls with these: ``await client.with_options(timeout=2).call(add, 10, 20)``.

        They mean what they mean in :meth:`Session.request`. ``idempotent`` and ``isolated`` are for single answers.
        """
        return Caller(self, CallOptions(timeout, idempotent, metadata, isolated))

    def proxy(self, protocol: Callable[..., T], prefix: str = "") -> T:
        """Return an object with the methods of a class; each is called at the other end, under ``prefix`` and its name.

        ``protocol``: a ``typing.Protocol``, or any class, whose methods have annotations: ``async def`` for a single answer,
        ``def`` that returns ``AsyncIterator[T]`` (or an async generator) for many. Methods decorated with ``@rpc("name")`` or
        ``@event`` are called by that name. Raises InvalidArgument for a class without methods, and for methods that no
        handler could have.
        """
        proxy: T = _make_proxy(self, protocol, prefix)
        return proxy


class Caller(TypedCalls):
    """A session or client with options for what is called through it; made by :meth:`TypedCalls.with_options`."""

    __slots__ = ("_options", "_source")

    def __init__(self, source: TypedCalls, options: CallOptions) -> None:
        self._source = source
        self._options = options

    def _call(self, handler: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: CallOptions) -> Any:
        return self._source._call(handler, args, kwargs, options)

    def _own_options(self) -> CallOptions:
        return self._options

    def __repr__(self) -> str:
        return f"<Caller of {self._source!r} with {self._options!r}>"


def _make_proxy(calls: TypedCalls, protocol: Any, prefix: str) -> Any:
    members: dict[str, Any] = {}
    for base in reversed(inspect.getmro(protocol)):
        if base.__module__ not in ("typing", "builtins", "typing_extensions", "abc"):
            members |= {name: member for name, member in vars(base).items() if not name.startswith("_")}
    handlers = {name: _handler(name, member, prefix) for name, member in members.items() if _is_method(member)}
    if not handlers:
        raise InvalidArgument(f"{protocol!r} has no methods; a proxy needs a class that names some")
    namespace = {name: _forward(calls, name, handler) for name, handler in handlers.items()}
    return type(f"{protocol.__name__}Proxy", (), {"__slots__": (), "__doc__": protocol.__doc__, **namespace})()


def _is_method(member: Any) -> bool:
    return isinstance(member, FunctionHandler) or inspect.isfunction(member)


def _handler(name: str, member: Any, prefix: str) -> FunctionHandler[Any, Any]:
    """Return the stub of a class's method; nothing is ever run with the object that it is bound to."""
    if isinstance(member, FunctionHandler):
        bound = member.__get__(object())
        bound.name = prefix + member.name
        return bound
    method = types.MethodType(member, object())
    yields = not inspect.iscoroutinefunction(member) and item_type(_result(member)) is not None
    return (_Yielding if yields else FunctionHandler)(method, "rpc", prefix + name)


def _result(method: Any) -> Any:
    try:
        return resolve_hints(method).get("return")
    except Exception:
        return None  # its first call says what cannot be resolved


class _Yielding(FunctionHandler[Any, Any]):
    """A method that is declared to return an async iterator: its implementation is an async generator."""

    def __init__(self, function: Any, kind: Any, name: str) -> None:
        super().__init__(function, kind, name)
        self.yields = True


def _forward(calls: TypedCalls, name: str, handler: FunctionHandler[Any, Any]) -> Any:
    def forward(self: object, /, *args: Any, **kwargs: Any) -> Any:
        return calls.call(handler, *args, **kwargs)

    forward.__name__ = name
    forward.__doc__ = handler.__doc__
    return forward
