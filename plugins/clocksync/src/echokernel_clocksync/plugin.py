"""The hooks of this plugin: the service ``clocksync``, and the command ``clock``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from echokernel import hookimpl

if TYPE_CHECKING:
    from echokernel import Registry, Service
    from echokernel_clocksync.settings import ClockSettings


@hookimpl
def echokernel_services(registry: Registry) -> None:
    from echokernel_clocksync.settings import ClockSettings

    registry.service("clocksync", _create, settings=ClockSettings)


@hookimpl
def echokernel_commands(registry: Registry) -> None:
    from echokernel_clocksync.command import ClockCommand

    registry.command(ClockCommand())


def _create(settings: ClockSettings) -> Service:
    from echokernel_clocksync.service import create

    return create(settings)
