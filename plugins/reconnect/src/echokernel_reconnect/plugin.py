"""The hooks of this plugin: the reconnect policy ``backoff``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from echokernel import hookimpl

if TYPE_CHECKING:
    from echokernel import Registry
    from echokernel_reconnect.backoff import Backoff
    from echokernel_reconnect.settings import BackoffSettings


@hookimpl
def echokernel_reconnect(registry: Registry) -> None:
    from echokernel_reconnect.settings import BackoffSettings

    registry.reconnect("backoff", _create, settings=BackoffSettings)


def _create(settings: BackoffSettings) -> Backoff:
    return settings.to_policy()
