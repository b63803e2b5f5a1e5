"""Handlers: what ``@rpc``, ``@event`` and ``@stream`` make of a function, and what a class may be instead.

An optional first parameter of type :class:`~echokernel.session.Session` gets the session of the caller; the parameters
after it are the payload: none is the unit value, one is that value, several are a tuple. An ``@rpc`` that is an async
generator answers with many values; its parameter annotated ``AsyncIterator[T]`` receives many.
"""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Generic, Literal, ParamSpec, Protocol, TypeVar, overload, runtime_checkable

from echokernel.engine.threads import run_in_thread
from echokernel.errors import InvalidArgument, SerializationError
from echokernel_protocol.frames import check_method

if TYPE_CHECKING:
    from echokernel.flows import StreamReceiver
    from echokernel.serializer import Serializer
    from echokernel.session import Session

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
Kind = Literal["rpc", "event", "stream"]
Runner = Callable[["Session", bytes], Awaitable[bytes]]
"""A handler bound to one serializer: payload in, payload out. Events return ``b""``."""
StreamingRunner = Callable[["Session", bytes, "Exchange"], Awaitable[None]]
"""A streaming handler bound to one serializer: reads items from the exchange, and sends its answers to it."""

_ITERATORS = (AsyncIterator, AsyncIterable, AsyncGenerator)

__all__ = ["EventHandler", "FunctionHandler", "RpcHandler", "StreamHandler", "event", "rpc", "stream"]


class Exchange(Protocol):
    """What a streaming handler reads from and answers to: payloads, not values."""

    def items(self, decode: Callable[[bytes], Any]) -> AsyncIterator[Any]:
        """The caller's items, decoded, as they are asked for; ends when the caller has sent its last one."""

    async def send(self, payload: bytes) -> None:
        """Send one answer; waits while the caller is behind."""


@runtime_checkable
class RpcHandler(Protocol):
    """Answers requests. An object with these two members is one; ``@rpc`` makes them from functions.

    Where ``handle`` is an async generator function, it answers a streaming request, and yields payloads.
    """

    name: str

    async def handle(self, session: Session, payload: bytes, /) -> bytes:
        """Return the response's payload for the request's payload."""


@runtime_checkable
class EventHandler(Protocol):
    """Takes events, one at a time and in order for each name."""

    name: str

    async def handle(self, session: Session, payload: bytes, /) -> object: ...


@runtime_checkable
class StreamHandler(Protocol):
    """Takes one stream that the peer opened."""

    name: str

    async def handle(self, session: Session, stream: StreamReceiver, /) -> object: ...


