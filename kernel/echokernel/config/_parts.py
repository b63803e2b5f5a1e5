"""The named parts of a valid configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import BaseModel, SecretStr

    from echokernel.addresses import Address

__all__ = ["ConnectConfig", "ListenConfig", "PartConfig"]


@dataclass(frozen=True, slots=True)
class ListenConfig:
    """``[listen.NAME]``; ``settings`` is an instance of the transport's ``listen_settings``."""

    name: str
    address: Address
    authenticators: tuple[str, ...]
    allow_anonymous: bool
    settings: BaseModel = field(repr=False)


@dataclass(frozen=True, slots=True)
class ConnectConfig:
    """``[connect.NAME]``; ``settings`` is an instance of the transport's ``connect_settings``."""

    name: str
    address: Address
    credentials: SecretStr | None
    reconnect: str | None
    settings: BaseModel = field(repr=False)


@dataclass(frozen=True, slots=True)
class PartConfig:
    """A middleware, an authenticator or a service: ``use`` is its registered name; ``settings`` None: it takes none."""

    name: str
    use: str
    settings: BaseModel | None = field(repr=False)
