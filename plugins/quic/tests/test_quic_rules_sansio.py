"""The rules that need no socket: two engines in virtual time."""

from __future__ import annotations

import pytest
from aioquic.quic import events
from aioquic.quic.packet import QuicErrorCode
from aioquic.quic.stream import QuicStream
from quic_helpers import Wire

from echokernel_quic.credit import NEWCOMERS, STRANGER_WINDOW, STREAM_WINDOW, STREAM_WINDOW_MAX
from echokernel_quic.engine import reset_token
from echokernel_quic.stateless import Budget, connection_id_of, stateless_reset


def ready(**options: float) -> Wire:
    wire = Wire(**options)  # type: ignore[arg-type]
    wire.handshake()
    return wire


def test_rule_02_credit_a_reader_that_never_reads_stops_the_sender() -> None:
    wire = ready()
    stream = wire.client.open_stream(False)
    stream.sender.write(bytes(8_000_000))
    wire.run(10)
    arrived = sum(len(e.data) for e in wire.events[wire.server] if isinstance(e, events.StreamDataReceived))
    assert arrived == STREAM_WINDOW


def test_rule_02_credit_follows_consumption_and_the_window_grows_for_a_quick_reader() -> None:
    wire = ready()
    stream = wire.client.open_stream(False)
    stream.sender.write(bytes(4_000_000))
    seen = 0
    server = wire.server
    assert server is not None
    for _ in range(2_000):
        wire.run(0.01)
        for event in wire.events.pop(server, []):
            if isinstance(event, events.StreamDataReceived):
                seen += len(event.data)
                server.consume(server.stream(0), len(event.data))
        if seen == 4_000_000:
            break
    assert seen == 4_000_000
    assert server.incoming[0].window == STREAM_WINDOW_MAX


def test_rule_02_credit_unread_streams_cannot_freeze_the_channel() -> None:
    wire = ready()
    server = wire.server
    assert server is not None
    channel = wire.client.open_stream(False)
    wire.client.prioritize(0)
    channel.sender.write(b"x")
    wire.run(0.2)
    server.prioritize(0)
    server.consume(server.stream(0), 1)
    for _ in range(60):
        wire.client.open_stream(True).sender.write(bytes(100_000))
    wire.run(5)
    channel.sender.write(bytes(20_000))
    wire.events.clear()
    wire.run(1)
    arrived = sum(len(e.data) for e in wire.events[server] if getattr(e, "stream_id", None) == 0)
    assert arrived == 20_000


def test_rule_02_credit_strangers_get_256_kib_in_all() -> None:
    wire = Wire()
    wire.run(5, lambda: wire.server is not None and wire.client.handshake_confirmed)
    for _ in range(20):
        wire.client.open_stream(True).sender.write(bytes(100_000))
    wire.run(5)
    arrived = sum(len(e.data) for e in wire.events[wire.server] if isinstance(e, events.StreamDataReceived))
    assert arrived <= STRANGER_WINDOW
    assert arrived > STRANGER_WINDOW - 2 * 1200


def test_rule_02_credit_of_reset_and_stopped_streams_returns() -> None:
    wire = ready()
    server = wire.server
    assert server is not None
    for _ in range(60):  # far more than the connection's window in all, one after the other
        stream = wire.client.open_stream(True)
        stream.sender.write(bytes(60_000))
        wire.run(0.1)
        arriving = server.stream(stream.stream_id)
        assert arriving is not None
        stream.sender.reset(1)
        wire.run(0.1)
        server.end_receiving(arriving)
    assert server.credit.consumed >= 60 * 50_000
    assert server.incoming == {}


def test_rule_02_credit_sparse_frames_hold_one_window() -> None:
    wire = ready()
    server = wire.server
    assert server is not None
    stream = wire.client.open_stream(False)
    wire.client._remote_max_data = stream.max_stream_data_remote = 2**40  # an attacker ignores what it was granted
    stream.sender.write(b"x")
    wire.run(0.1)
    for factor in range(1, 20):
        receiver = server.stream(0)
        if receiver is None or server.is_over:
            break
        edge = receiver.max_stream_data_local - 1
        stream.sender._buffer_start = stream.sender._buffer_stop = edge * factor
        stream.sender.write(b"y")
        wire.run(0.05)
    assert server.is_over  # over the window: FLOW_CONTROL_ERROR
    assert len(stream.receiver._buffer) <= STREAM_WINDOW
    assert server.termination is not None
    assert "limit" in server.termination.reason_phrase


