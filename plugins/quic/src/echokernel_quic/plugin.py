"""The hooks of this plugin: the transport for ``quic://``. aioquic is imported when the first socket is opened."""

from __future__ import annotations

from typing import TYPE_CHECKING

from echokernel.hookspecs import hookimpl

if TYPE_CHECKING:
    from echokernel.registry import Registry
    from echokernel.transport import Transport
    from echokernel_quic.settings import ConnectSettings, ListenSettings


@hookimpl
def echokernel_transports(registry: Registry) -> None:
    from echokernel_quic.settings import ConnectSettings, ListenSettings

    registry.transport("quic", _create, listen_settings=ListenSettings, connect_settings=ConnectSettings)


def _create(settings: ListenSettings | ConnectSettings) -> Transport:
    from echokernel_quic.transport import QuicTransport

    return QuicTransport(settings.to_config())
