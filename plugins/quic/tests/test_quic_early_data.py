"""0-RTT over real sockets: what runs before the handshake is complete, and what somebody who recorded it can do."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from aioquic.quic.packet import QuicPacketType
from aioquic.tls import Epoch
from quic_certificates import authority, issue
from quic_helpers import Relay, until

from echokernel import ConnectionClosed, EchoClient, EchoServer, Session, Unauthenticated, event, rpc
from echokernel.addresses import Address
from echokernel.errors import ConfigError
from echokernel.server import ServerBuilder
from echokernel.tasks import open_tasks
from echokernel.testing import JsonSerializer
from echokernel_quic import QuicConfig, QuicTransport
from echokernel_quic import tickets as tickets_module
from echokernel_quic import transport as transport_module
from echokernel_quic.settings import ConnectSettings, ListenSettings
from echokernel_quic.tickets import Issued, Resumable, TicketBook, TrustKey
from echokernel_quic.trust import TrustPolicy

pytestmark = pytest.mark.anyio
EARLY = QuicConfig.builder().enable_0rtt().build()
IMPATIENT = QuicConfig(zero_rtt=True, handshake_timeout=1.0)  # for tests that wait for the end of a handshake


@pytest.fixture(autouse=True)
def no_tickets() -> None:
    transport_module._book.cache_clear()


class Ran:
    """What handlers ran, and whether the handshake was complete by then."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, bool]] = []

    def builder(self) -> ServerBuilder:
        @rpc
        async def double(session: Session, x: int) -> int:
            self.calls.append((x, session._connection.early))
            return 2 * x

        @event
        async def note(session: Session, text: str) -> None:
            self.calls.append((text, session._connection.early))

        return EchoServer.builder().add_rpc(double).add_event(note)


@contextlib.asynccontextmanager
async def serving(builder: ServerBuilder, config: QuicConfig = EARLY, port: int = 0) -> AsyncIterator[Any]:
    builder = builder.transport(QuicTransport(config)).bind(f"quic://127.0.0.1:{port}").serializer(JsonSerializer())
    async with builder.build() as server:
        yield server


def client(address: Address, config: QuicConfig = EARLY, credentials: str = "") -> Any:
    builder = EchoClient.builder().transport(QuicTransport(config)).serializer(JsonSerializer())
    return builder.credentials(credentials).connect(address)


async def visit(address: Address, config: QuicConfig = EARLY, credentials: str = "") -> None:
    """Earn a ticket."""
    async with client(address, config, credentials) as first:
        await until(lambda: first.session._connection._to_remember is not None)
        await first.ping()


def engine(dialled: EchoClient) -> Any:
    return dialled.session._connection.engine  # type: ignore[attr-defined]