class FunctionHandler(Generic[P, R_co]):
    """A function that is a handler, and still a function: calling it calls the function."""

    def __init__(
        self, function: Callable[P, R_co], kind: Kind, name: str | None, *, inline: bool = False, concurrent: bool = False
    ) -> None:
        self.function = function
        self.kind = kind
        self.__echokernel_kind__ = kind
        self.name = name or function.__name__
        self.inline = inline
        self.concurrent = concurrent
        try:
            check_method(self.name)
        except ValueError as error:
            raise InvalidArgument(str(error)) from None
        if self.name.startswith("$"):
            raise InvalidArgument(f"{self.name!r}: names that begin with $ belong to the kernel")
        functools.update_wrapper(self, function)
        self._is_async = inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
        self._signature: tuple[bool, tuple[Any, ...], Any] | None = None
        self._shape: str | None = None
        self.yields = inspect.isasyncgenfunction(function)
        """Whether it answers with many values."""
        self._items_at = -1
        if inspect.isgeneratorfunction(function):
            raise InvalidArgument(f"{self._where}: a plain generator would block the loop; write async def with yield")
        if self.yields and kind != "rpc":
            raise InvalidArgument(f"{self._where}: only an @rpc answers, so only an @rpc can yield; this is an @{kind}")
        if inline and self._is_async:
            raise InvalidArgument(
                f"{self._where}: inline=True is for plain functions that do not block; this one is async"
            )
        if kind == "stream" and not self._is_async:
            raise InvalidArgument(
                f"{self._where}: a stream handler is an async function: async def {self.name}(session, stream)"
            )
        self._check_parameters()

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        return self.function(*args, **kwargs)

    def __get__(self, instance: object, owner: type | None = None) -> FunctionHandler[Any, Any]:
        """A method that was decorated: on an instance, a handler that is bound to it."""
        if instance is None:
            return self
        bound: FunctionHandler[Any, Any] = object.__new__(type(self))  # checked already: this runs for every access
        function = types.MethodType(self.function, instance)
        bound.__dict__ = {**self.__dict__, "function": function, "__wrapped__": function, "_signature": None}
        return bound

    def __repr__(self) -> str:
        return f"<{self.kind} handler {self.name!r}: {self._where}>"

    async def handle(self, session: Session, payload: Any, /) -> Any:
        """Handle one message with the first serializer of the session, as a handler class would."""
        if self.kind == "stream":
            return await self.run_stream(session, payload)
        if self.is_streaming:
            raise InvalidArgument(f"{self.name} streams; call it with request_stream")
        return await self.bind(session.serializer)(session, payload)

    @property
    def _where(self) -> str:
        return f"{self.function.__module__}.{self.function.__qualname__}"

    def _check_parameters(self) -> None:
        for parameter in inspect.signature(self.function).parameters.values():
            if parameter.kind not in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
                raise InvalidArgument(
                    f"{self._where}: parameter {parameter} cannot be filled from a message; wanted plain positional ones"
                )

    @property
    def signature(self) -> tuple[bool, tuple[Any, ...], Any]:
        """Whether the session is passed, the types of the payload's parameters, the type of the result or of each of many.

        A missing annotation is ``typing.Any``. Raises InvalidArgument for an annotation that cannot be resolved.
        """
        if self._signature is None:
            self._signature = self._read_signature()
        return self._signature

    def _read_signature(self) -> tuple[bool, tuple[Any, ...], Any]:
        try:
            hints = resolve_hints(self.function)
        except Exception as error:
            raise InvalidArgument(f"{self._where}: an annotation cannot be resolved: {error}") from error
        names = list(inspect.signature(self.function).parameters)
        if names[:1] == ["self"] and "self" not in hints:
            raise InvalidArgument(
                f"{self._where}: a method; add it from an instance of its class, as in add_{self.kind}(thing.{self.name})"
            )
        with_session = takes_session(names, hints)
        payload = tuple(hints.get(name, Any) for name in names[with_session:])
        items = {place: found for place, kind in enumerate(payload) if (found := item_type(kind)) is not None}
        if items:
            self._take_items(items)
            payload = payload[: self._items_at] + payload[self._items_at + 1 :]
        if self.kind == "stream" and len(payload) != 1:
            raise InvalidArgument(f"{self._where}: a stream handler takes (session, stream) or (stream)")
        result = hints.get("return", Any)
        answers = item_type(result)
        if self.yields:
            result = Any if answers is None else answers[0]
        elif answers is not None:
            raise InvalidArgument(
                f"{self._where}: it returns an async iterator; to answer with many values it has to be an async "
                "generator itself (async def with yield)"
            )
        return with_session, payload, result

    def _take_items(self, items: Mapping[int, tuple[Any]]) -> None:
        if self.kind != "rpc":
            raise InvalidArgument(
                f"{self._where}: only an @rpc takes an async iterator; many values to an @{self.kind} are a stream"
            )
        if len(items) > 1:
            raise InvalidArgument(f"{self._where}: two parameters are async iterators; a request has one row of items")
        if not self._is_async:
            raise InvalidArgument(f"{self._where}: it takes an async iterator, so it has to be async def")
        ((self._items_at, (self._item_type,)),) = items.items()

    @property
    def takes_items(self) -> bool:
        """Whether it receives many values: one of its parameters is an async iterator."""
        _ = self.signature
        return self._items_at >= 0

    @property
    def is_streaming(self) -> bool:
        """Whether it is called with ``request_stream``: it takes or answers with many values."""
        return self.yields or (self.kind == "rpc" and self.takes_items)

    @property
    def payload_type(self) -> Any:
        """The payload's type: None for no parameter, the parameter's, or a tuple of several."""
        _, parameters, _ = self.signature
        if not parameters:
            return types.NoneType
        return parameters[0] if len(parameters) == 1 else tuple[parameters]  # type: ignore[valid-type]

    @property
    def items_place(self) -> int:
        """Which of the payload's parameters, from 0, receives many values; -1: none of them."""
        _ = self.signature
        return self._items_at

    @property
    def item_type(self) -> Any:
        """The type of the many values that it receives. Raises AttributeError where it receives none."""
        _ = self.signature
        return self._item_type

    @property
    def shape(self) -> str:
        """The shapes (see :mod:`echokernel.shapes`) of payload, items and result, a line each, empty where there is none.

        The result's begins with ``*`` where there are many. Empty where one of the types has no shape, and for streams.
        """
        if self._shape is None:
            from echokernel.shapes import NoShape, shape

            def result() -> str:
                return "*" * self.yields + shape(self.signature[2]) if self.kind == "rpc" else ""

            try:
                items = shape(self.item_type) if self.takes_items else ""
                self._shape = "" if self.kind == "stream" else "\n".join((shape(self.payload_type), items, result()))
            except (NoShape, InvalidArgument):
                self._shape = ""
        return self._shape

    async def run_stream(self, session: Session, receiver: StreamReceiver) -> None:
        """Call a stream handler's function."""
        arguments = (session, receiver) if self.signature[0] else (receiver,)
        function: Callable[..., Any] = self.function
        await function(*arguments)

    def bind(self, serializer: Serializer) -> Runner:
        """Return the function that handles one payload coded by ``serializer``. Made once, called per message.

        Raises InvalidArgument when the serializer cannot express one of the types.
        """
        self._check_types(serializer)
        takes_session, parameters, result = self.signature
        try:
            decode = serializer.codec(self.payload_type).decode
            encode = serializer.codec(result if self.kind == "rpc" else types.NoneType).encode
        except SerializationError as error:
            raise self._no_codec(serializer, error) from error
        call = self._caller()
        count = len(parameters)
        is_rpc = self.kind == "rpc"
        wrong = self._wrong_arguments

        async def run(session: Session, payload: bytes) -> bytes:
            try:
                value = decode(payload)
            except SerializationError as error:
                raise wrong(error) from error
            arguments = value if count > 1 else (value,) if count else ()
            result = await (call(session, *arguments) if takes_session else call(*arguments))
            return encode(result) if is_rpc else b""

        async def run_with_one(session: Session, payload: bytes) -> bytes:
            """The commonest form, without the questions."""
            try:
                value = decode(payload)
            except SerializationError as error:
                raise wrong(error) from error
            return encode(await call(value))

        return run_with_one if count == 1 and is_rpc and not takes_session else run

    def bind_streaming(self, serializer: Serializer) -> StreamingRunner:
        """Return the function that serves one streaming request coded by ``serializer``. Raises InvalidArgument."""
        takes_session, parameters, result = self.signature
        place, yields = self._items_at + takes_session, self.yields
        self._check_types(serializer)
        try:
            decode = serializer.codec(self.payload_type).decode
            decode_item = serializer.codec(self._item_type).decode if self.takes_items else None
            encode = serializer.codec(result).encode
        except SerializationError as error:
            raise self._no_codec(serializer, error) from error
        function: Callable[..., Any] = self.function
        count = len(parameters)
        wrong = self._wrong_arguments

        def decode_argument(payload: bytes) -> Any:
            try:
                return decode_item(payload) if decode_item is not None else None
            except SerializationError as error:
                raise wrong(error) from error

        async def run(session: Session, payload: bytes, exchange: Exchange) -> None:
            try:
                value = decode(payload)
            except SerializationError as error:
                raise wrong(error) from error
            arguments = list(value if count > 1 else (value,) if count else ())
            if takes_session:
                arguments.insert(0, session)
            if decode_item is not None:
                arguments.insert(place, exchange.items(decode_argument))
            if not yields:
                await exchange.send(encode(await function(*arguments)))
                return
            async with aclosing(function(*arguments)) as answers:  # closed in the task that iterates it
                async for answer in answers:
                    await exchange.send(encode(answer))

        return run

    def _no_codec(self, serializer: Serializer, error: SerializationError) -> InvalidArgument:
        """Return the error for a type that ``serializer`` cannot express, naming the parameter that has it."""
        for place, kind in [*self._places(), ("its result", self.signature[2])]:
            try:
                serializer.codec(kind)
            except SerializationError as reason:
                return InvalidArgument(f"{self._where}: {place}: {reason}")
        return InvalidArgument(f"{self._where}: {error}")

    def _places(self) -> list[tuple[str, Any]]:
        """Return the parameters that travel, and their types."""
        with_session, parameters, _ = self.signature
        names = list(inspect.signature(self.function).parameters)[with_session:]
        kinds: list[Any] = list(parameters)
        if self.takes_items:
            kinds.insert(self._items_at, self._item_type)
        return [(f"parameter {name!r}", kind) for name, kind in zip(names, kinds, strict=True)]

    def _check_types(self, serializer: Serializer) -> None:
        """Raise InvalidArgument for a parameter without a type where its bytes do not say what they are."""
        if serializer.self_describing:
            return
        for place, kind in self._places():
            if kind is Any:
                raise InvalidArgument(
                    f"{self._where}: {place} has no type, and {serializer.name} payloads do not say what they are; "
                    f"annotate it, or leave {serializer.name} out of this node's serializers"
                )

    def _wrong_arguments(self, error: SerializationError) -> InvalidArgument:
        return InvalidArgument(f"{self.name}: {error}")

    def _caller(self) -> Callable[..., Awaitable[Any]]:
        function: Callable[..., Any] = self.function
        if self._is_async:
            return function
        if self.inline:

            async def call_here(*arguments: Any) -> Any:
                return function(*arguments)

            return call_here

        async def call_in_thread(*arguments: Any) -> Any:
            return await run_in_thread(functools.partial(function, *arguments))

        return call_in_thread


