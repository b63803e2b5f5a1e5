"""A server from a valid configuration: parts are made from their settings and given to the builder; nothing starts."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from echokernel.addresses import DEFAULT_SCHEME, NO_PORT
from echokernel.config import Config, ListenConfig, read_config
from echokernel.config._handler_modules import KIND, HandlerTrouble, find_handlers
from echokernel.config._problems import InvalidConfig, Problem, dotted
from echokernel.config._toml_index import KeyPath
from echokernel.errors import ConfigError, EchoError
from echokernel.loader import finding_transport

if TYPE_CHECKING:
    from echokernel.client import Connecting
    from echokernel.config import ConnectConfig
    from echokernel.context import ClientContext
    from echokernel.middleware import Middleware
    from echokernel.reconnect import ReconnectPolicy
    from echokernel.registry import Authenticator, Service
    from echokernel.server import EchoServer, ServerBuilder
    from echokernel.transport import Transport

T = TypeVar("T")
logger = logging.getLogger("echokernel.assembly")

__all__ = ["build_server", "prepare"]


@dataclass(slots=True)
class Parts:
    """What was made from a configuration, and what went wrong with it."""

    listeners: list[tuple[ListenConfig, Transport, list[Authenticator]]] = field(default_factory=list)
    middleware: list[Middleware] = field(default_factory=list)
    services: list[Service] = field(default_factory=list)
    upstreams: list[tuple[ConnectConfig, Transport, ReconnectPolicy | None]] = field(default_factory=list)
    handlers: list[tuple[KeyPath, Any]] = field(default_factory=list)
    """Each with the place that names it."""
    problems: list[Problem] = field(default_factory=list)


def build_server(config: Config) -> EchoServer:
    """Return a server that is ready to run. Raises InvalidConfig, located like all mistakes in the configuration."""
    parts = _make_parts(config)
    if parts.problems:
        raise InvalidConfig(parts.problems)
    return _build(config, parts)


def prepare(
    path: str | Path,
    *,
    overrides: Sequence[str] = (),
    environ: Mapping[str, str] = os.environ,
    without: Sequence[str] = (),
) -> tuple[Config, EchoServer]:
    """Load a configuration and build its server, as :func:`~echokernel.config.load_config` and :func:`build_server` do.

    Raises InvalidConfig with the mistakes of both steps at once. Nothing is started.
    """
    config, problems = read_config(path, overrides=overrides, environ=environ, without=without)
    parts = _make_parts(config)
    if problems or parts.problems:
        raise InvalidConfig([*problems, *parts.problems])
    return config, _build(config, parts)


def _make_parts(config: Config) -> Parts:
    parts, registry = Parts(), config.registry
    authenticators: dict[str, Authenticator] = {}
    for name, part in config.authenticators.items():
        factory = registry.authenticators[part.use].value
        for authenticator in _make(config, parts, ("authenticator", name), factory.create, part.settings):
            authenticators[name] = authenticator
    for part in config.middleware:
        layers = registry.middlewares[part.use].value
        parts.middleware += _make(config, parts, ("middleware", part.name), layers.create, part.settings)
    for name, part in config.services.items():
        service = registry.services[part.use].value
        parts.services += _make(config, parts, ("service", name), service.create, part.settings)
    for name, listen in config.listen.items():
        create = registry.transports[listen.address.scheme].value.create
        for transport in _make(config, parts, ("listen", name), create, listen.settings):
            known = [authenticators[each] for each in listen.authenticators if each in authenticators]
            _check_exposure(config, parts, listen, transport)
            parts.listeners.append((listen, transport, known))
    for connect in config.connect.values():
        parts.upstreams += _make(config, parts, ("connect", connect.name), partial(_upstream, config, connect), None)
    for number, name in enumerate(config.node.handlers):
        place = ("node", "handlers", number)
        try:
            parts.handlers += [(place, handler) for handler in find_handlers(name, config.path.parent)]
        except HandlerTrouble as error:
            parts.problems.append(config.problem("handler", place, str(error)))
    if not config.declares("listen") and not any(getattr(each, "serves", False) for each in parts.services):
        message = 'nothing to run: there is no [listen.NAME]; add [listen.main] with url = "quic://127.0.0.1:4433"'
        parts.problems.append(config.problem("missing", (), message))
    return parts


def _upstream(config: Config, connect: ConnectConfig) -> tuple[ConnectConfig, Transport, ReconnectPolicy | None]:
    """Return what one connection to another node is made of."""
    registry, scheme = config.registry, connect.address.scheme
    found = connect.address.port == NO_PORT
    transport = registry.transports[DEFAULT_SCHEME if found else scheme].value.create(connect.settings)
    if found:
        transport = finding_transport(registry, scheme, transport, connect.settings.model_dump())
    policy: ReconnectPolicy | None = None
    if connect.reconnect is not None:
        policy = registry.reconnects[connect.reconnect].value.default()
    return connect, transport, policy


def _make(config: Config, parts: Parts, path: KeyPath, create: Callable[..., T], settings: object | None) -> list[T]:
    """Return what ``create`` makes, or nothing after noting why it failed."""
    try:
        return [create() if settings is None else create(settings)]
    except ConfigError as error:  # written for people; a line may begin with the setting that it is about
        for line in str(error).splitlines():
            key = line.partition(":")[0]
            here = (*path, key) if key.isidentifier() else path
            parts.problems.append(
                config.problem("value", here, f"{dotted(path)}.{line}" if key.isidentifier() else line)
            )
    except Exception as error:
        logger.debug("%s failed", dotted(path), exc_info=error)
        message = f"{dotted(path)} cannot be made: {type(error).__name__}: {error}"
        parts.problems.append(config.problem("plugin", path, message))
    return []


def _check_exposure(config: Config, parts: Parts, listen: ListenConfig, transport: Transport) -> None:
    """Whoever can reach an address must be asked who he is, unless somebody said in so many words that he need not."""
    if listen.address.is_loopback or transport.authenticates_peers or listen.authenticators or listen.allow_anonymous:
        return
    message = (
        f"{listen.address} can be reached from other machines, and nothing says who may connect; set "
        f"authenticators, client_ca or pins in [listen.{listen.name}], listen on 127.0.0.1, or let everybody in: "
        "allow_anonymous = true"
    )
    parts.problems.append(config.problem("security", ("listen", listen.name, "url"), message))


def _build(config: Config, parts: Parts) -> EchoServer:
    from echokernel.server import EchoServer

    registry, node = config.registry, config.node
    builder = EchoServer.builder().name(node.name).limits(config.limits).describe(node.describe)
    if node.tracebacks:
        logger.warning("node.tracebacks is on: callers see paths and source lines of handlers that fail")
        builder.tracebacks()
    for listen, transport, authenticators in parts.listeners:
        builder.listen(listen.address, transport, authenticators=authenticators, allow_anonymous=listen.allow_anonymous)
    for name in node.serializers or registry.serializers:
        builder.serializer(registry.serializers[name].value)
    for layer in parts.middleware:
        builder.middleware(layer)
    for service in parts.services:
        builder.service(service)
    for event, policy in node.broadcast.items():
        builder.broadcast_policy(event, policy)
    problems: list[Problem] = []
    seen: set[int] = set()
    everything = [(("plugins",), entry.value) for entry in registry.handlers] + parts.handlers
    for place, handler in everything:
        if id(handler) in seen:
            continue  # imported into a second module that is listed as well
        seen.add(id(handler))
        try:
            _add(builder, handler)
        except EchoError as error:
            problems.append(config.problem("handler", place, str(error)))
    if problems:
        raise InvalidConfig(problems)
    for connect, transport, reconnect in parts.upstreams:
        builder.upstream(connect.name, _connecting(config, builder, connect, transport, reconnect))
    server = builder.build()
    server._node.about.plugins = config.registry.plugins
    return server


def _connecting(
    config: Config,
    server: ServerBuilder,
    connect: ConnectConfig,
    transport: Transport,
    policy: ReconnectPolicy | None,
) -> Connecting:
    """Return one connection to another node: it has the name, limits, serializers, middleware and handlers of this node."""
    from echokernel.client import EchoClient

    node = server._node
    builder = EchoClient.builder().name(node.name).limits(config.limits).describe(config.node.describe)
    if connect.credentials is not None:
        builder.credentials(connect.credentials.get_secret_value())
    if config.node.tracebacks:
        builder.tracebacks()
    builder.transport(transport).reconnect(policy, first=policy is not None)
    for name in config.node.serializers or config.registry.serializers:
        builder.serializer(config.registry.serializers[name].value)
    for layer in server._middleware:
        builder.middleware(layer)
    builder.clock(node.context.clock)
    builder._node.follows = False  # a clock service names its reference itself
    builder._node.methods = node.methods
    builder._node.about.plugins = config.registry.plugins
    builder.on_disconnect(partial(_say_lost, connect.name, policy is not None))
    return builder.connect(connect.address)


def _say_lost(name: str, again: bool, context: ClientContext) -> None:
    error = None if context.session is None else context.session.closed
    if not again and error is not None and context.session is not None and not context.session.closed_here:
        logger.warning("connect.%s: the connection is lost, and has no reconnect policy: %s", name, error)


def _add(builder: Any, handler: Any) -> None:
    adders = {"rpc": builder.add_rpc, "event": builder.add_event, "stream": builder.add_stream}
    adders.get(getattr(handler, KIND, ""), builder.add_handler)(handler)
