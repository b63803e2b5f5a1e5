"""The hooks of this plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from echokernel import hookimpl

if TYPE_CHECKING:
    from echokernel import Registry


@hookimpl
def echokernel_services(registry: Registry) -> None:
    pass
