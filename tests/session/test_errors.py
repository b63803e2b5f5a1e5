"""What a caller learns of an error: code, message and details; never a traceback or a path unless the node was told so."""

from __future__ import annotations

import inspect

import pytest

import echokernel
from echokernel import (
    ConfigError,
    EchoError,
    EchoServer,
    HandlerError,
    InvalidArgument,
    Overloaded,
    PluginError,
    rpc,
)
from echokernel.errors import error_from_code
from echokernel.testing import connected
from echokernel_protocol.codes import Code

pytestmark = pytest.mark.anyio
PATH = "/home/somebody/secret.py"
ERRORS = sorted(
    (kind for kind in vars(echokernel.errors).values() if inspect.isclass(kind) and issubclass(kind, EchoError)),
    key=lambda kind: kind.__name__,
)


@rpc
async def broken(kind: str) -> None:
    if kind == "overloaded":
        raise Overloaded("come back later", details=b"5 s")
    if kind == "config":
        raise ConfigError(f"{PATH}: no such file")
    if kind == "plugin":
        raise PluginError(f"{PATH} cannot be imported")
    raise FileNotFoundError(PATH)


@pytest.mark.parametrize("isolated", [False, True])
async def test_an_error_that_was_meant_for_the_caller_arrives_whole(isolated: bool) -> None:
    async with connected(broken) as nodes:
        with pytest.raises(Overloaded, match="come back later") as caught:
            await nodes.client.request("broken", "overloaded", isolated=isolated)
        assert (caught.value.code, caught.value.details, caught.value.retryable) == (8, b"5 s", True)


@pytest.mark.parametrize("isolated", [False, True])
@pytest.mark.parametrize("kind", ["config", "plugin", "file"])
async def test_a_fault_arrives_without_path_or_traceback(kind: str, isolated: bool) -> None:
    async with connected(broken) as nodes:
        with pytest.raises(HandlerError, match=r"broken failed: \w+ \(error \w{8} in the peer's log\)") as caught:
            await nodes.client.request("broken", kind, isolated=isolated)
        text = f"{caught.value} {caught.value.details!r}"
        assert PATH not in text and __file__ not in text and "Traceback" not in text
        assert (caught.value.code, caught.value.retryable) == (Code.INTERNAL, False)


@pytest.mark.parametrize("isolated", [False, True])
async def test_a_node_that_was_told_so_sends_tracebacks(isolated: bool) -> None:
    async with connected(broken, server=EchoServer.builder().tracebacks()) as nodes:
        with pytest.raises(HandlerError, match="broken failed: FileNotFoundError") as caught:
            await nodes.client.request("broken", "file", isolated=isolated)
        assert caught.value.details is not None and b"Traceback" in caught.value.details
        assert b"raise FileNotFoundError(PATH)" in caught.value.details
        with pytest.raises(Overloaded) as meant:
            await nodes.client.request("broken", "overloaded", isolated=isolated)
        assert meant.value.details == b"5 s"


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_has_a_code_and_says_whether_a_retry_can_help(kind: type[EchoError]) -> None:
    assert isinstance(kind.default_code, int) and isinstance(kind.default_retryable, bool)
    assert kind.__doc__


@pytest.mark.parametrize("code", [*Code, 255, 256, 4_095, 4_096, 2**40])
def test_every_code_becomes_an_error_that_keeps_it(code: int) -> None:
    error = error_from_code(code, "seen", b"details")
    assert (error.code, error.message) == (code, "seen")
    if code >= 26:
        assert type(error) is HandlerError and not error.retryable
    if code in (Code.RESOURCE_EXHAUSTED, Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED):
        assert error.retryable
    if code in (Code.INVALID_ARGUMENT, Code.UNAUTHENTICATED, Code.UNIMPLEMENTED):
        assert not error.retryable
    assert isinstance(error, EchoError)


async def test_a_wrong_argument_says_what_was_wanted() -> None:
    async with connected(broken) as nodes:
        with pytest.raises(InvalidArgument, match="broken"):
            await nodes.client.request("broken", 5)
