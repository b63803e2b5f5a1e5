"""Clients run on asyncio and trio, in virtual time."""

from __future__ import annotations

from typing import Any

import pytest

from echokernel.testing import virtual_time_backends


@pytest.fixture(params=virtual_time_backends(), ids=lambda backend: backend[0])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param
