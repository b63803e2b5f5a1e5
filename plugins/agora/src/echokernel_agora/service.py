"""``[service.agents] use = "agora"``: the router of agents beside a node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from echokernel_agora.bridge import AgoraBridge
from echokernel_agora.server import AgoraServer

if TYPE_CHECKING:
    from echokernel import ServerContext
    from echokernel_agora.settings import AgoraSettings

__all__ = ["AgoraService", "create"]


class AgoraService:
    """Runs an :class:`AgoraServer` as long as its node runs. One server is for one start."""

    serves = True
    """It has a port of its own: a node may have no other."""
    stops_first = True
    """Agents may find another router while the node drains its own sessions."""

    def __init__(self, server: AgoraServer) -> None:
        self.server = server
        self.bridge: AgoraBridge | None = None
        """Lets the node's sessions be agents, too; made at the start, because it belongs to an event loop."""

    async def start(self, context: ServerContext) -> None:
        """Listen. Raises ConfigError on trio, TransportError where the address cannot be had."""
        await self.server.start()
        self.bridge = AgoraBridge(self.server.router)
        try:
            await self.bridge.start(context)
        except BaseException:
            await self.server.stop(drain=0.0)
            raise

    async def stop(self) -> None:
        """Let waiting frames go out, close the connections: at most 4.5 s."""
        try:
            if self.bridge is not None:
                await self.bridge.stop()
        finally:
            await self.server.stop()


def create(settings: AgoraSettings) -> AgoraService:
    """Return the service that the settings describe; nothing listens yet."""
    return AgoraService(
        AgoraServer(
            listen=settings.listen,
            tokens=settings.made_tokens(),
            origins=settings.origins,
            hosts=settings.hosts,
            insecure=settings.insecure,
            certificate=settings.certificate,
            key=settings.key,
            limits=settings.made_limits(),
            strict_seed=settings.strict_seed,
        )
    )
