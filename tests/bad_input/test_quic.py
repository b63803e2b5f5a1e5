"""The table of bad input over loopback QUIC, walked as a whole against one server, in real time."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("echokernel_quic")

from handlers import HANDLERS, LIMITS, Wrong
from table import ROWS, walk

from echokernel import EchoClient, EchoServer
from echokernel.testing import JsonSerializer
from echokernel_quic import QuicTransport

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECHOKERNEL_STATE_DIR", str(tmp_path))


async def test_the_whole_table_over_quic() -> None:
    builder = EchoServer.builder().transport(QuicTransport()).bind("quic://127.0.0.1:0").serializer(JsonSerializer())
    builder.limits(LIMITS).add_rpc(Wrong())
    for handler in HANDLERS:
        builder.add_handler(handler)
    wrong: list[str] = []
    async with builder.build() as server:
        (address,) = server.addresses
        client = EchoClient.builder().transport(QuicTransport()).serializer(JsonSerializer())
        async with client.connect(address) as good:
            for row in ROWS:
                if not row.patience:
                    try:
                        await walk(row, server, good, lambda tasks: QuicTransport().connect(address, tasks))
                    except Exception as error:
                        wrong.append(f"{row.name}: {type(error).__name__}: {error}")
    assert not wrong, "\n".join(wrong)
