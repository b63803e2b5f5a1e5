"""What a user may write in ``[discovery]`` settings and in ``[service.NAME] use = "mdns"``."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["AdvertiserSettings", "MdnsSettings"]


class MdnsSettings(BaseModel):
    """Where mDNS is spoken; the defaults are those of :class:`MdnsDiscovery`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    interfaces: list[str] | None = Field(
        default=None,
        min_length=1,
        description="Names (also as patterns: wl*) or addresses of the network interfaces that take part; without it, all "
        "that can multicast, but those of containers and virtual machines.",
    )
    ipv6: bool = Field(default=False, description="Use IPv6 multicast too; a network without IPv4 uses it in any case.")


class AdvertiserSettings(MdnsSettings):
    """How a node announces itself."""

    name: str | None = Field(
        default=None, description="Under which name it is found: mdns://NAME; without it, the node's own name."
    )
    instance: str | None = Field(
        default=None,
        description="The name of this one among others, at most 63 bytes; without it, the name and a random suffix. A name "
        "that is taken gets a number.",
    )
    properties: dict[str, str] = Field(
        default_factory=dict, description="What is announced beside it: short texts that anybody may read."
    )
    fast: bool = Field(
        default=False,
        description="Announce at once, with a random instance name, without asking for 1.2 s whether it is taken.",
    )