class Tap(Relay):
    """Records what the client sends, and lets through as much of it as the test wants."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.recorded: list[bytes] = []
        self.only_first_flight = False
        self.answered = False
        self.drop = self._judge

    def begin(self, *, only_first_flight: bool) -> None:
        self.recorded.clear()
        self.answered, self.only_first_flight = False, only_first_flight

    def _judge(self, data: bytes, to_server: bool) -> bool:
        if not to_server:
            self.answered = True
            return False
        if data[0] & 0x80 and not self.answered:
            self.recorded.append(data)
        # what begins with 0-RTT (0xD0) holds nothing of the handshake; behind an Initial packet there may be its end
        return self.only_first_flight and self.answered and data[0] & 0xF0 != 0xD0


@contextlib.asynccontextmanager
async def tapped(ran: Ran, config: QuicConfig = EARLY, builder: ServerBuilder | None = None) -> AsyncIterator[Any]:
    """A server behind a tap, and a ticket."""
    async with serving(builder or ran.builder(), config) as server, open_tasks() as tasks:
        tap = Tap(tasks, server.addresses[0])
        try:
            await visit(tap.address)
            yield server, tap
        finally:
            tap.close()
            await anyio.lowlevel.checkpoint()


# --- what it is for ---------------------------------------------------------------------------------------------------


async def test_a_marked_request_travels_early_and_the_others_do_not() -> None:
    ran = Ran()
    async with tapped(ran) as (server, tap):
        async with client(tap.address) as early:
            assert await early.request("double", 1, idempotent=True, returns=int) == 2
            assert engine(early).tls.early_data_accepted
            assert await early.request("double", 2, returns=int) == 4
            identity = early.session.peer_identity
            assert identity is not None, "who the server is was proved with the ticket's certificate"
            assert identity.fingerprint == server.listeners[0].fingerprint
        # whether the first one also ran early is a race here, with the rest of the handshake; the next test decides it
        assert [x for x, _ in ran.calls] == [1, 2]
        assert ran.calls[1] == (2, False)


async def test_while_the_handshake_cannot_complete_only_marked_requests_run() -> None:
    ran = Ran()
    async with tapped(ran, IMPATIENT) as (server, tap):
        tap.begin(only_first_flight=True)
        answers: list[int] = []

        async def hopeless(wait: Any) -> None:
            with contextlib.suppress(ConnectionClosed):
                await wait

        async def ask(dialled: EchoClient, x: int) -> None:
            answers.append(await dialled.request("double", x, idempotent=True, returns=int))

        with anyio.CancelScope() as scope:
            async with client(tap.address) as early, anyio.create_task_group() as tasks:
                tasks.start_soon(hopeless, early.emit("note", "event"))
                tasks.start_soon(hopeless, early.request("double", 5))
                for x in (1, 2, 3):
                    tasks.start_soon(ask, early, x)
                await until(lambda: len(answers) == 3)
                assert sorted(ran.calls) == [(1, True), (2, True), (3, True)]
                assert sorted(answers) == [2, 4, 6], "they are answered, too"
                sessions = server.context().sessions()
                assert [session._connection.early for session in sessions] == [True]
                scope.cancel()
        await until(lambda: not server.context().sessions(), 8)  # the handshake's time is over
        assert len(ran.calls) == 3


async def test_many_in_a_row_are_all_early_and_each_takes_one_ticket() -> None:
    ran = Ran()
    async with serving(ran.builder()) as server:
        await visit(server.addresses[0])
        for x in range(10):
            async with client(server.addresses[0]) as early:
                assert await early.request("double", x, idempotent=True, returns=int) == 2 * x
                assert engine(early).tls.early_data_accepted
                await early.ping()
        assert [x for x, _ in ran.calls] == list(range(10))
        assert len(server.listeners[0]._issued) == 1


async def test_a_large_marked_request_waits_with_its_body() -> None:
    async with serving(Ran().builder().add_rpc(length)) as server:
        await visit(server.addresses[0])
        async with client(server.addresses[0]) as early:
            assert await early.request("length", "x" * 500_000, idempotent=True, returns=int) == 500_000
            assert engine(early).tls.early_data_accepted


@rpc
async def length(text: str) -> int:
    return len(text)


async def test_many_early_requests_fill_the_strangers_window_and_all_are_answered() -> None:
    ran = Ran()
    async with serving(ran.builder().add_rpc(length)) as server:
        await visit(server.addresses[0])
        async with client(server.addresses[0]) as early, anyio.create_task_group() as tasks:
            for _ in range(40):
                tasks.start_soon(lambda: early.request("length", "x" * 20_000, idempotent=True))
        assert engine(early).tls.early_data_accepted


# --- somebody who recorded it -----------------------------------------------------------------------------------------


async def replay(recorded: list[bytes], server: Any, *, times: int = 3) -> None:
    for _ in range(times):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            for data in recorded:
                sock.sendto(data, ("127.0.0.1", server.addresses[0].port))
            await anyio.sleep(0.1)
        finally:
            sock.close()


async def test_a_replayed_flight_runs_nothing_while_the_original_lives_and_after() -> None:
    ran = Ran()
    async with tapped(ran, IMPATIENT) as (server, tap):
        tap.begin(only_first_flight=False)
        async with client(tap.address) as early:
            assert await early.request("double", 1, idempotent=True, returns=int) == 2
            assert engine(early).tls.early_data_accepted
            recorded = list(tap.recorded)
            assert len(recorded) >= 2
            await replay(recorded, server)
            assert await early.request("double", 2, idempotent=True, returns=int) == 4
        await until(lambda: not server.context().sessions())
        await replay(recorded, server)
        listener = server.listeners[0]
        await until(lambda: not listener._routes, 8)  # nothing routes to the old connection any more
        await replay(recorded, server)
        assert listener._routes, "the replay began a connection, and got no further"
        await anyio.sleep(0.2)
        assert server.context().sessions() == []
        # each ran once; whether the first was early is a race with the handshake, which another test decides
        assert [x for x, _ in ran.calls] == [1, 2]


async def test_a_withheld_flight_that_is_sent_by_somebody_else_runs_once() -> None:
    """The attacker lets nothing through, and sends copies from addresses of its own."""
    ran = Ran()
    async with tapped(ran, IMPATIENT) as (server, tap):
        tap.begin(only_first_flight=False)
        withheld: list[bytes] = []

        def withhold(data: bytes, to_server: bool) -> bool:
            if to_server:
                withheld.append(data)
            return True

        tap.drop = withhold
        with anyio.move_on_after(1):
            async with client(tap.address) as early:
                await early.request("double", 1, idempotent=True)
        assert ran.calls == []
        flight = withheld[:2]  # Initial, and 0-RTT; later ones repeat the first, or say goodbye
        assert [data[0] & 0xF0 for data in flight] == [0xC0, 0xD0]
        await replay(flight, server, times=5)
        assert ran.calls == [(1, True)]
        await until(lambda: not server.listeners[0]._routes, 8)
        await replay(flight, server, times=2)
        assert ran.calls == [(1, True)]


# --- falling back -----------------------------------------------------------------------------------------------------


async def test_rejected_early_data_runs_once_after_the_handshake() -> None:
    ran = Ran()
    async with serving(ran.builder()) as server:
        address = server.addresses[0]
        await visit(address)
    async with serving(ran.builder(), port=address.port) as server:  # it knows no ticket
        async with client(address) as early:
            assert early.session._early is not None
            await early.session._connection.confirmed()
            in_flight = engine(early)._spaces[Epoch.ONE_RTT].sent_packets.values()
            assert not [packet for packet in in_flight if packet.packet_type is QuicPacketType.ZERO_RTT], (
                "sent again at once"
            )
            assert await early.request("double", 1, idempotent=True, returns=int) == 2
            assert not engine(early).tls.early_data_accepted
            assert await early.request("double", 2, returns=int) == 4
        assert ran.calls == [(1, False), (2, False)]
        async with client(address) as early:
            assert await early.request("double", 3, idempotent=True, returns=int) == 6
            assert engine(early).tls.early_data_accepted
        assert [x for x, _ in ran.calls] == [1, 2, 3]


async def test_a_server_that_switched_it_off_is_served_in_the_ordinary_way() -> None:
    ran = Ran()
    async with serving(ran.builder()) as server:
        address = server.addresses[0]
        await visit(address)
    async with serving(ran.builder(), QuicConfig(), address.port):
        for x in (1, 2):
            async with client(address) as early:
                assert await early.request("double", x, idempotent=True, returns=int) == 2 * x
    assert ran.calls == [(1, False), (2, False)]


async def test_where_addresses_are_proved_first_it_still_runs_once() -> None:
    ran = Ran()
    config = QuicConfig(zero_rtt=True, retry=True)
    async with serving(ran.builder(), config) as server:
        await visit(server.addresses[0])
        async with client(server.addresses[0]) as early:
            with anyio.fail_after(3):
                assert await early.request("double", 1, idempotent=True, returns=int) == 2
            assert engine(early)._retry_count == 1
            assert await early.request("double", 2, returns=int) == 4
    assert [x for x, _ in ran.calls] == [1, 2]


@pytest.mark.parametrize("seed", range(3))
async def test_through_loss_everything_runs_exactly_once(seed: int) -> None:
    ran = Ran()
    async with serving(ran.builder()) as server, open_tasks() as tasks:
        relay = Relay(tasks, server.addresses[0], seed=seed, loss=0.1, duplicate=0.2, delay=(0.0, 0.01))
        try:
            with anyio.fail_after(30):
                for x in range(0, 10, 2):
                    async with client(relay.address) as early:
                        assert await early.request("double", x, idempotent=True, returns=int) == 2 * x
                        assert await early.request("double", x + 1, returns=int) == 2 * x + 2
                        await early.ping()
        finally:
            relay.close()
            await anyio.lowlevel.checkpoint()
    assert sorted(x for x, _ in ran.calls) == list(range(10))


async def test_a_server_that_is_gone_is_an_error_that_says_so() -> None:
    ran = Ran()
    async with serving(ran.builder()) as server:
        address = server.addresses[0]
        await visit(address)
    with pytest.raises(ConnectionClosed, match="nobody answers at quic://") as caught, anyio.fail_after(3):
        async with client(address) as early:
            await early.request("double", 1, idempotent=True)
    assert caught.value.retryable


async def test_a_rejected_peer_is_told_although_it_did_not_wait() -> None:
    class Once:
        left = 1

        async def authenticate(self, credentials: bytes, peer: object) -> str | None:
            self.left -= 1
            return "ann" if self.left >= 0 else None

    ran = Ran()
    async with serving(ran.builder().authenticator(Once())) as server:
        await visit(server.addresses[0], credentials="secret")
        async with client(server.addresses[0], credentials="secret") as early:
            with pytest.raises(Unauthenticated, match="the credentials were not accepted"), anyio.fail_after(3):
                await early.request("double", 1, idempotent=True)
        assert ran.calls == []


# --- tickets and trust ------------------------------------------------------------------------------------------------


async def test_a_ticket_is_of_no_use_under_another_trust(tmp_path: Path) -> None:
    """What was earned without a check must not pass for one; a wrong pin is refused although there is a ticket."""
    from echokernel.errors import TransportError

    unchecked = QuicConfig.builder().skip_cert_verification().enable_0rtt().build()
    pinned = QuicConfig.builder().with_fingerprint("sha256:" + "A" * 43).enable_0rtt().build()
    ran = Ran()
    async with serving(ran.builder()) as server:
        await visit(server.addresses[0], unchecked)
        with pytest.raises(TransportError, match="is not trusted"):
            async with client(server.addresses[0], pinned):
                pass
        right = QuicConfig.builder().with_fingerprint(server.listeners[0].fingerprint).enable_0rtt().build()
        async with client(server.addresses[0], right) as dialled:
            assert not engine(dialled).tls.session_resumed
            assert dialled.session._early is None
        async with client(server.addresses[0], unchecked) as early:
            await early.request("double", 1, idempotent=True)
            assert early.session.peer_identity is None, "nobody ever proved anything"
            assert engine(early).tls.session_resumed


async def test_another_authority_in_the_same_file_is_another_trust(tmp_path: Path) -> None:
    from echokernel.errors import TransportError

    ca, key = authority(tmp_path / "ca.pem")
    certificate = issue(tmp_path / "server.pem", ca, key, "127.0.0.1")
    config = QuicConfig(certificate=str(certificate), zero_rtt=True)
    dialling = QuicConfig(ca=str(tmp_path / "ca.pem"), zero_rtt=True)
    async with serving(Ran().builder(), config) as server:
        await visit(server.addresses[0], dialling)
        authority(tmp_path / "ca.pem")
        with pytest.raises(TransportError, match="is not trusted"):
            async with client(server.addresses[0], dialling):
                pass


async def test_there_are_no_tickets_unless_both_ends_want_them() -> None:
    for listening, dialling in ((EARLY, QuicConfig()), (QuicConfig(), EARLY)):
        async with serving(Ran().builder(), listening) as server, client(server.addresses[0], dialling) as dialled:
            await dialled.ping()
            await dialled.ping()
            assert engine(dialled).tls._new_session_ticket is None
            issued = server.listeners[0]._issued
            assert not issued
        assert not transport_module._book()._tickets


def test_client_certificates_and_early_data_exclude_each_other() -> None:
    pin = "sha256:" + "A" * 43
    with pytest.raises(ConfigError, match="zero_rtt: a connection that is resumed shows no client certificate"):
        QuicConfig.builder().with_client_pins(pin).enable_0rtt().build()
    with pytest.raises(ConfigError, match="zero_rtt"):
        QuicTransport(QuicConfig(client_ca="ca.pem", zero_rtt=True))
    with pytest.raises(ConfigError, match="zero_rtt"):
        ListenSettings(pins=[pin], zero_rtt=True).to_config()
    with pytest.raises(ConfigError, match="zero_rtt"):
        ConnectSettings(certificate="self-signed", zero_rtt=True).to_config()
    assert ListenSettings(zero_rtt=True).to_config() == EARLY
    assert ConnectSettings(zero_rtt=True).to_config() == EARLY


def ticket(name: bytes) -> Any:
    import datetime

    from aioquic.tls import CipherSuite

    from echokernel_quic.trust import SilentTicket

    now = datetime.datetime.now(datetime.UTC)
    return SilentTicket(
        age_add=1,
        cipher_suite=CipherSuite.AES_128_GCM_SHA256,
        not_valid_after=now + datetime.timedelta(days=1),
        not_valid_before=now - datetime.timedelta(days=1),
        resumption_secret=b"canary",
        server_name="x",
        ticket=name,
    )


def test_issued_tickets_are_taken_once_under_their_protocol_and_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(tickets_module.time, "monotonic", lambda: now[0])
    issued = Issued()
    for name in (b"a", b"b", b"c"):
        issued.put(ticket(name), "echostream/1")
    assert issued.take(b"a", "echostream/1") is not None
    assert issued.take(b"a", "echostream/1") is None
    assert issued.take(b"b", "echostream/2") is None
    assert issued.take(b"b", "echostream/1") is None, "a try with another protocol has used it up"
    now[0] += tickets_module.TICKET_SECONDS
    assert issued.take(b"c", "echostream/1") is None
    for number in range(tickets_module.MAX_ISSUED + 5):
        issued.put(ticket(b"%d" % number), None)
    assert len(issued) == tickets_module.MAX_ISSUED
    assert issued.take(b"4", None) is None
    assert issued.take(b"5", None) is not None


def test_a_dialers_tickets_are_bounded_and_age_with_their_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(tickets_module.time, "monotonic", lambda: now[0])
    book, key = TicketBook(), TrustKey(("h",), "echostream/1", TrustPolicy())
    book.put(key, Resumable(ticket(b"old"), 1000.0 - tickets_module.TRUST_SECONDS, 1000.0))
    assert book.take(key) is None, "its certificate was seen too long ago"
    for number in range(9):
        book.put(key, Resumable(ticket(b"%d" % number), 1000.0, 1000.0))
    taken = [entry.ticket.ticket for _ in range(9) if (entry := book.take(key))]
    assert taken == [b"8", b"7", b"6", b"5"]
    book.put(key, Resumable(ticket(b"x"), 1000.0, 1000.0))
    now[0] += tickets_module.TICKET_SECONDS
    assert book.take(key) is None
    for number in range(tickets_module.MAX_SERVERS + 9):
        book.put(TrustKey((number,), "echostream/1", TrustPolicy()), Resumable(ticket(b"x"), now[0], now[0]))
    assert len(book._tickets) == tickets_module.MAX_SERVERS
    assert book.take(TrustKey((300,), "echostream/1", TrustPolicy(verify=False))) is None


async def test_no_secret_of_a_ticket_reaches_a_log_or_a_repr(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with serving(Ran().builder()) as server:
        await visit(server.addresses[0])
        book, issued = transport_module._book(), server.listeners[0]._issued
        entry = next(iter(book._tickets.values()))[0]
        kept = next(iter(issued._tickets.values()))
        secrets = [entry.ticket.resumption_secret, entry.ticket.ticket]
        seen: list[object] = [book, issued, entry, entry.ticket, kept, server, *server.listeners]
        async with client(server.addresses[0]) as early:
            await early.request("double", 1, idempotent=True)
            connection = early.session._connection
            seen += [early, early.session, connection, connection.engine, connection.engine._configuration]
            seen += [connection.resumable, connection.engine.tls.session_ticket, vars(connection)]
        everything = caplog.text + "".join(map(repr, seen)) + "".join(map(str, seen))
        for secret in secrets:
            assert repr(secret)[2:-1] not in everything
            assert secret.hex() not in everything
