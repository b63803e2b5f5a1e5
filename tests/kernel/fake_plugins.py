"""Distributions that are not installed: a dist-info directory and modules in a temporary directory of ``sys.path``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from textwrap import dedent

GROUP = "echokernel.plugins.v1"

EVERYTHING = '''
"""A plugin that implements the first six hooks, and authenticators and services, with the public API alone."""

from typing import Any

from pydantic import BaseModel, SecretStr, field_validator

from echokernel.discovery import Discovery
from echokernel.hookspecs import hookimpl
from echokernel.middleware import Middleware
from echokernel.reconnect import ReconnectPolicy
from echokernel.serializer import Codec, Serializer
from echokernel.settings import Settings
from echokernel.transport import Transport


class Inner(BaseModel):
    depth: int = 1


class Listen(Settings):
    certificate: str = "self-signed"
    """A file, or ``self-signed``."""
    host: str = "localhost"
    port: int = 1
    token: SecretStr | None = None
    inner: Inner = Inner()
    client_ca: str = ""

    @field_validator("host")
    @classmethod
    def check_host(cls, value: str) -> str:
        if value.startswith("bad"):
            raise ValueError(f"the host {value} is no good")
        return value


class Connect(Settings):
    fingerprint: str | None = None
    ca: str | None = None
    insecure: bool = False


class FakeTransport(Transport):
    def __init__(self, settings: Any) -> None:
        self.settings = settings

    @property
    def authenticates_peers(self) -> bool:
        return bool(getattr(self.settings, "client_ca", ""))

    async def listen(self, address: Any, tasks: Any) -> Any: ...

    async def connect(self, address: Any, tasks: Any) -> Any: ...


class Plain(Serializer):
    def __init__(self, name: str) -> None:
        self.name = name

    def codec(self, type: Any) -> Codec:
        return Codec(repr, eval)


class Limit(Settings):
    rate_hz: float
    """Messages per second."""


class RateLimit(Middleware):
    def __init__(self, settings: Limit) -> None:
        self.settings = settings


class Policy(ReconnectPolicy):
    def next_delay(self, attempt: int, error: Exception) -> float | None:
        return None


class Tokens(Settings):
    tokens: list[SecretStr] = []


class TokenAuthenticator:
    def __init__(self, settings: Tokens) -> None:
        self.settings = settings

    async def authenticate(self, credentials: bytes, peer: Any) -> str | None:
        return None


class Ticker:
    async def start(self, context) -> None: ...

    async def stop(self) -> None: ...


class Hello:
    name = "fake.hello"
    __echokernel_kind__ = "rpc"

    async def handle(self, session: Any, frame: Any) -> None: ...


@hookimpl
def echokernel_transports(registry):
    registry.transport("fake", FakeTransport, listen_settings=Listen, connect_settings=Connect)


@hookimpl
def echokernel_serializers(registry):
    registry.serializer(Plain("plain"))
    registry.serializer(Plain("plainer"))


@hookimpl
def echokernel_middleware(registry):
    registry.middleware("trace", Middleware)
    registry.middleware("limit", RateLimit, settings=Limit)


@hookimpl
def echokernel_handlers(registry):
    registry.handler(Hello())


@hookimpl
def echokernel_discovery(registry):
    registry.discovery("fake", Discovery)


@hookimpl
def echokernel_reconnect(registry):
    registry.reconnect("never", Policy)


@hookimpl
def echokernel_authenticators(registry):
    registry.authenticator("token", TokenAuthenticator, settings=Tokens)


@hookimpl
def echokernel_services(registry):
    registry.service("ticker", Ticker)
'''

SERIALIZER = """
from echokernel.hookspecs import hookimpl
from echokernel.serializer import Codec, Serializer

class One(Serializer):
    name = {name!r}
    def codec(self, type):
        return Codec(repr, eval)

@hookimpl
def echokernel_serializers(registry):
    registry.serializer(One())
"""


class FakeSite:
    """A directory of ``sys.path`` that distributions can be put into."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def module(self, name: str, source: str) -> None:
        target = self.path / (name.replace(".", "/") + ".py")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(dedent(source), encoding="utf-8")

    def distribution(
        self,
        name: str,
        version: str = "0.1.0",
        *,
        entries: dict[str, str] | None = None,
        group: str = GROUP,
        requires: Sequence[str] = (),
        entry_points: str | None = None,
    ) -> Path:
        """Add a distribution with these entry points (name -> module), or with this text as ``entry_points.txt``."""
        info = self.path / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        lines = [
            "Metadata-Version: 2.1",
            f"Name: {name}",
            f"Version: {version}",
            *(f"Requires-Dist: {r}" for r in requires),
        ]
        (info / "METADATA").write_text("\n".join(lines) + "\n", encoding="utf-8")
        text = entry_points
        if text is None:
            text = f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in (entries or {}).items())
        (info / "entry_points.txt").write_text(text, encoding="utf-8")
        return info

    def plugin(self, name: str, source: str, version: str = "0.1.0", *, requires: Sequence[str] = ()) -> str:
        """Add distribution ``echokernel-NAME`` with one plugin, and return the name of its module."""
        module = f"fake_echokernel_{name.replace('-', '_')}"
        self.module(module, source)
        self.distribution(f"echokernel-{name}", version, entries={name: module}, requires=requires)
        return module

    def forget(self) -> None:
        """Let nothing that was imported from here be found by the next test."""
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", None) or "").startswith(str(self.path)):
                del sys.modules[name]
