"""The clock over real sockets: loopback QUIC, and clocks that differ by a known amount."""

from __future__ import annotations

import time

import anyio
import pytest

from echokernel import EchoClient, EchoServer
from echokernel.testing import JsonSerializer
from echokernel_clocksync import ClockSync

pytestmark = pytest.mark.anyio
PPM = 40


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    backend: str = request.param
    return backend


async def test_a_clock_that_is_ahead_and_faster_is_followed() -> None:
    pytest.importorskip("echokernel_quic")
    began = time.monotonic_ns()

    def faster() -> int:
        now = time.monotonic_ns()
        return now + 123_456_000_000 + (now - began) * PPM // 1_000_000

    theirs, ours = ClockSync().with_clock(faster), ClockSync()
    server = EchoServer.builder().bind("quic://127.0.0.1:0").serializer(JsonSerializer()).plugin(theirs).build()
    async with server:
        client = EchoClient.builder().serializer(JsonSerializer()).plugin(ours).connect(server.addresses[0])
        async with client:
            await ours.wait_synced(10)
            for _ in range(20):
                before, interval, now, after = theirs.now_us(), ours.interval(), ours.now_us(), theirs.now_us()
                assert interval.earliest_us <= after
                assert before <= interval.latest_us
                assert before - ours.bound_us - 2 <= now <= after + ours.bound_us + 2
                await anyio.sleep(0.02)
            one_way = ours.one_way()
            assert one_way is not None
            assert one_way.out + one_way.back < 1
