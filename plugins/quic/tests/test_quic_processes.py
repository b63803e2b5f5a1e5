"""What needs a second process: sudden death, a restart, memory."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import anyio
import pytest
from quic_helpers import connected, process, rss_kib

from echokernel.addresses import parse_address
from echokernel.errors import ConnectionClosed
from echokernel.tasks import open_tasks
from echokernel_quic import QuicTransport

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(sys.platform == "win32", reason="kill -9 and /proc")]

SERVER = """
import asyncio, sys
from echokernel.addresses import parse_address
from echokernel.tasks import open_tasks
from echokernel_quic import QuicTransport

async def hold(tasks, connection):
    connection.established()
    send, recv = await connection.accept_bi_stream()
    data = await recv.read(5)
    await send.write(data)
    if data == b"drain":
        while await recv.read():
            pass
        await send.finish()
    await connection.wait_closed()

async def main():
    async with open_tasks() as tasks:
        listener = await QuicTransport().listen(parse_address(sys.argv[1]), tasks)
        print(listener.address, flush=True)
        while True:
            tasks.start(hold, tasks, await listener.accept())

asyncio.run(main())
"""


def serve(address: str = "quic://127.0.0.1:0") -> tuple[subprocess.Popen[str], str]:
    server = process(SERVER, address)
    assert server.stdout is not None
    line = server.stdout.readline().strip()
    assert line, server.stderr.read() if server.stderr else ""
    return server, line


def kill(server: subprocess.Popen[str]) -> None:
    server.send_signal(signal.SIGKILL)
    server.wait()
    for pipe in (server.stdout, server.stderr):
        if pipe is not None:
            pipe.close()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_rule_05_a_killed_server_is_noticed_within_five_seconds(anyio_backend: str) -> None:
    server, address = serve()
    try:
        async with open_tasks() as tasks:
            client = await QuicTransport().connect(parse_address(address), tasks)
            _, recv = await client.open_bi_stream()
            await client.ping()
            kill(server)
            began = time.monotonic()
            with anyio.fail_after(5), pytest.raises(ConnectionClosed):
                await recv.read()
            assert time.monotonic() - began > 2  # a closed port alone is no proof
    finally:
        if server.poll() is None:
            kill(server)


@pytest.mark.parametrize("busy", [False, True])
async def test_rule_06_a_restarted_server_is_noticed_within_a_second(busy: bool) -> None:
    server, address = serve()
    try:
        async with open_tasks() as tasks:
            client = await QuicTransport().connect(parse_address(address), tasks)
            client.established()
            send, recv = await client.open_bi_stream()
            await send.write(b"hello")
            assert await recv.read() == b"hello"
            kill(server)
            if busy:
                with anyio.move_on_after(1.5):  # away for a while, with data of ours on its way
                    while True:
                        await send.write(bytes(1000))
                        await anyio.sleep(0.1)
            server, again = serve(address)
            assert again == address
            began = time.monotonic()
            with anyio.fail_after(3), pytest.raises(ConnectionClosed, match="restarted"):
                await recv.read()
            assert time.monotonic() - began < 1.0
            client = await QuicTransport().connect(parse_address(address), tasks)
            await client.close()
    finally:
        kill(server)


async def test_rule_02_two_hundred_megabytes_at_a_stopped_reader_keep_memory_flat() -> None:
    server, address = serve()
    try:
        async with open_tasks() as tasks:
            client = await QuicTransport().connect(parse_address(address), tasks)
            client.established()
            send, recv = await client.open_bi_stream()
            await send.write(b"stop!")
            assert await recv.read() == b"stop!"
            ours, theirs = rss_kib(), rss_kib(server.pid)
            pushed = 0
            with anyio.move_on_after(1.5) as scope:
                while pushed < 200_000_000:
                    await send.write(bytes(65_536))
                    pushed += 65_536
            assert scope.cancelled_caught
            assert pushed < 2_000_000
            assert rss_kib() - ours < 16_000
            assert rss_kib(server.pid) - theirs < 16_000
            with anyio.fail_after(2):
                await client.ping()
            await client.close(drain=0)
    finally:
        kill(server)


async def test_rule_02_fifty_megabytes_through_keep_memory_flat() -> None:
    server, address = serve()
    try:
        async with open_tasks() as tasks:
            client = await QuicTransport().connect(parse_address(address), tasks)
            client.established()
            send, recv = await client.open_bi_stream()
            await send.write(b"drain")
            assert await recv.read() == b"drain"
            ours, theirs = rss_kib(), rss_kib(server.pid)
            with anyio.fail_after(30):
                for _ in range(50_000_000 // 65_536):
                    await send.write(bytes(65_536))
                await send.finish()
                assert await recv.read() == b""
            assert rss_kib() - ours < 16_000
            assert rss_kib(server.pid) - theirs < 16_000
            await client.close()
    finally:
        kill(server)


async def test_rule_02_sparse_frames_do_not_make_us_allocate() -> None:
    async with connected() as pair:
        before = rss_kib()
        streams = [await pair.client.open_uni_stream() for _ in range(100)]
        for send in streams:
            sender = send._stream.sender
            sender._buffer_start = sender._buffer_stop = 65_535  # one byte at the far edge of every window
            sender.write(b"x")
            sender.highest_offset = 65_535  # an attacker does not count the gap
        pair.client.schedule_flush()
        with anyio.fail_after(2), pytest.raises(ConnectionClosed, match="limit"):
            await pair.client.ping()  # the gaps count: together they are over the connection's credit
        assert rss_kib() - before < 20_000
