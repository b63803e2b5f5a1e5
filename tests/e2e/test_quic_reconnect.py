"""A server process dies of SIGKILL and comes back on the same port: its client is in service again by itself."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import anyio
import anyio.to_thread
import pytest

from echokernel import ConnectionClosed, EchoClient, EchoError

pytest.importorskip("echokernel_quic")
pytest.importorskip("echokernel_msgpack")
pytest.importorskip("echokernel_reconnect")
pytestmark = [pytest.mark.anyio, pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")]

SERVER = """
import asyncio, os, sys
from echokernel import EchoServer, rpc

@rpc
async def whoami() -> int:
    return os.getpid()

@rpc
async def forever() -> None:
    await asyncio.sleep(3600)

async def main():
    async with EchoServer.builder().bind(sys.argv[1]).add_rpc(whoami).add_rpc(forever).build() as server:
        print(server.addresses[0], flush=True)
        await asyncio.sleep(3600)

asyncio.run(main())
"""


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


class Servers:
    """One server process after the other, at one address."""

    def __init__(self) -> None:
        self.address = "quic://127.0.0.1:0"
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> int:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER, self.address], stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL
        )
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()
        assert self.address
        return self.process.pid

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None


@pytest.fixture
def servers(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Servers]:
    monkeypatch.setenv("ECHOKERNEL_STATE_DIR", str(tmp_path / "state"))  # one key, as a restarted server has it
    there = Servers()
    yield there
    there.kill()


async def answer(client: EchoClient) -> int:
    """Ask until somebody answers: a request that left before the loss was noticed fails, and may be made again."""
    while True:
        try:
            return int(await client.request("whoami", idempotent=True, timeout=20))
        except ConnectionClosed as error:
            assert error.retryable, error


async def test_a_server_killed_and_restarted_is_back_in_service_within_three_seconds(servers: Servers) -> None:
    from echokernel_reconnect import ReconnectPlugin

    first = await anyio.to_thread.run_sync(servers.start)
    gaps: list[float] = []
    builder = EchoClient.builder().plugin(ReconnectPlugin()).on_reconnected(lambda context, gap: gaps.append(gap))
    async with builder.connect(servers.address) as client:
        assert await answer(client) == first
        address = servers.address
        async with anyio.create_task_group() as tasks:
            failed: list[EchoError] = []

            async def under_way() -> None:
                try:
                    await client.request("forever", timeout=30)
                except EchoError as error:
                    failed.append(error)

            tasks.start_soon(under_way)
            await anyio.sleep(0.2)
            await anyio.to_thread.run_sync(servers.kill)
            await anyio.sleep(0.5)
            second = await anyio.to_thread.run_sync(servers.start)
            assert servers.address == address
            began = time.monotonic()
            with anyio.fail_after(10):
                assert await answer(client) == second
            took = time.monotonic() - began
        print(f"back in service {took:.2f} s after the restart; without a session for {gaps} s")
        assert took < 3
        assert type(failed[0]).__name__ == "OutcomeUnknown", "it had left"


@pytest.mark.slow
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_server_that_stays_away_is_noticed_and_found_again(servers: Servers, anyio_backend: str) -> None:
    from echokernel_reconnect import ReconnectPlugin

    await anyio.to_thread.run_sync(servers.start)
    lost: list[float] = []
    builder = EchoClient.builder().plugin(ReconnectPlugin(cap=1)).on_disconnect(lambda _: lost.append(time.monotonic()))
    async with builder.connect(servers.address) as client:
        await anyio.to_thread.run_sync(servers.kill)
        began = time.monotonic()
        with anyio.fail_after(8):
            while not lost:
                await anyio.sleep(0.05)
        noticed = lost[0] - began
        assert noticed < 6, "the keepalive's 4.5 s"
        await anyio.sleep(3)
        second = await anyio.to_thread.run_sync(servers.start)
        began = time.monotonic()
        with anyio.fail_after(10):
            assert await answer(client) == second
        took = time.monotonic() - began
        print(f"lost after {noticed:.2f} s; back in service {took:.2f} s after the restart")
        assert took < 3
