"""The table of bad input, in memory: every row by its name, in virtual time."""

from __future__ import annotations

import pytest
from handlers import HANDLERS, LIMITS, Wrong
from table import ROWS, Row, walk

from echokernel import EchoServer
from echokernel.addresses import parse_address
from echokernel.testing import connected

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
async def test_bad_input(row: Row) -> None:
    server = EchoServer.builder().limits(LIMITS).add_rpc(Wrong())
    async with connected(*HANDLERS, server=server) as nodes:
        address = parse_address("memory://node:1")
        await walk(row, nodes.server, nodes.client, lambda tasks: nodes.transport.connect(address, tasks))
