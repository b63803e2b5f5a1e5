"""The check ``mdns`` of ``echokernel doctor``."""

from __future__ import annotations

import anyio

from echokernel import EchoError

__all__ = ["MdnsCheck"]


class MdnsCheck:
    """Can this machine announce and find? Opens the sockets that both need, asks one question and closes them."""

    name = "mdns"

    async def run(self) -> str | None:
        from echokernel_mdns.probe import probe

        try:
            return await anyio.to_thread.run_sync(probe)
        except EchoError as error:
            return str(error)
