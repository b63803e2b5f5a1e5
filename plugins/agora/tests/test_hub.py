"""What connections share: one write for each batch, and one more for each turn of the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from echokernel_agora import Limits
from echokernel_agora.hub import Hub, is_local


class Outlet:
    def __init__(self) -> None:
        self.collected, self.written = 0, list[int]()

    def flush(self) -> None:
        if self.collected:
            self.written.append(self.collected)
            self.collected = 0


def in_loop(test: Callable[[Hub], Any]) -> None:
    async def run() -> None:
        await test(Hub(Limits(), asyncio.get_running_loop()))

    asyncio.run(run())


def write(hub: Hub, outlet: Outlet, count: int = 1) -> None:
    for _ in range(count):
        if not outlet.collected:
            hub.touch(outlet)
        outlet.collected += 1


def test_a_batch_is_written_at_its_end() -> None:
    async def test(hub: Hub) -> None:
        outlet, other = Outlet(), Outlet()
        hub.begin()
        write(hub, outlet, 5)
        write(hub, other, 2)
        assert outlet.written == []
        hub.end(0.0)
        assert (outlet.written, other.written) == ([5], [2])

    in_loop(test)


def test_what_many_send_to_one_in_a_turn_is_written_twice_at_most() -> None:
    async def test(hub: Hub) -> None:
        outlet = Outlet()
        for _ in range(20):
            hub.begin()
            write(hub, outlet)
            hub.end(0.0)
        assert outlet.written == [1]
        await asyncio.sleep(0)
        assert outlet.written == [1, 19]
        hub.begin()
        write(hub, outlet)
        hub.end(0.0)
        assert outlet.written == [1, 19, 1], "in the next turn it does not wait"

    in_loop(test)


def test_what_is_written_outside_of_a_batch_goes_out_soon() -> None:
    async def test(hub: Hub) -> None:
        outlet = Outlet()
        write(hub, outlet, 3)
        assert outlet.written == []
        await asyncio.sleep(0)
        assert outlet.written == [3]

    in_loop(test)


@pytest.mark.parametrize(
    ("address", "local"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("192.0.2.7", False), ("fe80::1", False)],
)
def test_which_addresses_are_this_machines(address: str, local: bool) -> None:
    assert is_local(address) == local
