"""What the commands that talk to a running node share: their arguments, the connection, and how they fail."""

from __future__ import annotations

import argparse
import json
import logging
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from echokernel.cli import FAILED, USAGE, fail

if TYPE_CHECKING:
    from echokernel.addresses import Address
    from echokernel.client import ClientBuilder, EchoClient
    from echokernel.errors import EchoError

logger = logging.getLogger("echokernel.cli")


def add_client_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the URL and how to trust it."""
    parser.add_argument("url", metavar="URL", help="quic://HOST:PORT, or HOST:PORT; mdns://NAME, if that plugin is installed")
    add_trust_arguments(parser)


def add_trust_arguments(parser: argparse.ArgumentParser) -> None:
    """Add how to trust a node, and how to talk to it."""
    parser.add_argument("--fingerprint", metavar="FP", help="trust this key: sha256:… as the server prints it")
    parser.add_argument("--ca", metavar="FILE", help="trust certificates from these authorities, PEM")
    parser.add_argument("--insecure", action="store_true", help="trust anybody; for tests")
    parser.add_argument("--serializer", metavar="NAME", help="use this serializer, and offer no other")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="another setting of [connect.NAME], as in keepalive=2",
    )
    parser.add_argument("--verbose", action="store_true", help="log what happens, on stderr")


def add_payload_argument(parser: argparse.ArgumentParser) -> None:
    """Add the payload, as JSON."""
    parser.add_argument("payload", nargs="?", metavar="JSON", help="the payload; several parameters are a JSON array")


def payload(arguments: argparse.Namespace) -> Any:
    """Return the payload's value; None, the unit value, where there is none. Raises WrongUsage."""
    return parse_payload(arguments.payload)


def parse_payload(text: str | None) -> Any:
    """Return the value that ``text`` writes as JSON; None, the unit value, for no text. Raises WrongUsage."""
    if text is None:
        return None
    try:
        return json.loads(text)
    except ValueError as error:
        hint = f"; a text stands in double quotes: '{json.dumps(text)}'" if re.fullmatch(r"[\w .,!?-]+", text) else ""
        raise WrongUsage(f"the payload is not JSON: {error}{hint}") from error


class WrongUsage(Exception):
    """Arguments that cannot be right; exit code 2."""


def with_client(
    arguments: argparse.Namespace,
    use: Callable[[EchoClient], Awaitable[int]],
    extend: Callable[[ClientBuilder], object] | None = None,
) -> int:
    """Connect, let ``use`` do its work, and return its exit code, or that of what went wrong.

    ``extend`` may give the client handlers before it connects.
    """
    from echokernel.addresses import parse_address
    from echokernel.cli._loop import run_async
    from echokernel.errors import EchoError, InvalidArgument, PluginError
    from echokernel.logs import configure_logging

    configure_logging("debug" if arguments.verbose else "warning")
    try:
        address = parse_address(arguments.url, named=True)
        builder = _builder(arguments, address)
        if extend is not None:
            extend(builder)
    except (InvalidArgument, WrongUsage) as error:
        return fail(str(error), USAGE)

    async def talk() -> int:
        connected = False
        try:
            async with builder.connect(address) as client:
                connected = True
                return await use(client)
        except PluginError:
            raise
        except EchoError as error:
            return fail(remote_error(error) if connected else _unreachable(error, address), FAILED)

    return run_async(talk)


def _builder(arguments: argparse.Namespace, address: Address) -> Any:
    """Return a builder with the settings of the command line. Raises InvalidArgument, WrongUsage, PluginError."""
    from echokernel.addresses import NO_PORT, parse_address
    from echokernel.client import EchoClient
    from echokernel.loader import load_for_library, make_transport

    registry = load_for_library(address.scheme)
    settings = _settings(arguments)
    transport = make_transport(registry, address.scheme, listening=False, settings=settings)
    if address.port == NO_PORT and not transport.takes_names:
        parse_address(str(address))  # says what was wanted
    builder = EchoClient.builder().transport(transport)
    names = list(registry.serializers)
    if arguments.serializer is not None:
        if arguments.serializer not in names:
            from echokernel.config._problems import unknown

            what = f"--serializer: there is no serializer {arguments.serializer!r}"
            raise WrongUsage(unknown(what, arguments.serializer, names, label="installed"))
        names = [arguments.serializer]
    elif getattr(arguments, "reads_anything", False):  # what comes has to be read without types
        names = [name for name in names if registry.serializers[name].value.self_describing] or names
    for name in names:
        builder.serializer(registry.serializers[name].value)
    return builder


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    from echokernel.config._sources import parse_override, parse_value

    settings: dict[str, Any] = {}
    if arguments.fingerprint is not None:
        settings["fingerprint"] = arguments.fingerprint
    if arguments.ca is not None:
        settings["ca"] = arguments.ca
    if arguments.insecure:
        settings["skip_cert_verification"] = True
    for override in arguments.overrides:
        try:
            keys, raw = parse_override(override)
        except ValueError as error:
            raise WrongUsage(f"--set: {error}") from error
        level = settings
        for key in keys[:-1]:
            level = level.setdefault(str(key), {})
        level[str(keys[-1])] = parse_value(raw)
    return settings


def remote_error(error: EchoError) -> str:
    """Return ``method_not_found: …``."""
    kind = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(error).__name__).lower()
    return f"{kind}: {error}"


def _unreachable(error: EchoError, address: Address) -> str:
    from echokernel.addresses import NO_PORT
    from echokernel.errors import TransportError

    text = remote_error(error)
    if str(address) not in text:
        text = f"cannot connect to {address}: {text}"
    if isinstance(error, TransportError) and error.retryable and address.port != NO_PORT and "running" not in text:
        text += "; is a node running there? Start one with: echokernel run FILE"
    return text
