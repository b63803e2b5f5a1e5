"""Client certificates: who is let in by an authority or a pin, and what everybody else is told."""

from __future__ import annotations

import logging
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import anyio
import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from quic_certificates import authority, intermediate, issue
from quic_helpers import LOCAL, until

from echokernel.errors import ConfigError, ConnectionClosed
from echokernel.tasks import open_tasks
from echokernel.transport import PeerIdentity
from echokernel_protocol.codes import Code
from echokernel_quic import QuicConfig, QuicTransport
from echokernel_quic.config import ALPN
from echokernel_quic.identity import load_identity, self_signed_identity

pytestmark = pytest.mark.anyio


class Authority:
    """One that clients have to come from, and what it and others have issued."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.certificate, self.key = authority(path / "ca.pem")
        self.file = str(path / "ca.pem")

    def issue(self, name: str, **what: Any) -> str:
        return str(issue(self.path / name, self.certificate, self.key, "10.1.2.3", **{"server": False, **what}))


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


async def let_in(config: QuicConfig, client: str | None) -> PeerIdentity:
    """Return what the listener knows of a client that shows this certificate. Data passes both ways."""
    async with open_tasks() as tasks:
        listener = await QuicTransport(config).listen(LOCAL, tasks)
        dialled = await QuicTransport(QuicConfig(certificate=client)).connect(listener.address, tasks)
        with anyio.fail_after(5):
            accepted = await listener.accept()
            send, _ = await dialled.open_bi_stream()
            await send.write(b"in")
            _, recv = await accepted.accept_bi_stream()
            assert await recv.read() == b"in"
        identity = accepted.peer_identity
        await dialled.close(drain=0)
        await accepted.close(drain=0)
        await listener.close()
        assert identity is not None
        return identity


async def refused(config: QuicConfig, client: str | None) -> ConnectionClosed:
    """Return what a client hears that shows this certificate; the listener never saw a connection."""
    async with open_tasks() as tasks:
        listener: Any = await QuicTransport(config).listen(LOCAL, tasks)
        dialled = await QuicTransport(QuicConfig(certificate=client)).connect(listener.address, tasks)
        send, _ = await dialled.open_bi_stream()
        with anyio.fail_after(5):
            try:
                await send.write(b"what a refused client says is never read")
            except ConnectionClosed:
                pass
            error = await dialled.wait_closed()
        assert not listener._queue
        assert not listener._half_open
        await dialled.close(drain=0)
        await until(lambda: not listener._routes)
        await listener.close()
    assert isinstance(error, ConnectionClosed)
    assert (error.code, error.by_peer, error.retryable) == (Code.UNAUTHENTICATED, True, False)
    assert not re.search(r"Traceback|/", error.message), "neither a traceback nor a path of the server's"
    return error


# --- an authority -----------------------------------------------------------------------------------------------------


async def test_a_certificate_of_the_authority_is_let_in_and_known(ca: Authority) -> None:
    names = (x509.DNSName("robot-7.example"), x509.UniformResourceIdentifier("spiffe://example/robot/7"))
    certificate = ca.issue("good.pem", names=names)
    identity = await let_in(QuicConfig(client_ca=ca.file), certificate)
    assert identity == PeerIdentity(
        fingerprint=load_identity(certificate).fingerprint,
        subject="CN=10.1.2.3",
        names=("10.1.2.3", "robot-7.example", "spiffe://example/robot/7"),
    )


async def test_a_certificate_without_a_stated_purpose_is_let_in(ca: Authority) -> None:
    assert await let_in(QuicConfig(client_ca=ca.file), ca.issue("plain.pem", purpose=False))


async def test_the_chain_may_pass_an_intermediate_that_the_client_sends(ca: Authority, tmp_path: Path) -> None:
    middle, key = intermediate(ca.certificate, ca.key)
    certificate = issue(tmp_path / "leaf.pem", middle, key, "10.1.2.3", server=False, send_issuer=True)
    assert await let_in(QuicConfig(client_ca=ca.file), str(certificate))


async def test_an_intermediate_for_servers_vouches_for_no_client(ca: Authority, tmp_path: Path) -> None:
    middle, key = intermediate(ca.certificate, ca.key, purpose=ExtendedKeyUsageOID.SERVER_AUTH)
    certificate = issue(tmp_path / "leaf.pem", middle, key, "10.1.2.3", server=False, send_issuer=True)
    error = await refused(QuicConfig(client_ca=ca.file), str(certificate))
    assert "not meant for clients" in error.message


async def test_a_certificate_signed_by_another_client_is_refused(ca: Authority, tmp_path: Path) -> None:
    mine = load_identity(ca.issue("good.pem"))
    forged = issue(tmp_path / "forged.pem", mine.certificate, mine.key, "10.1.2.3", server=False, send_issuer=True)
    assert "not trusted" in (await refused(QuicConfig(client_ca=ca.file), str(forged))).message


async def test_none_is_refused_with_the_remedy(ca: Authority, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "echokernel.quic")
    error = await refused(QuicConfig(client_ca=ca.file), None)
    assert "it wants a client certificate, and this client has none" in error.message
    assert "set certificate and key" in error.message
    assert "refused: the client has shown no certificate" in caplog.text


async def test_a_rogue_is_refused(ca: Authority) -> None:
    error = await refused(QuicConfig(client_ca=ca.file), "self-signed")
    assert "does not accept our client certificate" in error.message
    assert self_signed_identity().fingerprint in error.message
    assert "not trusted" in error.message


async def test_a_rogue_of_the_same_name_is_refused(ca: Authority, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    rogue = Authority(tmp_path / "other")  # the same subject, another key
    assert "not trusted" in (await refused(QuicConfig(client_ca=ca.file), rogue.issue("rogue.pem"))).message


async def test_an_expired_one_is_refused(ca: Authority) -> None:
    error = await refused(QuicConfig(client_ca=ca.file), ca.issue("old.pem", expired=True))
    assert "no longer valid" in error.message


async def test_one_for_servers_only_is_refused(ca: Authority) -> None:
    error = await refused(QuicConfig(client_ca=ca.file), ca.issue("server.pem", server=True))
    assert "not meant for clients: its extended key usage lacks clientAuth" in error.message


# --- pins -------------------------------------------------------------------------------------------------------------


async def test_a_pinned_key_is_let_in_whoever_signed_it(tmp_path: Path) -> None:
    identity = self_signed_identity()
    seen = await let_in(QuicConfig(client_pins=("sha256:" + "A" * 43, identity.fingerprint)), "self-signed")
    assert seen.fingerprint == identity.fingerprint


async def test_another_key_than_the_pinned_ones_is_refused(ca: Authority) -> None:
    pin = "sha256:" + "A" * 43
    error = await refused(QuicConfig(client_pins=(pin,)), ca.issue("good.pem"))
    assert f"the key {load_identity(str(ca.path / 'good.pem')).fingerprint} is not pinned here" in error.message
    assert pin not in error.message, "who else is let in is nobody's business"
    assert "has none" in (await refused(QuicConfig(client_pins=(pin,)), None)).message


async def test_a_pinned_certificate_with_another_key_is_refused(ca: Authority) -> None:
    """The pin is of the key: its owner has to sign, and a certificate that was merely seen is of no use."""
    pinned = load_identity(ca.issue("good.pem"))
    other = load_identity(ca.issue("other.pem"))
    config = QuicConfig(client_pins=(pinned.fingerprint,))
    async with open_tasks() as tasks:
        listener: Any = await QuicTransport(config).listen(LOCAL, tasks)
        transport = QuicTransport(QuicConfig(certificate=str(ca.path / "other.pem")))
        with pytest.MonkeyPatch.context() as patch:
            stolen = type(other)(other.key, pinned.certificate)
            patch.setattr("echokernel_quic.identity.load_identity", lambda *_: stolen)
            dialled = await transport.connect(listener.address, tasks)
        with anyio.fail_after(5):
            error = await dialled.wait_closed()
        assert "0x133" in str(error)  # decrypt_error: the signature is not the key's
        assert not listener._queue
        await listener.close()


async def test_a_pin_or_an_authority_either_is_enough(ca: Authority) -> None:
    config = QuicConfig(client_ca=ca.file, client_pins=(self_signed_identity().fingerprint,))
    assert await let_in(config, "self-signed")
    assert await let_in(config, ca.issue("good.pem"))
    assert await refused(config, ca.issue("server.pem", server=True))


# --- what else has to hold --------------------------------------------------------------------------------------------


async def test_a_listener_that_does_not_ask_is_told_nothing(ca: Authority) -> None:
    async with open_tasks() as tasks:
        listener = await QuicTransport().listen(LOCAL, tasks)
        client = QuicTransport(QuicConfig(certificate=ca.issue("good.pem")))
        dialled = await client.connect(listener.address, tasks)
        accepted = await listener.accept()
        assert accepted.peer_identity is None
        await dialled.close(drain=0)
        await listener.close()


async def test_refusals_cost_the_others_nothing(ca: Authority) -> None:
    async with open_tasks() as tasks:
        listener: Any = await QuicTransport(QuicConfig(client_ca=ca.file)).listen(LOCAL, tasks)
        good = await QuicTransport(QuicConfig(certificate=ca.issue("good.pem"))).connect(listener.address, tasks)
        accepted = await listener.accept()
        for _ in range(20):
            stranger = await QuicTransport().connect(listener.address, tasks)
            await stranger.wait_closed()
        await until(lambda: len(listener._ways) == 1)
        assert await good.ping() < 1
        assert accepted.error is None
        await good.close(drain=0)
        await listener.close()


async def test_no_tickets_where_clients_prove_who_they_are(ca: Authority) -> None:
    """On resumption nobody shows a certificate; and aioquic's handshake would fail."""
    async with open_tasks() as tasks:
        listener = await QuicTransport(QuicConfig(client_ca=ca.file)).listen(LOCAL, tasks)
        client: Any = await QuicTransport(QuicConfig(certificate=ca.issue("good.pem"))).connect(listener.address, tasks)
        accepted: Any = await listener.accept()
        await client.ping()
        assert accepted.engine.tls.new_session_ticket_cb is None
        assert client.engine.tls._new_session_ticket is None
        await client.close(drain=0)
        await listener.close()


