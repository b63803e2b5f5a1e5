"""The hooks of this plugin: the service ``agora``."""

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


def _service(settings: AgoraSettings) -> AgoraService:
    from echokernel_agora.service import create

    return create(settings)
