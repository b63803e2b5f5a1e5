"""Section 3 of the seed's API document is a checklist. Each of its items is a test here, with what it means in Python.

The tests look at the public API itself (``echokernel.__all__``), so that what is added later is held to the same rules.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest

import echokernel
from echokernel import (
    Address,
    Advertiser,
    ClientBuilder,
    EchoClient,
    EchoError,
    EchoServer,
    HandlerError,
    InvalidArgument,
    ServerBuilder,
    ServiceInfo,
    Session,
    StreamingCall,
    StreamSender,
    event,
    rpc,
    stream,
)
from echokernel.addresses import parse_address
from echokernel.client import Connecting
from echokernel.methods import HandlerOwner
from echokernel.testing import JsonSerializer, MemoryTransport
from echokernel_protocol.timestamped import Timestamped

PUBLIC = {name: getattr(echokernel, name) for name in echokernel.__all__}
CLASSES = {name: value for name, value in PUBLIC.items() if inspect.isclass(value)}
BUILDERS = [ServerBuilder, ClientBuilder]
NOUNS = {
    *("name", "bind", "listen", "transport", "settings", "serializer", "discovery", "middleware", "service", "limits"),
    *("authenticator", "credentials", "allow_anonymous", "tracebacks", "plugin", "describe", "broadcast_policy"),
    *("clock", "upstream"),
    "reconnect",
}
"""What a node is made of: methods of a builder that are called like the thing, as the seed's own are."""


def methods(value: type) -> Iterator[tuple[str, Any]]:
    """Yield the public methods of a class, those of the kernel's bases included."""
    for name in dir(value):
        member = inspect.getattr_static(value, name)
        if not name.startswith("_") and inspect.isfunction(getattr(member, "__func__", member)):
            yield name, getattr(member, "__func__", member)


# --- 3.1 names -----------------------------------------------------------------------------------------------------


def test_what_is_configured_has_builder_and_build() -> None:
    """Item: whatever is built has ``builder()`` and ``build()``.

    A client's builder ends with ``connect()``, as in the seed itself.
    """
    assert isinstance(EchoServer.builder(), ServerBuilder)
    assert callable(ServerBuilder.build)
    assert isinstance(EchoClient.builder(), ClientBuilder)
    assert callable(ClientBuilder.connect)


def test_quic_is_configured_with_builder_and_build() -> None:
    """The same, for the transport's plugin."""
    quic = pytest.importorskip("echokernel_quic")
    builder = quic.QuicConfig.builder()
    assert isinstance(builder, quic.QuicConfigBuilder)
    assert isinstance(builder.build(), quic.QuicConfig)


@pytest.mark.parametrize("builder", BUILDERS)
def test_every_method_of_a_builder_returns_a_builder(builder: type) -> None:
    """A builder is fluent: all but its last word return a builder, or what adds to one."""
    for name, method in methods(builder):
        returns = inspect.signature(method).return_annotation
        wanted = {
            "build": "EchoServer",
            "connect": "Connecting",
            "remove_rpc": "None",
            "remove_event": "None",
            "remove_stream": "None",
        }.get(name)
        assert returns == wanted if wanted else returns in (builder.__name__, "Self"), name


def test_settings_have_the_prefix_with() -> None:
    """Item: methods that configure begin with ``with_``, where a value is changed: ``ServiceInfo``, ``QuicConfigBuilder``.

    The seed's own node builders do not use it, and neither do ours: they have nouns, ``add_*`` and ``on_*``, and nothing else.
    """
    changing = [name for name, method in methods(ServiceInfo) if "ServiceInfo" in str(inspect.signature(method))]
    assert changing == ["with_addresses", "with_port", "with_property"]
    for builder in BUILDERS:
        others = {name for name, _ in methods(builder)} - NOUNS - {"build", "connect"}
        assert all(name.startswith(("add_", "remove_", "on_")) for name in others), others


def test_adding_has_the_prefix_add() -> None:
    """Item: what adds begins with ``add_``. What can be added can be removed while a node runs, except by its
    decorator's kind.
    """
    added = {name.removeprefix("add_") for name, _ in methods(HandlerOwner) if name.startswith("add_")}
    removed = {name.removeprefix("remove_") for name, _ in methods(HandlerOwner) if name.startswith("remove_")}
    assert added == {"rpc", "event", "stream", "handler"}
    assert removed == added - {"handler"}
    assert all(issubclass(kind, HandlerOwner) for kind in (ServerBuilder, ClientBuilder, EchoServer, EchoClient))


