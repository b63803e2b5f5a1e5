"""Tests with real sockets, on the loopback interface; the program's loop is asyncio's, uvloop's (where installed) or trio's."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest

from echokernel import Address
from echokernel_mdns import MdnsDiscovery, hub

BACKENDS: list[tuple[str, dict[str, Any]]] = [("asyncio", {}), ("trio", {})]
if find_spec("uvloop") is not None:
    BACKENDS.insert(1, ("asyncio", {"use_uvloop": True}))


@pytest.fixture(params=BACKENDS, ids=lambda backend: "uvloop" if backend[1] else backend[0])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """Each test gives back what it took: the thread is over when nobody needs it."""
    hub._suspects._known.clear()
    yield
    assert hub._thread is None, "a station was not given back"


@pytest.fixture
def here() -> MdnsDiscovery:
    return MdnsDiscovery(interfaces=["127.0.0.1"])


@pytest.fixture
def there() -> MdnsDiscovery:
    """Another one, with sockets of its own: another choice of interfaces, though the same interface."""
    return MdnsDiscovery(interfaces=["lo"])


def local(port: int = 4433) -> Address:
    return Address("quic", "127.0.0.1", port)
