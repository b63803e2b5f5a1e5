"""Credentials and principals: asked for at each connect, judged in the hello, shown to nobody else."""

from __future__ import annotations

import logging
import secrets
from typing import Any

import anyio
import pytest

from echokernel import (
    ClientBuilder,
    EchoClient,
    EchoServer,
    InvalidArgument,
    Session,
    StreamReceiver,
    Unauthenticated,
    event,
    rpc,
    stream,
)
from echokernel.addresses import parse_address
from echokernel.tasks import open_tasks
from echokernel.testing import JsonSerializer, MemoryTransport, connected
from echokernel.transport import PeerIdentity
from echokernel_protocol.channel import Channel, Role
from echokernel_protocol.frames import encode_method
from echokernel_protocol.hello import Hello
from echokernel_protocol.streams import Prelude, StreamKind

pytestmark = pytest.mark.anyio


class Tokens:
    """Knows who has which token; a token is good for one connect."""

    def __init__(self, **people: str) -> None:
        self.people = {token.encode(): name for name, token in people.items()}
        self.peers: list[PeerIdentity | None] = []

    async def authenticate(self, credentials: bytes, peer: PeerIdentity | None) -> str | None:
        self.peers.append(peer)
        return self.people.pop(credentials, None)


@rpc
async def whoami(session: Session) -> str | None:
    return session.principal


async def test_an_async_callable_is_asked_at_each_connect() -> None:
    asked: list[str] = []

    async def fetch() -> str:
        await anyio.sleep(0.01)
        asked.append(f"token-{len(asked)}")
        return asked[-1]

    server = EchoServer.builder().authenticator(Tokens(ann="token-0", bob="token-1"))
    transport = MemoryTransport()
    client = EchoClient.builder().credentials(fetch)
    async with connected(whoami, server=server, client=client, transport=transport) as nodes:
        assert await nodes.client.request("whoami", returns=str) == "ann"
        again = EchoClient.builder().transport(transport).serializer(JsonSerializer()).credentials(fetch)
        async with again.connect("memory://node:1") as second:
            assert await second.request("whoami", returns=str) == "bob"
            principals = [session.principal for session in nodes.server.context().sessions()]
            assert principals == ["ann", "bob"]
    assert asked == ["token-0", "token-1"]


@pytest.mark.parametrize("result", [None, 5, bytearray(b"x")], ids=["None", "int", "bytearray"])
async def test_credentials_of_another_type_are_the_callers_mistake(result: Any) -> None:
    async def fetch() -> Any:
        return result

    with pytest.raises(InvalidArgument, match=f"wanted bytes or a text, got a {type(result).__name__}"):
        async with connected(client=EchoClient.builder().credentials(fetch)):
            pass


async def test_credentials_that_are_too_long_are_the_callers_mistake() -> None:
    with pytest.raises(InvalidArgument, match="the hello with its credentials takes"):
        async with connected(client=EchoClient.builder().credentials(bytes(20_000))):
            pass


async def test_what_the_callable_raises_is_raised_and_nothing_stays_open() -> None:
    async def fetch() -> str:
        raise LookupError("the vault is closed")

    transport = MemoryTransport()
    with pytest.raises(LookupError, match="the vault is closed"):
        async with connected(client=EchoClient.builder().credentials(fetch), transport=transport):
            pass
    assert transport.connections == []


async def test_the_identity_that_the_transport_proved_reaches_authenticators_and_session() -> None:
    identity = PeerIdentity(fingerprint="sha256:" + "A" * 43, subject="CN=robot-7", names=("robot-7.example",))

    class ByName:
        async def authenticate(self, credentials: bytes, peer: PeerIdentity | None) -> str | None:
            return None if peer is None else peer.names[0]

    transport = MemoryTransport()
    transport.identity = identity
    async with connected(whoami, server=EchoServer.builder().authenticator(ByName()), transport=transport) as nodes:
        assert await nodes.client.request("whoami", returns=str) == "robot-7.example"
        assert nodes.session.peer_identity == identity