def resolve_hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Return a function's annotations. Raises whatever an annotation that cannot be resolved raises."""
    from echokernel.flows import StreamReceiver
    from echokernel.session import Session

    # annotations may name these although the module imports them for type checking only
    known = {"Session": Session, "StreamReceiver": StreamReceiver}
    return typing.get_type_hints(function, localns=known, include_extras=True)


def takes_session(parameters: Sequence[str], hints: Mapping[str, Any]) -> bool:
    """Whether the first parameter gets the session of the caller."""
    from echokernel.session import Session

    return bool(parameters) and (
        hints.get(parameters[0]) is Session or (parameters[0] == "session" and parameters[0] not in hints)
    )


def item_type(annotation: Any) -> tuple[Any] | None:
    """Return ``(T,)`` for ``AsyncIterator[T]`` and its like, None for everything else."""
    while typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    if annotation in _ITERATORS:
        return (Any,)
    if typing.get_origin(annotation) in _ITERATORS:
        return ((*typing.get_args(annotation), Any)[0],)
    return None


@overload
def rpc(function: Callable[P, R], /) -> FunctionHandler[P, R]: ...


@overload
def rpc(name: str | None = None, /, *, inline: bool = False) -> Callable[[Callable[P, R]], FunctionHandler[P, R]]: ...