def test_hooks_have_the_prefix_on() -> None:
    """Item: hooks begin with ``on_``: whatever takes a callback of the program's."""
    server = {name for name, method in methods(ServerBuilder) if "callback" in inspect.signature(method).parameters}
    client = {name for name, method in methods(ClientBuilder) if "callback" in inspect.signature(method).parameters}
    assert server == {"on_start", "on_stop", "on_connect", "on_disconnect"}
    assert client == {"on_connect", "on_disconnect", "on_reconnecting", "on_reconnected", "on_gave_up"}


WAITS = {
    EchoClient: "request emit create_stream ping close describe health",
    EchoServer: "run stop",
    Session: "request emit create_stream ping close describe health",
    StreamSender: "send send_timestamped finish wait_taken",
    echokernel.StreamReceiver: "recv close",
    StreamingCall: "send finish result",
    echokernel.ServerContext: "broadcast",
    echokernel.Discovery: "discover",  # advertise returns an Advertising: awaitable, and ``async with``
    echokernel.Transport: "listen connect",
    echokernel.Listener: "accept close",
    echokernel.Connection: (
        "open_bi_stream accept_bi_stream open_uni_stream accept_uni_stream recv_datagram ping close wait_closed confirmed"
    ),
    echokernel.SendStream: "write wait_room finish",
    echokernel.RecvStream: "read read_to_end",
}


@pytest.mark.parametrize(("value", "names"), WAITS.items(), ids=[value.__name__ for value in WAITS])
def test_what_may_wait_is_async(value: type, names: str) -> None:
    """Item: async methods return a future. What may wait is ``async def``, or returns the coroutine of a part."""
    found = {
        name
        for name, method in methods(value)
        if inspect.iscoroutinefunction(method) or "Coroutine" in str(inspect.signature(method).return_annotation)
    }
    assert set(names.split()) <= found


NEVER_WAIT = {"StreamReceiver.close", "Middleware.process_request", "Middleware.process_response"}
"""Async all the same: the seed's names, and what a subclass that waits may override."""


def test_what_never_waits_is_not_async() -> None:
    """The other half of that item: an ``await`` in front of a call means something."""
    idle = set()
    for name, value in CLASSES.items():
        for method_name, method in methods(value):
            if (
                not inspect.iscoroutinefunction(method)
                or inspect.isabstract(value)
                or getattr(value, "_is_protocol", False)
            ):
                continue
            tree = ast.parse(textwrap.dedent(inspect.getsource(method)))
            if not any(isinstance(node, ast.Await | ast.AsyncFor | ast.AsyncWith) for node in ast.walk(tree)):
                idle.add(f"{name}.{method_name}")
    assert idle == NEVER_WAIT


def test_errors_are_one_type() -> None:
    """Item: one error type: exceptions, all of them below ``EchoError``."""
    errors = [value for value in CLASSES.values() if issubclass(value, BaseException)]
    assert len(errors) > 15
    assert all(issubclass(value, EchoError) for value in errors)


# --- 3.2 parameters ------------------------------------------------------------------------------------------------


def test_the_context_comes_first() -> None:
    """Item: the context is the first parameter: in handlers, which may leave it out, and in everything that is
    overridden.
    """

    @rpc
    async def with_session(session: Session, value: int) -> int:
        return value

    @rpc
    async def without(value: int) -> int:
        return value

    assert with_session.signature[:2] == (True, (int,))
    assert without.signature[:2] == (False, (int,))
    for value in CLASSES.values():
        for _, method in methods(value):
            names = [name for name in inspect.signature(method).parameters if name != "self"]
            assert "session" not in names[1:]


def test_types_are_annotations() -> None:
    """Item: ``impl Trait`` keeps signatures simple: a handler is anything with name and handle; types stand in
    annotations only.
    """

    class Duck:
        name = "duck"

        async def handle(self, session: Session, payload: bytes) -> bytes:
            return payload

    for kind in (echokernel.RpcHandler, echokernel.EventHandler, echokernel.StreamHandler):
        assert isinstance(Duck(), kind)
    EchoServer.builder().add_rpc(Duck()).add_event(Duck()).add_stream(Duck())  # type: ignore[arg-type]
    for name, value in PUBLIC.items():
        for method_name, method in methods(value) if inspect.isclass(value) else ():
            signature = inspect.signature(method)
            named = [each for each in signature.parameters.values() if each.name not in ("self", "cls")]
            assert all(each.annotation is not each.empty for each in named), f"{name}.{method_name}"
            assert signature.return_annotation is not signature.empty, f"{name}.{method_name}"


def test_names_are_plain_texts() -> None:
    """Item: texts are ``impl Into<String>``: a ``str``, with or without parentheses at the decorators."""
    assert rpc("a.name")(lambda: None).name == event("a.name")(lambda: None).name == "a.name"

    @rpc
    async def own_name() -> None: ...

    @stream()
    async def also(stream: echokernel.StreamReceiver) -> None: ...

    assert (own_name.name, also.name) == ("own_name", "also")


