"""Twenty clients over loopback QUIC, of which one never reads: the others lose nothing, memory stays, counters are right."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest

from echokernel import ConnectionClosed, EchoClient, EchoServer, Limits, event
from echokernel.tasks import open_tasks
from echokernel_protocol.channel import Channel, Phase, Role
from echokernel_protocol.codes import Code
from echokernel_protocol.hello import Hello
from echokernel_protocol.streams import Prelude, StreamKind

pytest.importorskip("echokernel_quic")
pytest.importorskip("echokernel_msgpack")
pytestmark = pytest.mark.anyio

CLIENTS = 20
EVENTS = 100
DATA = bytes(6_000)  # 600 KB in all: more than windows and outbox together
LIMITS = Limits(max_message=65_536, outbox=65_536, broadcast_backlog=200_000, broadcast_keep=10)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(autouse=True)
def own_identity(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECHOKERNEL_STATE_DIR", str(tmp_path / "state"))


def rss() -> int:
    """Return this process' resident memory, in bytes; 0 where the system does not tell."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS")), 0)


async def test_one_of_twenty_never_reads() -> None:
    from echokernel_quic import QuicTransport

    got: list[list[int]] = [[] for _ in range(CLIENTS - 1)]

    def counter(mine: list[int]) -> Any:
        @event("tick")
        async def tick(number: int, data: bytes) -> None:
            assert len(data) == len(DATA)
            mine.append(number)

        return tick

    async def broadcast(numbers: range) -> list[int]:
        """Send, and wait for the slowest of those that do read: they must never fall behind for another reason."""
        reached = []
        for number in numbers:
            reached.append(await context.broadcast("tick", (number, DATA)))
            with anyio.fail_after(20):
                while number % 10 == 9 and min(map(len, got)) <= number:
                    await anyio.sleep(0.005)
        return reached

    server = (
        EchoServer.builder().bind("quic://127.0.0.1:0").limits(LIMITS).broadcast_policy("tick", "drop_oldest").build()
    )
    async with server, AsyncExitStack() as stack:
        context = server.context()
        for mine in got:
            builder = EchoClient.builder().add_event(counter(mine))
            await stack.enter_async_context(builder.connect(server.addresses[0]))
        tasks = await stack.enter_async_context(open_tasks())
        stuck = await QuicTransport().connect(server.addresses[0], tasks)
        send, recv = await stuck.open_bi_stream()
        channel = Channel(Role.DIALER, Hello(serializers=("msgpack",), event_limit=2**50))
        channel.send_hello()
        await send.write(Prelude(StreamKind.CHANNEL).encode() + channel.data_to_send(0))
        while channel.phase is Phase.WAITING:
            channel.receive(await recv.read())
        stuck.established()

        before = rss()
        assert await broadcast(range(EVENTS)) == [CLIENTS] * EVENTS
        assert got == [list(range(EVENTS))] * (CLIENTS - 1), "the others lose nothing"
        slow = context.sessions()[-1]
        stats, mine = context.stats(), slow.stats()
        assert (stats["waiting"], mine["broadcasts_waiting"], stats["disconnected"]) == (10, 10, 0)
        assert mine["outbox_bytes"] <= LIMITS.outbox + 2 * len(DATA)
        assert stats["dropped_drop_oldest"] == mine["broadcasts_dropped"] > 0
        assert stats["delivered"] + stats["dropped_drop_oldest"] + stats["waiting"] == CLIENTS * EVENTS
        assert rss() - before < 24_000_000

        context.set_policy("tick", "wait")
        reached = await broadcast(range(EVENTS, 2 * EVENTS))
        assert (reached[0], reached[-1]) == (CLIENTS, CLIENTS - 1)
        assert got == [list(range(2 * EVENTS))] * (CLIENTS - 1)
        with anyio.fail_after(10):
            while slow.closed is None:
                await anyio.sleep(0.01)
            error = await stuck.wait_closed()
        assert isinstance(error, ConnectionClosed) and isinstance(slow.closed, ConnectionClosed)
        assert (error.code, slow.closed.code) == (Code.RESOURCE_EXHAUSTED, Code.RESOURCE_EXHAUSTED)
        assert "slow consumer" in error.reason
        stats = context.stats()
        assert (stats["disconnected"], stats["dropped_wait"], stats["waiting_bytes"]) == (1, 1, 0)
        assert rss() - before < 24_000_000