def rpc(name: Any = None, /, *, inline: bool = False) -> Any:
    """Make a function answer requests: ``@rpc`` under its own name, ``@rpc("math.add")`` under another.

    An async generator answers with many values, and a parameter annotated ``AsyncIterator[T]`` receives many: callers use
    ``request_stream``. A plain function runs in a worker thread; with ``inline=True`` it runs in the event loop and must
    not block.
    """
    return _decorate("rpc", name, inline=inline)


@overload
def event(function: Callable[P, R], /) -> FunctionHandler[P, R]: ...


@overload
def event(
    name: str | None = None, /, *, inline: bool = False, concurrent: bool = False
) -> Callable[[Callable[P, R]], FunctionHandler[P, R]]: ...


def event(name: Any = None, /, *, inline: bool = False, concurrent: bool = False) -> Any:
    """Make a function take events. Those of one name and session come one at a time, in the order they were sent;
    with ``concurrent=True`` each runs in a task of its own, in any order.
    """
    return _decorate("event", name, inline=inline, concurrent=concurrent)


@overload
def stream(function: Callable[P, R], /) -> FunctionHandler[P, R]: ...


@overload
def stream(name: str | None = None, /) -> Callable[[Callable[P, R]], FunctionHandler[P, R]]: ...


def stream(name: Any = None, /) -> Any:
    """Make an async function take streams: ``async def audio(session: Session, stream: StreamReceiver)``."""
    return _decorate("stream", name)


def _decorate(kind: Kind, name: Any, *, inline: bool = False, concurrent: bool = False) -> Any:
    if callable(name):
        return FunctionHandler(name, kind, None, inline=inline, concurrent=concurrent)
    if name is not None and not isinstance(name, str):
        raise InvalidArgument(f"@{kind} takes a name; this is {name!r}")
    return lambda function: FunctionHandler(function, kind, name, inline=inline, concurrent=concurrent)
