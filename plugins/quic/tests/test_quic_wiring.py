"""What a transport has to do, over real sockets."""

from __future__ import annotations

from importlib.util import find_spec

import anyio
import pytest
from quic_helpers import connected, until

from echokernel.addresses import parse_address
from echokernel.errors import ConnectionClosed, InvalidArgument, StreamClosed, StreamReset, StreamStopped
from echokernel.tasks import open_tasks
from echokernel_quic import QuicTransport

pytestmark = pytest.mark.anyio


async def test_bytes_travel_both_ways_and_end() -> None:
    async with connected() as pair:
        send, recv = await pair.client.open_bi_stream()
        await send.write(b"there")
        await send.finish()
        await send.finish()
        back, arriving = await pair.server.accept_bi_stream()
        assert await arriving.read_to_end(100) == b"there"
        assert await arriving.read() == b""
        await back.write(b"and back")
        await back.finish()
        assert await recv.read_to_end(100) == b"and back"


@pytest.mark.skipif(find_spec("uvloop") is None, reason="uvloop is not installed")
@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": True})], ids=["uvloop"])
async def test_uvloop_carries_it_too(anyio_backend: object) -> None:
    async with connected() as pair:
        send, recv = await pair.client.open_bi_stream()
        await send.write(bytes(200_000))
        await send.finish()
        back, arriving = await pair.server.accept_bi_stream()
        assert len(await arriving.read_to_end(300_000)) == 200_000
        await back.finish()
        assert await recv.read() == b""
        assert await pair.client.ping() > 0
        await pair.client.close(1, "done")
        assert (await pair.server.wait_closed()).code == 1  # type: ignore[attr-defined]


async def test_the_acceptor_opens_streams_too() -> None:
    async with connected() as pair:
        send = await pair.server.open_uni_stream()
        await send.write(b"news")
        await send.finish()
        recv = await pair.client.accept_uni_stream()
        assert await recv.read_to_end(100) == b"news"
        send, _ = await pair.server.open_bi_stream()
        await send.write(b"x")
        _, recv = await pair.client.accept_bi_stream()
        assert await recv.read() == b"x"


async def test_read_joins_what_has_arrived_and_keeps_to_the_size_asked_for() -> None:
    async with connected() as pair:
        send, _ = await pair.client.open_bi_stream()
        for _ in range(100):
            await send.write(b"0123456789")
        _, recv = await pair.server.accept_bi_stream()
        await until(lambda: recv._size == 1000)
        assert await recv.read(15) == b"012345678901234"
        assert len(await recv.read()) == 985


async def test_a_megabyte_arrives_whole() -> None:
    async with connected() as pair:
        data = bytes(range(256)) * 4096
        async with anyio.create_task_group() as group:

            async def write() -> None:
                send = await pair.client.open_uni_stream()
                for at in range(0, len(data), 65_536):
                    await send.write(data[at : at + 65_536])
                await send.finish()

            group.start_soon(write)
            recv = await pair.server.accept_uni_stream()
            assert await recv.read_to_end(len(data)) == data


async def test_reset_and_stop_carry_their_codes_both_ways() -> None:
    async with connected() as pair:
        send, recv = await pair.client.open_bi_stream()
        await send.write(b"begin")
        back, arriving = await pair.server.accept_bi_stream()
        send.reset(4711)
        with pytest.raises(StreamReset) as reset:  # noqa: PT012
            while True:
                await arriving.read()
        assert reset.value.code == 4711
        recv.stop(4712)
        with pytest.raises(StreamStopped) as stopped:  # noqa: PT012
            while True:
                await back.write(b"x")
                await anyio.sleep(0.01)
        assert stopped.value.code == 4712
        for forbidden in (send.write(b"x"), recv.read()):
            with pytest.raises(StreamClosed):
                await forbidden


async def test_close_tells_the_peer_code_and_reason() -> None:
    async with connected() as pair:
        await pair.client.close(22, "going home")
        error = await pair.server.wait_closed()
        assert isinstance(error, ConnectionClosed)
        assert (error.code, error.reason, error.by_peer) == (22, "going home", True)
        ours = await pair.client.wait_closed()
        assert isinstance(ours, ConnectionClosed)
        assert not ours.by_peer
        await pair.client.close()


async def test_datagrams_have_a_limit_that_is_told() -> None:
    async with connected() as pair:
        assert pair.client.max_datagram >= 1170
        pair.client.send_datagram(b"quick")
        assert await pair.server.recv_datagram() == b"quick"
        with pytest.raises(InvalidArgument, match="longer than"):
            pair.client.send_datagram(bytes(pair.client.max_datagram + 1))


async def test_ping_measures() -> None:
    async with connected() as pair:
        for connection in (pair.client, pair.server):
            with anyio.fail_after(2):
                assert 0 < await connection.ping() < 1


async def test_the_dialer_knows_whom_it_reached() -> None:
    async with connected() as pair:
        identity = pair.client.peer_identity
        assert identity is not None
        assert identity.fingerprint == pair.listener.fingerprint
        assert "localhost" in identity.names
        assert pair.server.peer_identity is None
        assert pair.client.peer_addr == ("127.0.0.1", pair.listener.address.port)
        assert pair.server.peer_addr[0] == "127.0.0.1"


async def test_listener_close_keeps_what_was_accepted() -> None:
    async with connected() as pair:
        await pair.listener.close()
        with pytest.raises(ConnectionClosed):
            await pair.listener.accept()
        send, _ = await pair.client.open_bi_stream()
        await send.write(b"still")
        _, recv = await pair.server.accept_bi_stream()
        assert await recv.read() == b"still"


async def test_writes_of_one_turn_leave_in_one_packet_and_flush_sends_now() -> None:
    async with connected() as pair:
        send, _ = await pair.client.open_bi_stream()
        await send.write(b"first")
        _, recv = await pair.server.accept_bi_stream()
        await recv.read()
        await pair.client.ping()  # everything before is acknowledged
        before = pair.client.engine.packets_sent
        for _ in range(20):
            send.write_nowait(b"0123456789")
        assert pair.client.engine.packets_sent == before
        pair.client.flush()
        assert pair.client.engine.packets_sent == before + 1
        assert await recv.read() == b"0123456789" * 20


async def test_larger_packets_on_loopback_after_a_probe() -> None:
    async with connected() as pair:
        assert pair.client.engine.datagram_size == pair.server.engine.datagram_size == 1200
        for connection in (pair.client, pair.server):
            send = await connection.open_uni_stream()
            await send.write(bytes(20_000))
        await until(lambda: pair.client.engine.datagram_size > 1200 and pair.server.engine.datagram_size > 1200)


async def test_the_port_is_free_when_the_scope_is_closed_whoever_was_still_connected() -> None:
    port = 0
    async with open_tasks() as theirs:
        for _ in range(2):
            async with open_tasks() as ours:
                listener = await QuicTransport().listen(parse_address(f"quic://127.0.0.1:{port}"), ours)
                port = listener.address.port
                await QuicTransport().connect(listener.address, theirs)
                await listener.accept()
