"""Opening a session: the channel's stream, the hello each way, authentication. Nothing is dispatched before it is done."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio

from echokernel.engine.datagrams import drop_waiting
from echokernel.engine.early import explain_close
from echokernel.errors import (
    ConnectionClosed,
    EchoError,
    InvalidArgument,
    Overloaded,
    ProtocolError,
    RequestTimeout,
    TransportError,
    Unauthenticated,
    error_from_code,
)
from echokernel.session import Session
from echokernel_protocol.channel import Channel, Phase, Received, Role
from echokernel_protocol.codes import Code
from echokernel_protocol.early import assumption, fits, recall, remember
from echokernel_protocol.errors import ErrorInfo, ProtocolViolation
from echokernel_protocol.hello import answer_hello
from echokernel_protocol.streams import Prelude, StreamKind, take_prelude

if TYPE_CHECKING:
    from echokernel.engine.node import Node
    from echokernel.registry import Authenticator
    from echokernel.transport import Connection, RecvStream, SendStream

logger = logging.getLogger("echokernel.session")

__all__ = ["accept_session", "dial_session"]


async def dial_session(connection: Connection, node: Node, credentials: bytes = b"") -> Session:
    """Say hello on a new connection and wait for the answer, except on one that is early and remembers it.

    Raises Unauthenticated, ProtocolError, Overloaded, RequestTimeout, ConnectionClosed; the connection is then closed.
    """
    try:
        with anyio.fail_after(node.limits.hello_timeout or None):
            return await _dial(connection, node, credentials)
    except TimeoutError:
        await connection.close(Code.HELLO_TIMEOUT, "no answer to the hello", drain=0)
        raise RequestTimeout(f"no answer to the hello within {node.limits.hello_timeout:g} s") from None
    except ProtocolViolation as violation:
        await connection.close(violation.code, str(violation), drain=0.2)
        raise ProtocolError(f"the peer's hello: {violation}", code=violation.code) from None
    except ConnectionClosed as error:
        raise explain_close(error) from None
    except EchoError as error:
        await connection.close(error.code, "", drain=0)
        raise
    except BaseException:
        await connection.close(Code.CANCELLED, "", drain=0)
        raise


async def _dial(connection: Connection, node: Node, credentials: bytes) -> Session:
    ours = node.hello(credentials)
    answer = recall(connection.remembered, ours) if connection.early else None
    if answer is None:
        await connection.confirmed()
    else:
        ours = replace(ours, assumed=assumption(answer))
    channel = Channel(Role.DIALER, ours)
    send, recv = await connection.open_bi_stream()
    send.prioritize()
    try:
        channel.send_hello()
    except ValueError as error:
        raise InvalidArgument(str(error)) from None
    await send.write(Prelude(StreamKind.CHANNEL).encode() + channel.data_to_send(0))
    if answer is not None:
        channel.assume(answer)
        return Session(1, node, connection, channel, send, recv)
    received: list[Received] = []
    while channel.phase is Phase.WAITING:
        received += channel.receive(await _some(recv))
    if channel.refusal is not None:
        refusal = channel.refusal
        raise error_from_code(refusal.code, f"the peer refused: {refusal.message}", refusal.details)
    connection.established()
    if channel.peer is not None:
        connection.remember(remember(ours, channel.peer))
    return Session(1, node, connection, channel, send, recv, received=received)


async def _some(recv: RecvStream) -> bytes:
    data = await recv.read()
    if not data:
        raise ProtocolViolation("the channel ended before the hello was answered", code=Code.TRUNCATED)
    return data


async def accept_session(
    id: int, connection: Connection, node: Node, authenticators: Sequence[Authenticator], *, full: bool
) -> Session | None:
    """Take a peer's hello and answer it. Returns None, the connection closed, when it is refused or breaks a rule."""
    try:
        with anyio.fail_after(node.limits.hello_timeout or None):
            channel, send, recv = await _take_hello(connection, node)
            try:
                return await _answer(id, connection, node, authenticators, full, channel, send, recv)
            except TransportError:
                raise
            except EchoError as error:
                logger.info("peer %s:%s refused: %s", *connection.peer_addr, error)
                await connection.confirmed()  # before that, a close cannot say why
                channel.refuse(ErrorInfo(error.code, error.message))
                await send.write(channel.data_to_send(0))
                await connection.close(error.code, error.message)
    except TimeoutError:
        await connection.close(Code.HELLO_TIMEOUT, "no hello in time", drain=0)
    except ProtocolViolation as violation:
        logger.info("peer %s:%s refused: %s", *connection.peer_addr, violation)
        await connection.close(violation.code, str(violation), drain=0.2)
    except TransportError as error:
        logger.debug("peer %s:%s left before its hello was answered: %s", *connection.peer_addr, error)
        await connection.close(Code.UNAVAILABLE, "", drain=0)
    except Exception as error:  # a fault of ours; the peer must not wait for it
        logger.error("a hello could not be answered: %s", type(error).__name__, exc_info=error)
        await connection.close(Code.INTERNAL, "", drain=0)
    return None


async def _take_hello(connection: Connection, node: Node) -> tuple[Channel, SendStream, RecvStream]:
    send, recv = await connection.accept_bi_stream()
    data = b""
    while (found := take_prelude(data)) is None:
        data += await _some(recv)
    prelude, rest = found
    if prelude.kind is not StreamKind.CHANNEL:
        raise ProtocolViolation(f"a {prelude.kind.name.lower()} stream before the channel")
    send.prioritize()
    channel = Channel(Role.ACCEPTOR, node.hello())
    channel.receive(rest)
    while channel.phase is Phase.WAITING:
        channel.receive(await _some(recv))
    return channel, send, recv


async def _answer(
    id: int,
    connection: Connection,
    node: Node,
    authenticators: Sequence[Authenticator],
    full: bool,
    channel: Channel,
    send: SendStream,
    recv: RecvStream,
) -> Session:
    theirs = channel.peer
    assert theirs is not None
    try:
        answer = answer_hello(theirs, channel.ours)
    except ProtocolViolation as violation:
        raise ProtocolError(str(violation), code=violation.code) from None
    if theirs.assumed and not fits(theirs.assumed, answer):
        raise ProtocolError(
            "this node is not what the dialer remembers of it; nothing was run, connect again", code=Code.UNAVAILABLE
        )
    if full:
        raise Overloaded(f"this node has {node.limits.max_sessions} sessions already")
    principal = await _authenticate(authenticators, theirs.credentials, connection)
    await drop_waiting(connection)  # sent by a stranger
    channel.accept(answer)
    await send.write(channel.data_to_send(0))
    if not connection.early:
        connection.established()
    received = channel.receive(b"") if theirs.assumed else None  # what came with the hello
    return Session(id, node, connection, channel, send, recv, principal=principal, received=received)


async def _authenticate(
    authenticators: Sequence[Authenticator], credentials: bytes, connection: Connection
) -> str | None:
    for authenticator in authenticators:
        try:
            principal = await authenticator.authenticate(credentials, connection.peer_identity)
        except EchoError:
            raise
        except Exception as error:
            # nothing of its text: a KeyError, say, would show the credentials
            logger.error("an authenticator failed: %s", _where(error))
            raise Unauthenticated("the credentials could not be checked") from None
        if principal is not None:
            return principal
    if authenticators:
        raise Unauthenticated("the credentials were not accepted")
    return None


def _where(error: Exception) -> str:
    """Return type and place of an exception, and nothing of what it says."""
    frames = traceback.extract_tb(error.__traceback__)
    return type(error).__name__ + (f" in {frames[-1].filename}:{frames[-1].lineno}" if frames else "")