def test_rule_02_credit_empty_streams_that_nobody_took_count_as_open() -> None:
    wire = ready(max_streams=10)
    server = wire.server
    assert server is not None
    for _ in range(10):
        wire.client.open_stream(True).sender.write(b"", end_stream=True)
    wire.run(2)
    assert wire.client.may_open(True) == 0
    for stream_id in list(server._gone_unread):
        server.end_receiving(QuicStream(stream_id=stream_id))
        break
    wire.run(2)
    assert wire.client.may_open(True)


def test_rule_03_the_peers_limit_of_streams_is_ours_to_set() -> None:
    wire = ready(max_streams=7)
    opened = 0
    while wire.client.may_open(False):
        wire.client.open_stream(False)
        opened += 1
    assert opened == 7


def test_rule_04_a_datagram_too_long_for_its_packet_does_not_block_the_queue() -> None:
    wire = ready()
    limit = wire.client.max_datagram
    assert limit == 1170
    wire.client.send_datagram(bytes(limit), 256)
    wire.client.send_datagram(bytes(limit + 1), 256)
    wire.client.send_datagram(b"after", 256)
    wire.run(0.5)
    got = [len(e.data) for e in wire.events[wire.server] if isinstance(e, events.DatagramFrameReceived)]
    assert got == [limit, 5]
    assert wire.client.datagrams_dropped == 1


def test_rule_04_a_full_queue_drops_the_oldest_datagram() -> None:
    wire = ready()
    for number in range(300):
        wire.client.send_datagram(number.to_bytes(2, "big"), 256)
    assert wire.client.datagrams_dropped == 300 - 256
    wire.run(0.5)
    got = [e.data for e in wire.events[wire.server] if isinstance(e, events.DatagramFrameReceived)]
    assert got[0] == (300 - 256).to_bytes(2, "big")


def test_datagrams_do_not_starve_streams() -> None:
    wire = ready()
    stream = wire.client.open_stream(True)
    stream.sender.write(bytes(30_000))
    for _ in range(30):
        for _ in range(100):
            wire.client.send_datagram(bytes(1_000), 256)
        wire.run(0.02)
    arrived = sum(len(e.data) for e in wire.events[wire.server] if isinstance(e, events.StreamDataReceived))
    assert arrived == 30_000


@pytest.mark.parametrize("loopback", [True, False])
def test_a_long_path_is_filled_with_and_without_pacing(loopback: bool) -> None:
    wire = ready(latency=0.02, loopback=loopback)
    server = wire.server
    stream = wire.client.open_stream(True)
    stream.sender.write(bytes(2_000_000), end_stream=True)
    began, seen = wire.now, 0
    while seen < 2_000_000 and wire.now < began + 20:
        wire.run(0.01)
        for event in wire.events.pop(server, []):
            if isinstance(event, events.StreamDataReceived):
                seen += len(event.data)
                if (arriving := server.stream(event.stream_id)) is not None:
                    server.consume(arriving, len(event.data))
    assert seen == 2_000_000
    assert wire.now - began < 2.5  # 256 KiB per round trip of 40 ms at best, after the window has grown


def test_the_prioritized_stream_goes_first_and_a_pass_ends_after_16_packets() -> None:
    wire = ready()
    bulk, channel = wire.client.open_stream(True), wire.client.open_stream(False)
    wire.client.prioritize(channel.stream_id)
    wire.client._loss._cc.congestion_window = 10**7
    bulk.sender.write(bytes(50_000))
    channel.sender.write(b"urgent")
    datagrams = wire.client.transmit(wire.now)
    assert len(datagrams) == 16
    assert wire.client.more_to_send
    assert channel.sender.highest_offset == 6
    wire.server.receive_datagram(datagrams[0][0], wire.CLIENT, wire.now)
    wire._collect(wire.server)
    first = next(e for e in wire.events[wire.server] if isinstance(e, events.StreamDataReceived))
    assert first.data == b"urgent"


def test_rule_06_tokens_survive_a_restart_and_fit_all_connection_ids() -> None:
    wire = ready()
    wire.run(1)
    assert len(wire.server.host_cids) > 1
    for entry in wire.server._host_cids:
        assert entry.stateless_reset_token == reset_token(wire.reset_key, entry.cid)
    packet = None
    wire.client.ping(1)
    for data, _ in wire.client.transmit(wire.now):
        packet = data
    assert packet is not None
    assert connection_id_of(packet) in wire.server.host_cids
    answer = stateless_reset(wire.reset_key, packet)
    assert answer is not None
    assert len(answer) < len(packet)
    assert wire.client.is_reset(answer)
    assert not wire.client.is_reset(stateless_reset(b"another key", packet))


