"""The hooks of this plugin: the service ``agora``, and what sessions ask its router."""

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


def _service(settings: AgoraSettings) -> AgoraService:
    from echokernel_agora.service import create

    return create(settings)
