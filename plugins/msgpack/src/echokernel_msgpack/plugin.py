"""What the kernel finds: the hook implementations of this plugin, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from echokernel.hookspecs import hookimpl

if TYPE_CHECKING:
    from echokernel.registry import Registry


@hookimpl
def echokernel_serializers(registry: Registry) -> None:
    from echokernel_msgpack.serializer import MsgpackSerializer

    registry.serializer(MsgpackSerializer())