def test_rule_06_a_reset_is_shorter_than_what_it_answers_and_never_answers_itself() -> None:
    assert stateless_reset(b"k", bytes([0x40]) + bytes(20)) is None
    for size in range(22, 1200, 7):
        answer = stateless_reset(b"k", bytes([0x40]) + bytes(size - 1))
        assert answer is not None
        assert 21 <= len(answer) < size
        assert answer[0] & 0xC0 == 0x40


def test_rule_06_resets_are_rate_limited() -> None:
    budget = Budget(10)
    assert sum(budget.take(1.0) for _ in range(100)) == 10
    assert sum(budget.take(1.5) for _ in range(100)) == 5


def test_rule_13_keys_change_after_so_many_packets() -> None:
    wire = ready()
    wire.client.key_update_packets = 50
    stream = wire.client.open_stream(False)
    server = wire.server
    for _ in range(400):
        stream.sender.write(b"x" * 100)
        wire.run(0.02)
        for event in wire.events.pop(server, []):
            if isinstance(event, events.StreamDataReceived):
                server.consume(server.stream(0), len(event.data))
    wire.run(0.5)
    assert wire.client.key_updates >= 5
    assert not wire.client.is_over
    assert not server.is_over
    assert stream.sender._buffer_start == 40_000


@pytest.mark.parametrize("seed", range(12))
def test_rule_07_the_peer_hears_of_the_close_through_loss(seed: int) -> None:
    wire = ready(seed=seed)
    wire.loss = 0.3
    wire.client.close(error_code=22, reason_phrase="bye")
    (goodbye,) = wire.client.transmit(wire.now)
    heard = False
    for _ in range(4):  # the first and three repeats, as the connection sends them
        if wire.random.random() >= wire.loss:
            wire.server.receive_datagram(goodbye[0], wire.CLIENT, wire.now)
            heard = True
    if heard:
        assert wire.server.is_over
        assert wire.server.termination.error_code == 22
        ((answer, _),) = wire.server.closing_answer(wire.now)
        assert wire.client.hear_closing_answer(answer)
    assert not wire.client.hear_closing_answer(b"\x40" + bytes(40))


def test_acks_come_at_once_for_eight_packets_and_late_for_one() -> None:
    wire = ready()
    stream = wire.client.open_stream(True)
    wire.run(1)
    wire.client._loss._cc.congestion_window = 10**6
    stream.sender.write(b"x")
    (one, _), *_ = wire.client.transmit(wire.now)
    wire.server.receive_datagram(one, wire.CLIENT, wire.now)
    assert wire.server.transmit(wire.now) == []
    stream.sender.write(bytes(12_000))
    for data, _ in wire.client.transmit(wire.now):
        wire.server.receive_datagram(data, wire.CLIENT, wire.now)
    assert len(wire.server.transmit(wire.now)) == 1


@pytest.mark.parametrize("seed", range(4))
def test_streams_arrive_whole_through_ten_percent_loss(seed: int) -> None:
    wire = ready(seed=seed)
    wire.loss = 0.1
    server = wire.server
    wanted, got, ended = {}, {}, set()
    for number in range(20):
        stream = wire.client.open_stream(True)
        data = bytes([number]) * (1_000 + 997 * number)
        stream.sender.write(data, end_stream=True)
        wanted[stream.stream_id] = data
    for _ in range(3_000):
        wire.run(0.05)
        for event in wire.events.pop(server, []):
            if isinstance(event, events.StreamDataReceived):
                got[event.stream_id] = got.get(event.stream_id, b"") + event.data
                if event.end_stream:
                    ended.add(event.stream_id)
        if len(ended) == 20:
            break
    assert got == wanted
    assert server.credit.limit <= STRANGER_WINDOW + 16 * 2**20 + NEWCOMERS


def test_max_concurrent_streams_is_announced_and_enforced() -> None:
    wire = Wire(max_streams=7)
    wire.handshake()
    assert wire.server is not None
    client = wire.client
    assert (client.may_open(False), client.may_open(True)) == (7, 7)
    client._remote_max_streams_bidi = 100  # a peer that does not care
    for _ in range(8):
        client.open_stream(False).sender.write(b"x")
    wire.run(1, lambda: wire.server is not None and wire.server.is_over)
    assert wire.server.termination is not None
    assert wire.server.termination.error_code == QuicErrorCode.STREAM_LIMIT_ERROR
