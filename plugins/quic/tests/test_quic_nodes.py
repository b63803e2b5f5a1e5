"""Nodes over QUIC: who the peer is reaches the session, and a rejected peer gets an error and nothing else."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from quic_certificates import authority, issue
from quic_helpers import until

from echokernel import EchoClient, EchoServer, Session, Unauthenticated, event, rpc
from echokernel.server import ServerBuilder
from echokernel.testing import JsonSerializer
from echokernel.transport import PeerIdentity
from echokernel_quic import QuicConfig, QuicTransport
from echokernel_quic.identity import self_signed_identity

pytestmark = pytest.mark.anyio
PIN = "sha256:" + "A" * 43


@rpc
async def whoami(session: Session) -> list[str | None]:
    identity = session.peer_identity
    return [session.principal, identity and identity.fingerprint, identity and identity.subject]


class ByCertificate:
    """The principal is the certificate's subject; with a token it is somebody else."""

    async def authenticate(self, credentials: bytes, peer: PeerIdentity | None) -> str | None:
        if peer is None or credentials not in (b"", b"token"):
            return None
        return "the bearer" if credentials else peer.subject


@contextlib.asynccontextmanager
async def serving(
    config: QuicConfig, builder: ServerBuilder | None = None, url: str = "quic://127.0.0.1:0"
) -> AsyncIterator[Any]:
    builder = (builder or EchoServer.builder()).transport(QuicTransport(config)).bind(url)
    async with builder.serializer(JsonSerializer()).add_rpc(whoami).build() as server:
        yield server


def client(config: QuicConfig, credentials: str = "") -> Any:
    return EchoClient.builder().transport(QuicTransport(config)).serializer(JsonSerializer()).credentials(credentials)


async def test_the_peers_identity_is_on_the_session_and_authenticators_see_it(tmp_path: Path) -> None:
    ca, key = authority(tmp_path / "ca.pem")
    certificate = issue(tmp_path / "ann.pem", ca, key, "10.1.2.3", server=False)
    builder = EchoServer.builder().authenticator(ByCertificate())
    async with serving(QuicConfig(client_ca=str(tmp_path / "ca.pem")), builder) as server:
        config = QuicConfig.builder().with_cert_chain(certificate).build()
        for credentials, principal in (("", "CN=10.1.2.3"), ("token", "the bearer")):
            async with client(config, credentials).connect(server.addresses[0]) as ann:
                said = await ann.request("whoami", returns=list[str | None])
                assert said[0] == principal
                assert str(said[1]).startswith("sha256:")
                assert said[2] == "CN=10.1.2.3"
        with pytest.raises(Unauthenticated, match="the credentials were not accepted"):
            async with client(config, "wrong").connect(server.addresses[0]):
                pass


async def test_a_pinned_client_needs_no_authenticator() -> None:
    own = self_signed_identity().fingerprint
    config = QuicConfig.builder().with_client_pins(own).build()
    async with serving(config, url="quic://0.0.0.0:0") as server:  # no authenticator, no allow_anonymous
        address = ("127.0.0.1", server.addresses[0].port)
        dialling = QuicConfig.builder().with_self_signed_cert().build()
        async with client(dialling).connect(address) as known:
            said = await known.request("whoami", returns=list[str | None])
            assert said[:2] == [None, own]


@pytest.mark.parametrize("certificate", [None, "self-signed"])
async def test_a_refused_client_is_told_what_is_missing_and_never_got_anywhere(certificate: str | None) -> None:
    ran: list[object] = []

    @event
    async def note() -> None:
        ran.append("event")

    builder = EchoServer.builder().on_connect(ran.append).add_event(note).authenticator(ByCertificate())
    async with serving(QuicConfig(client_pins=(PIN,)), builder) as server:
        with pytest.raises(Unauthenticated) as caught, anyio.fail_after(5):
            async with client(QuicConfig(certificate=certificate), "token").connect(server.addresses[0]) as refused:
                await refused.emit("note")
        said = str(caught.value)
        assert said.startswith("the peer refused: it ")
        wanted = "wants a client certificate" if certificate is None else self_signed_identity().fingerprint
        assert wanted in said
        assert not caught.value.retryable
        await until(lambda: not server.listeners[0]._ways)
        assert (server.stats()["sessions"], server.stats()["unauthenticated"]) == (0, 0)
    assert ran == []


async def test_rejected_credentials_over_quic_dispatch_nothing() -> None:
    ran: list[object] = []

    class Nobody:
        async def authenticate(self, credentials: bytes, peer: PeerIdentity | None) -> str | None:
            ran.append(("asked", credentials, peer))
            return None

    builder = EchoServer.builder().authenticator(Nobody()).on_connect(ran.append).on_disconnect(ran.append)
    async with serving(QuicConfig(), builder) as server:
        with pytest.raises(Unauthenticated, match="the credentials were not accepted"):
            async with client(QuicConfig(), "swordfish").connect(server.addresses[0]) as refused:
                await refused.request("whoami")
    assert ran == [("asked", b"swordfish", None)]
