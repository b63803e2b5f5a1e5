"""The hooks of this plugin: the service ``agora``, the command of the same name, and what sessions ask the router."""

from __future__ import annotations

from typing import TYPE_CHECKING

from echokernel import hookimpl

if TYPE_CHECKING:
    from echokernel import Registry
    from echokernel_agora.service import AgoraService
    from echokernel_agora.settings import AgoraSettings


@hookimpl
def echokernel_services(registry: Registry) -> None:
    from echokernel_agora.settings import AgoraSettings

    registry.service("agora", _service, settings=AgoraSettings)


@hookimpl
def echokernel_handlers(registry: Registry) -> None:
    from echokernel_agora.bridge import HANDLERS

    for handler in HANDLERS:
        registry.handler(handler)


@hookimpl
def echokernel_commands(registry: Registry) -> None:
    from echokernel_agora.commands import AgoraCommand

    registry.command(AgoraCommand())


def _service(settings: AgoraSettings) -> AgoraService:
    from echokernel_agora.service import create

    return create(settings)