async def test_nothing_of_a_rejected_peer_is_dispatched_even_when_it_does_not_wait() -> None:
    """It sends request, event and stream behind its hello at once, as no client of ours would."""
    ran: list[str] = []

    @rpc
    async def ask() -> None:
        ran.append("request")

    @event
    async def note() -> None:
        ran.append("event")

    @stream
    async def flow(frames: StreamReceiver) -> None:
        ran.append("stream")

    class Slow(Tokens):
        async def authenticate(self, credentials: bytes, peer: PeerIdentity | None) -> str | None:
            await anyio.sleep(0.5)  # all of it has arrived long before
            return await super().authenticate(credentials, peer)

    transport = MemoryTransport()
    server = EchoServer.builder().authenticator(Slow(ann="right", bob="right too"))
    server.on_connect(lambda session: ran.append("on_connect")).on_disconnect(
        lambda session: ran.append("on_disconnect")
    )
    async with connected(
        ask, note, flow, server=server, transport=transport, client=EchoClient.builder().credentials("right")
    ) as nodes:
        assert ran == ["on_connect"]
        ran.clear()
        everything = ["event", "on_connect", "request", "stream"]
        for credentials, pause, runs in ((b"wrong", 0.1, []), (b"wrong", 0.0, []), (b"right too", 0.1, everything)):
            async with open_tasks() as tasks:
                connection = await transport.connect(parse_address("memory://node:1"), tasks)
                send, _ = await connection.open_bi_stream()
                channel = Channel(Role.DIALER, Hello(serializers=("json",), credentials=credentials))
                channel.send_hello()
                hello = Prelude(StreamKind.CHANNEL).encode() + channel.data_to_send(0)
                channel.call(encode_method("ask", 0x10), b"null")
                channel.emit(encode_method("note", 0x10), b"null")
                channel.open_flow(encode_method("flow", 0x10), b"")
                if pause:
                    await send.write(hello)
                    await anyio.sleep(pause)
                    await send.write(channel.data_to_send(9999))
                else:
                    await send.write(hello + channel.data_to_send(9999))
                side = await connection.open_uni_stream()
                await side.write(Prelude(StreamKind.FLOW, (3, 0)).encode())
                await anyio.sleep(1)
                assert sorted(ran) == runs
                await connection.close()
        assert nodes.server.stats()["unauthenticated"] == 0


async def test_no_credential_reaches_a_log_or_a_repr(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    good, bad, worse = (f"canary{secrets.token_hex(8)}" for _ in range(3))

    class Careless:
        async def authenticate(self, credentials: bytes, peer: PeerIdentity | None) -> str | None:
            if credentials == worse.encode():
                raise Unauthenticated("no such token")
            return {good.encode(): "ann"}[credentials]  # a KeyError says what was looked for

    async def fetch() -> str:
        return good

    def client(credentials: Any) -> ClientBuilder:
        return EchoClient.builder().credentials(credentials).serializer(JsonSerializer()).transport(transport)

    transport = MemoryTransport()
    builder = EchoServer.builder().authenticator(Careless())
    seen: list[object] = [builder]
    async with connected(server=builder, client=client(fetch), transport=transport) as nodes:
        seen += [nodes.server, nodes.client, nodes.client.session, nodes.session, nodes.session.peer]
        seen += [nodes.session._channel, nodes.client.session._channel, nodes.client.session._channel.ours]
        for credentials in (bad, worse, good.encode()):
            connecting = client(credentials).connect("memory://node:1")
            seen += [connecting, connecting._client]
            if credentials == good.encode():
                async with connecting as again:
                    seen.append(again)
                continue
            with pytest.raises(Unauthenticated) as caught:
                async with connecting:
                    pass
            seen.append(caught.value)
    assert "an authenticator failed: KeyError in " in caplog.text
    everything = caplog.text + "".join(map(repr, seen)) + "".join(map(str, seen))
    for canary in (good, bad, worse):
        assert canary not in everything