@pytest.mark.parametrize("content", [None, "no certificate"])
async def test_a_bad_authority_file_is_named_before_anything_listens(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "authorities.pem"
    if content is not None:
        path.write_text(content)
    async with open_tasks() as tasks:
        with pytest.raises(ConfigError, match=f"client_ca {re.escape(str(path))}: "):
            await QuicTransport(QuicConfig(client_ca=str(path))).listen(LOCAL, tasks)


async def test_a_missing_client_certificate_is_named(tmp_path: Path) -> None:
    async with open_tasks() as tasks:
        listener = await QuicTransport().listen(LOCAL, tasks)
        with pytest.raises(ConfigError, match=r"certificate .*nowhere\.pem: No such file"):
            await QuicTransport(QuicConfig(certificate=str(tmp_path / "nowhere.pem"))).connect(listener.address, tasks)
        await listener.close()


def openssl_with_quic() -> str:
    """Return the path of an OpenSSL that speaks QUIC; skips, and says what was not checked, where there is none."""
    tool = shutil.which("openssl")
    version = subprocess.run([tool, "version"], capture_output=True, text=True, check=True).stdout if tool else "none"
    found = re.match(r"OpenSSL (\d+)\.(\d+)", version)
    if tool is None or not found or (int(found[1]), int(found[2])) < (3, 5):
        pytest.skip(f"NOT CHECKED against OpenSSL: s_client -quic needs OpenSSL 3.5; here is {version.strip()}")
    return tool


async def test_openssl_agrees(ca: Authority, tmp_path: Path) -> None:
    """An independent client: let in with a certificate of the authority, refused with a rogue one and with none."""
    tool = openssl_with_quic()
    (tmp_path / "other").mkdir()
    rogue = Authority(tmp_path / "other").issue("rogue.pem")
    async with open_tasks() as tasks:
        listener: Any = await QuicTransport(QuicConfig(client_ca=ca.file)).listen(LOCAL, tasks)
        for certificate, welcome in ((ca.issue("good.pem"), True), (rogue, False), (None, False)):
            command = [tool, "s_client", "-quic", "-alpn", ALPN, "-connect", f"127.0.0.1:{listener.address.port}"]
            if certificate is not None:
                command += ["-cert", certificate, "-key", certificate]
            with anyio.move_on_after(2):
                await anyio.run_process(command, check=False, input=b"")
            assert bool(listener._queue) is welcome
            listener._queue.clear()
        await listener.close()
