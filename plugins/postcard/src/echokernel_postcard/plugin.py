"""What the kernel finds: the hook implementations of this plugin, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from echokernel import hookimpl

if TYPE_CHECKING:
    from echokernel import Registry


@hookimpl
def echokernel_serializers(registry: Registry) -> None:
    from echokernel_postcard.serializer import PostcardSerializer

    registry.serializer(PostcardSerializer())