def test_addresses_are_taken_in_every_usual_form() -> None:
    """Item: addresses are ``impl ToSocketAddrs``: a URL, ``host:port``, a tuple, an ``Address``."""
    wanted = Address("quic", "127.0.0.1", 4433)
    for form in ("quic://127.0.0.1:4433", "127.0.0.1:4433", ("127.0.0.1", 4433), wanted):
        assert parse_address(form) == wanted  # type: ignore[arg-type]
        EchoServer.builder().bind(form)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="wanted"):
        EchoServer.builder().bind("4433")


# --- 3.3 life cycles -----------------------------------------------------------------------------------------------


def test_guards_are_async_context_managers() -> None:
    """Items: RAII guards, and ``Drop`` cleans up: ``async with`` owns what has to be given back."""
    for guard in (
        EchoServer,
        Connecting,
        StreamSender,
        StreamingCall,
        Advertiser,
        echokernel.Advertising,
    ):  # EchoClient.connect() is a Connecting
        assert hasattr(guard, "__aenter__") and hasattr(guard, "__aexit__"), guard
    closing = {
        EchoServer: "stop",
        EchoClient: "close",
        StreamSender: "finish",
        StreamingCall: "close",
        Advertiser: "stop",
    }
    assert all(callable(getattr(value, name)) for value, name in closing.items()), "and each can be ended by hand"


def test_contexts_are_shared_by_reference() -> None:
    """Item: ``Clone`` shares a context: there is one object, and everybody who has it sees the same."""
    server = (
        EchoServer.builder().transport(MemoryTransport()).serializer(JsonSerializer()).bind("memory://node:1").build()
    )
    assert server.context() is server.context()
    server.context().set("key", 1)
    assert server.context().get("key") == 1


def test_values_that_are_passed_around_cannot_change() -> None:
    """Item: async components are ``Send + Sync + 'static``: tasks share objects within one event loop; what
    describes something is frozen.
    """
    for value in (
        ServiceInfo,
        Address,
        echokernel.Limits,
        echokernel.SessionInfo,
        echokernel.PeerIdentity,
        echokernel.Codec,
    ):
        assert value.__dataclass_params__.frozen, value
    assert not Timestamped.__dataclass_params__.frozen, "one per frame: freezing costs a microsecond"  # type: ignore[attr-defined]


# --- 3.4 errors ----------------------------------------------------------------------------------------------------


def test_the_tree_is_used_everywhere() -> None:
    """Item: one ``Result`` everywhere: what public docstrings say is raised is one of ours, or plainly Python's."""
    python = {"ValueError", "AttributeError", "StopAsyncIteration", "RuntimeError", "NotImplementedError"}
    for name, value in CLASSES.items():
        if value.__module__.startswith("echokernel_protocol."):
            continue  # it knows nothing of the kernel, whose errors are made of its ProtocolViolation
        for method_name, method in methods(value):
            text = inspect.getdoc(method) or ""
            for words in re.findall(r"Raises ([^.]*)\.", text):
                for word in re.findall(r"\b([A-Z][a-z]+[A-Z]\w+)\b", words):
                    assert word in PUBLIC or word in python, f"{name}.{method_name} raises {word}"


def test_errors_are_exceptions() -> None:
    """Item: errors are ``std::error::Error``: they print what happened, and keep their cause."""
    try:
        try:
            raise KeyError("x")
        except KeyError as cause:
            raise HandlerError("no x", code=4096) from cause
    except EchoError as error:
        assert str(error) == error.message == "no x"
        assert isinstance(error.__cause__, KeyError)


def test_every_error_says_what_it_is_once() -> None:
    """Item: ``thiserror`` derives what errors say: a class, its docstring and its code; nothing is repeated where
    it is raised.
    """
    for name, value in CLASSES.items():
        if issubclass(value, EchoError) and value is not EchoError:
            assert (value.__doc__ or "").strip(), name
            assert "default_code" in vars(value) or value.default_code != EchoError.default_code, name


def test_recoverable_and_fatal_are_told_apart() -> None:
    """Item: recoverable and fatal errors are told apart: ``retryable`` says whether the same call can succeed later."""
    yes = {
        "RequestTimeout",
        "Overloaded",
        "TransportError",
        "ConnectionClosed",
        "StreamClosed",
        "StreamReset",
        "StreamStopped",
    }
    for name, value in CLASSES.items():
        if issubclass(value, EchoError):
            special = {
                "OutcomeUnknown": ("m", echokernel.ConnectionClosed()),
                "StreamReset": (1,),
                "StreamStopped": (1,),
            }
            assert value(*special.get(name, ("why",))).retryable is (name in yes), name
    assert HandlerError("why", retryable=True).retryable, "and whoever raises it may know better"
