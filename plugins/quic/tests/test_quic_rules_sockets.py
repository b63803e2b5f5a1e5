"""The rules that need sockets, streams or a handshake."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from quic_helpers import LOCAL, Relay, connected, until

from echokernel.addresses import Address
from echokernel.errors import ConnectionClosed, StreamClosed, StreamReset, TransportError
from echokernel.tasks import open_tasks
from echokernel_quic import QuicConfig, QuicTransport
from echokernel_quic.connection import QuicConnection
from echokernel_quic.factory import make_engine
from echokernel_quic.identity import load_identity, self_signed_identity
from echokernel_quic.listener import HALF_OPEN_WITHOUT_RETRY
from echokernel_quic.streams import HIGH_WATER, LOW_WATER
from echokernel_quic.trust import TrustPolicy

pytestmark = pytest.mark.anyio


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


# --- rule 1: an endpoint of our own -----------------------------------------------------------------------------------


async def test_rule_01_own_endpoint_aioquic_asyncio_is_never_imported() -> None:
    code = "import sys, echokernel_quic.dialer, echokernel_quic.listener; print('aioquic.asyncio' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = await anyio.to_thread.run_sync(
        lambda: subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
        )
    )
    assert done.stdout.strip() == "False"


async def test_rule_01_cancelled_connects_leave_no_socket_behind() -> None:
    silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    silent.bind(("127.0.0.1", 0))
    address = Address("quic", "127.0.0.1", silent.getsockname()[1])
    async with open_tasks() as tasks:
        await anyio.lowlevel.checkpoint()
        before = open_files()
        for _ in range(20):
            with anyio.move_on_after(0.01):
                await QuicTransport().connect(address, tasks)
        await until(lambda: open_files() <= before)
    silent.close()


# --- rule 3: watermark and opener -------------------------------------------------------------------------------------


async def test_rule_03_watermark_writers_wait_and_go_on_when_the_peer_has_read() -> None:
    async with connected() as pair:
        send, _ = await pair.client.open_bi_stream()
        written = 0
        with anyio.move_on_after(0.5) as scope:
            while True:
                await send.write(bytes(16_384))
                written += 16_384
        assert scope.cancelled_caught
        assert send.room <= 0
        assert HIGH_WATER <= written <= HIGH_WATER + 64 * 1024 + 2 * 16_384
        _, recv = await pair.server.accept_bi_stream()
        async with anyio.create_task_group() as group:
            group.start_soon(recv.read_to_end, 2 * written)
            with anyio.fail_after(5):
                await send.wait_room()
            assert send.room >= HIGH_WATER - LOW_WATER
            await send.finish()


async def test_rule_03_opener_waits_at_the_peers_limit_and_cancelling_leaks_no_id() -> None:
    async with connected(QuicConfig(max_streams=4)) as pair:
        streams = [await pair.client.open_bi_stream() for _ in range(4)]
        for _ in range(30):
            with anyio.move_on_after(0.001) as scope:
                await pair.client.open_bi_stream()
            assert scope.cancelled_caught
        for send, recv in streams:
            await send.write(b"x")
            await send.finish()
            back, arriving = await pair.server.accept_bi_stream()
            assert await arriving.read_to_end(10) == b"x"
            await back.finish()
            assert await recv.read() == b""
        with anyio.fail_after(5):
            again = [await pair.client.open_bi_stream() for _ in range(4)]
        assert [send._stream.stream_id for send, _ in again] == [16, 20, 24, 28]


async def test_rule_03_opener_a_thousand_tasks_share_the_limit() -> None:
    async with connected(QuicConfig(max_streams=16)) as pair:
        done = 0

        async def serve() -> None:
            while True:
                recv = await pair.server.accept_uni_stream()
                await recv.read_to_end(10)

        async def call() -> None:
            nonlocal done
            send = await pair.client.open_uni_stream()
            await send.write(b"x")
            await send.finish()
            done += 1

        async with anyio.create_task_group() as group:
            group.start_soon(serve)
            with anyio.fail_after(20):
                async with anyio.create_task_group() as callers:
                    for _ in range(500):
                        callers.start_soon(call)
            group.cancel_scope.cancel()
        assert done == 500
        await until(lambda: len(pair.client._send) == 0)
        assert pair.client._own_streams == 0


# --- rule 5: keepalive ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("keepalive", "dark"), [(4.5, 3.0), (1.5, 0.9)])
async def test_rule_05_keepalive_survives_three_seconds_of_darkness(
    keepalive: float, dark: float, anyio_backend: str
) -> None:
    if keepalive == 4.5 and anyio_backend == "trio":
        pytest.skip("once is enough in full length")
    async with connected(QuicConfig(keepalive=keepalive), relay=lambda tasks, target: Relay(tasks, target)) as pair:
        await pair.client.ping()
        pair.relay.dark = True
        await anyio.sleep(dark)
        pair.relay.dark = False
        with anyio.fail_after(2):
            await pair.client.ping()
            await pair.server.ping()
        assert pair.client.error is None
        assert pair.server.error is None


@pytest.mark.parametrize("keepalive", [4.5, 1.5])
async def test_rule_05_keepalive_both_ends_notice_the_dark_within_five_seconds(
    keepalive: float, anyio_backend: str
) -> None:
    if keepalive == 4.5 and anyio_backend == "trio":
        pytest.skip("once is enough in full length")
    async with connected(QuicConfig(keepalive=keepalive), relay=lambda tasks, target: Relay(tasks, target)) as pair:
        send, recv = await pair.client.open_bi_stream()
        await send.write(b"x")
        _, arriving = await pair.server.accept_bi_stream()
        await arriving.read()
        pair.relay.dark = True
        began = time.monotonic()
        for pending in (recv.read(), arriving.read(), pair.client.accept_uni_stream(), pair.server.recv_datagram()):
            with anyio.fail_after(6), pytest.raises(ConnectionClosed, match="silent"):
                await pending
        assert time.monotonic() - began < keepalive + 0.6


async def test_rule_05_a_stall_of_our_own_loop_is_no_death() -> None:
    async with connected(QuicConfig(keepalive=1.0)) as pair:
        await pair.client.ping()
        time.sleep(1.5)  # noqa: ASYNC251  # the stall
        with anyio.fail_after(2):
            await pair.client.ping()
        assert pair.server.error is None
        await anyio.sleep(0.3)
        assert pair.client.error is None
        assert pair.server.error is None


# --- rule 7: drain, then close ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_rule_07_drain_delivers_what_was_written_through_loss(seed: int) -> None:
    async with connected(relay=lambda tasks, target: Relay(tasks, target, seed=seed, loss=0.08)) as pair:
        send = await pair.client.open_uni_stream()
        data = os.urandom(60_000)
        async with anyio.create_task_group() as group:

            async def read() -> None:
                recv = await pair.server.accept_uni_stream()
                assert await recv.read_to_end(len(data)) == data

            group.start_soon(read)
            await send.write(data)
            await send.finish()
            await pair.client.close(5, "done", drain=10)
        error = await pair.server.wait_closed()
        assert (error.code, error.reason) == (5, "done")


async def test_rule_07_a_lost_goodbye_is_repeated() -> None:
    async with connected(relay=lambda tasks, target: Relay(tasks, target)) as pair:
        await pair.client.ping()
        count = 0

        def drop(data: bytes, to_server: bool) -> bool:
            nonlocal count
            count += to_server
            return to_server and count <= 2

        pair.relay.drop = drop
        began = time.monotonic()
        await pair.client.close(9, "x")
        with anyio.fail_after(1):
            error = await pair.server.wait_closed()
        assert error.code == 9
        assert time.monotonic() - began < 0.6


async def test_rule_07_the_goodbye_is_over_at_once_when_the_peer_answers() -> None:
    async with connected() as pair:
        began = time.monotonic()
        await pair.client.close()
        assert time.monotonic() - began < 0.09


async def test_rule_07_a_long_reason_is_cut_at_a_character() -> None:
    async with connected() as pair:
        await pair.client.close(3, "ü" * 5_000)
        error = await pair.server.wait_closed()
        assert error.reason == "ü" * 128


async def test_rule_07_a_cancelled_close_still_says_goodbye() -> None:
    async with connected() as pair:
        send, _ = await pair.client.open_bi_stream()
        await send.write(bytes(300_000))  # never read: the drain cannot end
        with anyio.move_on_after(0.1):
            await pair.client.close(7, "cancelled", drain=60)
        with anyio.fail_after(1):
            assert (await pair.server.wait_closed()).code == 7


async def test_rule_07_a_goodbye_ends_when_everything_around_it_was_cancelled() -> None:
    """On trio the timers that repeat it are cancelled with their scope; whoever shields the close must not wait for ever."""
    with anyio.fail_after(5):
        async with connected(relay=lambda tasks, target: Relay(tasks, target)) as pair:
            pair.relay.dark = True
            with anyio.CancelScope() as scope:
                async with open_tasks() as tasks:
                    client = await QuicTransport().connect(pair.listener.address, tasks)
                    await pair.listener.accept()
                    assert isinstance(client, QuicConnection)
                    client._endpoint.send = lambda datagrams: None  # type: ignore[method-assign]  # nobody hears of it
                    scope.cancel()
                    with anyio.CancelScope(shield=True):
                        await client.close(drain=0)
            assert client._forgotten


# --- rule 8: half-made connections ------------------------------------------------------------------------------------


async def test_rule_08_only_complete_handshakes_are_accepted_and_others_end_in_time() -> None:
    async with open_tasks() as tasks:
        config = QuicConfig(handshake_timeout=0.3)
        listener = await QuicTransport(config).listen(LOCAL, tasks)
        engine = make_engine(QuicConfig(), policy=TrustPolicy(verify=False), reset_key=b"k", loopback=True)
        target = ("127.0.0.1", listener.address.port)
        engine.connect(target, now=tasks.now())
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for data, _ in engine.transmit(tasks.now()):
                sock.sendto(data, target)
            await until(lambda: len(listener._half_open) == 1)
            await until(lambda: len(listener._half_open) == 0, 1)
            assert not listener._queue
            assert not listener._routes
            assert not listener._per_ip
        await listener.close()


# --- rule 9: whom a client believes -----------------------------------------------------------------------------------


def foreign_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on this process is another user."""
    monkeypatch.setenv("ECHOKERNEL_STATE_DIR", str(tmp_path / "another user"))


