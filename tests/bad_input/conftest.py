"""Bad input runs on asyncio and trio, in virtual time; over QUIC (test_quic.py) in real time."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from echokernel.testing import virtual_time_backends

sys.path.insert(0, str(Path(__file__).parent))  # for raw_peer and table: tests are imported by path, not as a package


@pytest.fixture(params=virtual_time_backends(), ids=lambda backend: backend[0])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param
