"""The hooks: what a plugin may implement. Each is called once per plugin, while a node is built, and registers objects.

pluggy builds; it never carries traffic. A hook takes the typed :class:`~echokernel.registry.Registry` and nothing else
of the node, returns nothing, has no defaults and is never ``async``: the objects that it registers have the async methods.

A plugin is a module (or an object) with one or more of these functions, marked with :data:`hookimpl`, and an entry point
in the group ``echokernel.plugins.v1``::

    from echokernel import hookimpl

    @hookimpl
    def echokernel_serializers(registry):
        registry.serializer(MySerializer())
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from echokernel.registry import Registry

PROJECT = "echokernel"
ENTRY_POINT_GROUP = "echokernel.plugins.v1"
"""The number is the API's major version: it can be read without importing anything."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def echokernel_transports(registry: Registry) -> None:
    """Register transports by URL scheme, each with its two settings models: ``registry.transport(…)``."""


@hookspec
def echokernel_serializers(registry: Registry) -> None:
    """Register serializers by name: ``registry.serializer(…)``."""


@hookspec
def echokernel_middleware(registry: Registry) -> None:
    """Register middleware by name: ``registry.middleware(…)``. Its order is the list in the configuration."""


@hookspec
def echokernel_handlers(registry: Registry) -> None:
    """Register RPC, event and stream handlers: ``registry.handler(…)``."""


@hookspec
def echokernel_discovery(registry: Registry) -> None:
    """Register discovery backends by name: ``registry.discovery(…)``."""


@hookspec
def echokernel_reconnect(registry: Registry) -> None:
    """Register reconnect policies by name: ``registry.reconnect(…)``."""


@hookspec
def echokernel_authenticators(registry: Registry) -> None:
    """Register authenticators, asked while a hello is accepted: ``registry.authenticator(…)``."""


@hookspec
def echokernel_services(registry: Registry) -> None:
    """Register background services with start and stop: ``registry.service(…)``."""


@hookspec
def echokernel_commands(registry: Registry) -> None:
    """Register extra commands of the command line: ``registry.command(…)``."""


@hookspec
def echokernel_checks(registry: Registry) -> None:
    """Register named checks for ``doctor``: ``registry.check(…)``."""