async def refused(config: QuicConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    async with open_tasks() as tasks:
        listener = await QuicTransport().listen(LOCAL, tasks)
        foreign_state(tmp_path, monkeypatch)
        with pytest.raises(TransportError) as caught:
            await QuicTransport(config).connect(listener.address, tasks)
        assert not caught.value.retryable
        with anyio.move_on_after(0.05) as scope:
            await listener.accept()
        assert scope.cancelled_caught  # refused before the server saw a connection
        await listener.close()
        return caught.value.message.replace(listener.fingerprint, "SEEN")


async def test_rule_09_an_unknown_certificate_is_refused_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = await refused(QuicConfig(), tmp_path, monkeypatch)
    assert "not trusted" in message
    assert 'fingerprint="SEEN"' in message


async def test_rule_09_a_wrong_pin_is_refused_with_both_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pin = "sha256:" + "A" * 43
    message = await refused(QuicConfig(fingerprints=(pin,)), tmp_path, monkeypatch)
    assert "its key is SEEN" in message
    assert pin in message


async def test_rule_09_a_pin_replaces_chain_and_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_tasks() as tasks:
        listener = await QuicTransport().listen(LOCAL, tasks)
        foreign_state(tmp_path, monkeypatch)
        config = QuicConfig(fingerprints=("sha256:" + "A" * 43, listener.fingerprint), server_name="elsewhere.example")
        client = await QuicTransport(config).connect(listener.address, tasks)
        assert client.peer_identity is not None
        assert client.peer_identity.fingerprint == listener.fingerprint
        await client.close()
        await listener.close()


async def test_rule_09_skipping_verification_warns_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_tasks() as tasks:
        listener = await QuicTransport().listen(LOCAL, tasks)
        foreign_state(tmp_path, monkeypatch)
        transport = QuicTransport(QuicConfig.builder().skip_cert_verification().build())
        with caplog.at_level(logging.WARNING, "echokernel.quic"):
            for _ in range(2):
                client = await transport.connect(listener.address, tasks)
                assert client.peer_identity is None
                await client.close()
        assert sum("verification is off" in record.message for record in caplog.records) == 1
        await listener.close()


async def test_rule_09_an_authority_vouches_for_name_and_purpose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from quic_certificates import authority, issue

    ca, ca_key = authority(tmp_path / "ca.pem")
    good = issue(tmp_path / "good.pem", ca, ca_key, "127.0.0.1")
    misnamed = issue(tmp_path / "misnamed.pem", ca, ca_key, "10.0.0.1")
    client_only = issue(tmp_path / "client.pem", ca, ca_key, "127.0.0.1", server=False)
    for certificate, problem in ((good, None), (misnamed, "10.0.0.1"), (client_only, "not meant for servers")):
        async with open_tasks() as tasks:
            config = QuicConfig(certificate=str(certificate), ca=str(tmp_path / "ca.pem"))
            listener = await QuicTransport(config).listen(LOCAL, tasks)
            assert listener.fingerprint == load_identity(str(certificate)).fingerprint
            if problem is None:
                client = await QuicTransport(config).connect(listener.address, tasks)
                await client.close()
            else:
                with pytest.raises(TransportError, match=problem):
                    await QuicTransport(config).connect(listener.address, tasks)
            await listener.close()


# --- rule 10: no tickets unless asked for ----------------------------------------------------------------------------


async def test_rule_10_no_session_ticket_is_given_or_kept() -> None:
    async with connected() as pair:
        await pair.client.ping()
        for connection in (pair.client, pair.server):
            context = connection.engine.tls
            assert context.new_session_ticket_cb is None
            assert context.get_session_ticket_cb is None
            assert context._new_session_ticket is None
            assert context._max_early_data is None


# --- rule 11: strangers -----------------------------------------------------------------------------------------------


async def test_rule_11_retry_works_and_is_on_where_others_can_come_from() -> None:
    async with connected(QuicConfig(retry=True)) as pair:
        assert pair.client.engine._retry_count == 1
        await pair.client.ping()
    async with open_tasks() as tasks:
        listener = await QuicTransport().listen(Address("quic", "0.0.0.0", 0), tasks)
        assert listener._always_retry
        client = await QuicTransport().connect(Address("quic", "127.0.0.1", listener.address.port), tasks)
        assert client.engine._retry_count == 1
        await client.close()
        await listener.close()


async def test_rule_11_many_half_open_connections_switch_retry_on() -> None:
    async with open_tasks() as tasks:
        listener = await QuicTransport().listen(LOCAL, tasks)
        target = ("127.0.0.1", listener.address.port)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for number in range(HALF_OPEN_WITHOUT_RETRY + 40):
                engine = make_engine(QuicConfig(), policy=TrustPolicy(verify=False), reset_key=b"k", loopback=True)
                engine.connect(target, now=tasks.now())
                for data, _ in engine.transmit(tasks.now()):
                    sock.sendto(data, target)
                if number % 10 == 0:
                    await anyio.sleep(0.01)
            await until(lambda: len(listener._half_open) >= HALF_OPEN_WITHOUT_RETRY)
            await anyio.sleep(0.05)
            assert len(listener._half_open) == HALF_OPEN_WITHOUT_RETRY
            client = await QuicTransport().connect(listener.address, tasks)
            assert client.engine._retry_count == 1
            await client.close()
        await listener.close()


async def test_rule_11_a_full_server_says_so() -> None:
    async with connected(QuicConfig(max_connections=1)) as pair:
        with pytest.raises(TransportError, match="no more connections"):
            await QuicTransport().connect(pair.listener.address, pair.tasks)
        await pair.client.ping()


async def test_rule_11_garbage_is_ignored_and_small_initials_get_no_answer() -> None:
    async with connected() as pair:
        target = ("127.0.0.1", pair.listener.address.port)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            for size in (0, 1, 5, 9, 30, 1200, 9000):
                for first in (0x00, 0x40, 0xC0, 0xFF):
                    sock.sendto(bytes([first]) + os.urandom(size), target)
            initial = bytes([0xC3]) + (1).to_bytes(4, "big") + b"\x08" + os.urandom(8) + b"\x08" + os.urandom(8)
            sock.sendto(initial + bytes(100), target)
            unknown = bytes([0xC3]) + b"\x1a\x2a\x3a\x4a" + b"\x08" + os.urandom(8) + b"\x08" + os.urandom(8)
            sock.sendto(unknown + bytes(100), target)
            await pair.client.ping()
            await anyio.sleep(0.05)
            answers = []
            try:
                while True:
                    answers.append(sock.recv(2000))
            except BlockingIOError:
                pass
            # stateless resets for what looked like a short header, our versions where 1,200 random bytes happened to look like
            # an Initial of another one; never more bytes than came
            assert all(
                (len(answer) <= 42 and answer[0] & 0xC0 == 0x40) or (len(answer) < 100 and answer[1:5] == bytes(4))
                for answer in answers
            )
            sock.sendto(unknown + bytes(1300), target)  # a version from the future: the answer lists ours
            await anyio.sleep(0.05)
            assert sock.recv(2000)[1:5] == bytes(4)
        assert not pair.listener._half_open


# --- rule 12: ALPN ----------------------------------------------------------------------------------------------------


async def test_rule_12_another_protocol_is_refused_naming_both(monkeypatch: pytest.MonkeyPatch) -> None:
    import echokernel_quic.dialer as dialer

    async with open_tasks() as tasks:
        listener = await QuicTransport().listen(LOCAL, tasks)
        monkeypatch.setattr(dialer, "make_engine", lambda *a, **k: make_engine(*a, **k, alpn="h3"))
        monkeypatch.setattr(dialer, "ALPN", "h3")
        with pytest.raises(TransportError) as caught:
            await QuicTransport().connect(listener.address, tasks)
        assert "'h3'" in caught.value.message
        assert "echostream/1" in caught.value.message
        await listener.close()


async def test_rule_12_a_client_without_alpn_is_refused() -> None:
    async with open_tasks() as tasks:
        listener = await QuicTransport().listen(LOCAL, tasks)
        engine = make_engine(QuicConfig(), policy=TrustPolicy(verify=False), reset_key=b"k", loopback=True)
        engine._configuration.alpn_protocols = None
        target = ("127.0.0.1", listener.address.port)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            engine.connect(target, now=tasks.now())
            for data, _ in engine.transmit(tasks.now()):
                sock.sendto(data, target)
            await anyio.sleep(0.1)
            engine.receive_datagram(sock.recv(2000), target, tasks.now())
        assert engine.termination is not None
        assert engine.termination.error_code == 0x100 + 120
        await listener.close()


# --- rule 14: death is an exception -----------------------------------------------------------------------------------


async def test_rule_14_death_raises_everywhere_and_is_never_an_end_of_data() -> None:
    async with connected(QuicConfig(max_streams=2)) as pair:
        send, recv = await pair.client.open_bi_stream()
        await send.write(b"x")
        back, _ = await pair.server.accept_bi_stream()
        await back.write(bytes(1000))
        assert await recv.read() == bytes(1000)
        full, _ = await pair.client.open_bi_stream()
        with anyio.move_on_after(0.2):
            while True:
                await full.write(bytes(65_536))
        failed: list[str] = []

        async def expect(name: str, operation: object) -> None:
            with pytest.raises(ConnectionClosed) as caught:
                await operation  # type: ignore[misc]
            assert caught.value.code == 13
            assert caught.value.by_peer
            failed.append(name)

        client = pair.client
        async with anyio.create_task_group() as group:
            pending = {
                "read": recv.read,
                "write": lambda: full.write(b"x"),
                "wait_room": full.wait_room,
                "open": client.open_bi_stream,
                "accept bi": client.accept_bi_stream,
                "accept uni": client.accept_uni_stream,
                "datagram": client.recv_datagram,
            }
            for name, operation in pending.items():
                group.start_soon(expect, name, operation())
            await anyio.sleep(0.05)
            await pair.server.close(13, "over", drain=0)
        assert sorted(failed) == sorted(pending)
        for later in (recv.read(), send.write(b"x"), send.finish(), client.open_uni_stream(), client.ping()):
            await expect("later", later)
        with pytest.raises(ConnectionClosed):
            send.write_nowait(b"x")
        with pytest.raises(ConnectionClosed):
            client.send_datagram(b"x")
        send.reset(1)
        recv.stop(1)
        client.flush()
        client.established()


# --- rule 15: one stream's trouble is its own -------------------------------------------------------------------------


async def test_rule_15_a_reset_stream_leaves_the_others_alone() -> None:
    async with connected() as pair:
        good, _ = await pair.client.open_bi_stream()
        bad, _ = await pair.client.open_bi_stream()
        await good.write(b"1")
        await bad.write(b"1")
        accepted = [await pair.server.accept_bi_stream() for _ in range(2)]
        bad.reset(99)
        with pytest.raises(StreamReset):  # noqa: PT012
            while True:
                await accepted[1][1].read()
        with pytest.raises(StreamClosed):
            bad.write_nowait(b"2")
        await good.write(b"2")
        with anyio.fail_after(2):
            data = b""
            while data != b"12":
                data += await accepted[0][1].read()
        assert pair.client.error is None
        assert pair.server.error is None


async def test_rule_15_a_failure_inside_costs_one_connection(caplog: pytest.LogCaptureFixture) -> None:
    async with connected() as pair:
        other = await QuicTransport().connect(pair.listener.address, pair.tasks)
        served = await pair.listener.accept()

        def explode(*_: object) -> None:
            raise RuntimeError("a bug")

        pair.server.engine.receive_datagram = explode
        with pytest.raises(ConnectionClosed):
            await pair.client.ping()
        assert isinstance((await pair.server.wait_closed()).__cause__, RuntimeError)
        with anyio.fail_after(2):
            await other.ping()
        await other.close()
        await served.wait_closed()
        assert "failed inside" in caplog.text


# --- errors that a user will meet -------------------------------------------------------------------------------------


async def test_nobody_answers() -> None:
    async with open_tasks() as tasks:
        silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        silent.bind(("127.0.0.1", 0))
        address = Address("quic", "127.0.0.1", silent.getsockname()[1])
        with pytest.raises(TransportError, match=r"nobody answers at quic://127.0.0.1:\d+ within 0.3 s"):
            await QuicTransport(QuicConfig(handshake_timeout=0.3)).connect(address, tasks)
        silent.close()
        began = time.monotonic()
        with pytest.raises(TransportError, match="the port is closed"):
            await QuicTransport().connect(address, tasks)
        assert time.monotonic() - began < 2


async def test_a_port_in_use() -> None:
    async with connected() as pair:
        with pytest.raises(TransportError, match=f"{pair.listener.address.port}: the port is in use"):
            await QuicTransport().listen(pair.listener.address, pair.tasks)


async def test_localhost_is_found_on_ipv6_too() -> None:
    async with open_tasks() as tasks:
        listener = await QuicTransport().listen(Address("quic", "::1", 0), tasks)
        client = await QuicTransport().connect(Address("quic", "localhost", listener.address.port), tasks)
        with anyio.fail_after(2):
            await client.ping()
        await client.close()
        await listener.close()


async def test_an_unknown_host() -> None:
    async with open_tasks() as tasks:
        with pytest.raises(TransportError, match="no address is known"):
            await QuicTransport().connect(Address("quic", "nowhere.invalid", 4433), tasks)


# --- the path ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_hostile_path_delivers_everything_or_nothing(seed: int) -> None:
    def relay(tasks: object, target: Address) -> Relay:
        return Relay(
            tasks,
            target,
            seed=seed,
            loss=0.05,
            duplicate=0.1,
            corrupt=0.03,
            delay=(0.001, 0.01),  # type: ignore[arg-type]
        )

    async with connected(relay=relay) as pair:
        data = os.urandom(100_000)
        async with anyio.create_task_group() as group:

            async def write() -> None:
                send = await pair.client.open_uni_stream()
                await send.write(data)
                await send.finish()

            group.start_soon(write)
            with anyio.fail_after(20):
                recv = await pair.server.accept_uni_stream()
                assert await recv.read_to_end(len(data)) == data


async def test_a_narrow_path_behind_loopback_falls_back_to_small_packets() -> None:
    async with connected(relay=lambda tasks, target: Relay(tasks, target)) as pair:
        first = await pair.client.open_uni_stream()
        await first.write(bytes(20_000))
        recv = await pair.server.accept_uni_stream()
        await until(lambda: pair.client.engine.datagram_size > 1200)
        pair.relay.max_size = 1500  # large packets passed once, and never again
        data = os.urandom(100_000)
        async with anyio.create_task_group() as group:

            async def write() -> None:
                send = await pair.client.open_uni_stream()
                await send.write(data)
                await send.finish()

            group.start_soon(write)
            with anyio.fail_after(10):
                recv = await pair.server.accept_uni_stream()
                assert await recv.read_to_end(len(data)) == data
        assert pair.client.engine.datagram_size == 1200


async def test_a_client_may_move_to_another_port() -> None:
    async with connected(relay=lambda tasks, target: Relay(tasks, target)) as pair:
        for _ in range(3):
            await pair.client.ping()
            before = pair.server.peer_addr
            pair.relay.rebind()
            with anyio.fail_after(3):
                await pair.client.ping()
                await pair.server.ping()
            assert pair.server.peer_addr != before


async def test_identity_keys_do_not_show(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        async with connected() as pair:
            send, _ = await pair.client.open_bi_stream()
            await send.write(b"CANARY-PAYLOAD")
            _, recv = await pair.server.accept_bi_stream()
            await recv.read()
            shown = [repr(o) for o in (pair.client, pair.server, pair.listener, self_signed_identity(), recv, send)]
    assert not any("CANARY" in text or "PRIVATE" in text for text in [caplog.text, *shown])


async def test_nothing_is_left_of_closed_connections() -> None:
    async with open_tasks() as tasks:
        listener = await QuicTransport().listen(LOCAL, tasks)
        await anyio.sleep(0.01)
        before = open_files()
        for number in range(12):
            client = await QuicTransport().connect(listener.address, tasks)
            server = await listener.accept()
            client.established()
            server.established()
            send, recv = await client.open_bi_stream()
            await send.write(b"x")
            _, arriving = await server.accept_bi_stream()
            assert await arriving.read() == b"x"
            if number % 3 == 0:
                await client.close()
            elif number % 3 == 1:
                await server.close(1, "server")
            else:
                async with anyio.create_task_group() as group:
                    group.start_soon(client.close)
                    group.start_soon(server.close)
            for stream in (recv, arriving):
                with pytest.raises(ConnectionClosed):
                    await stream.read()
        await until(lambda: not listener._routes and open_files() <= before)
        assert not listener._ways
        assert not listener._origins
        assert not listener._per_ip
        await listener.close()
        await until(lambda: listener._socket.fileno() == -1)


@pytest.mark.parametrize("seed", [1, 2])
async def test_mutated_packets_cost_nothing(seed: int) -> None:
    """Corrupted and truncated copies of real packets, handshakes included: no exception inside, and life goes on."""
    import random

    chance = random.Random(seed)
    async with open_tasks() as tasks:
        listener = await QuicTransport(QuicConfig(handshake_timeout=0.5)).listen(LOCAL, tasks)
        target = ("127.0.0.1", listener.address.port)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for _ in range(150):
                engine = make_engine(QuicConfig(), policy=TrustPolicy(verify=False), reset_key=b"k", loopback=True)
                engine.connect(target, now=tasks.now())
                (packet, _), *_ = engine.transmit(tasks.now())
                mutated = bytearray(packet)
                for _ in range(chance.randrange(1, 6)):
                    mutated[chance.randrange(len(mutated) if chance.random() < 0.5 else 60)] = chance.randrange(256)
                cut = len(mutated) if chance.random() < 0.8 else chance.randrange(len(mutated))
                sock.sendto(mutated[:cut], target)
                if chance.random() < 0.1:
                    await anyio.sleep(0.001)
            client = await QuicTransport().connect(listener.address, tasks)
            with anyio.fail_after(2):
                await client.ping()
            await client.close()
            await until(lambda: not listener._half_open)
        await listener.close()
