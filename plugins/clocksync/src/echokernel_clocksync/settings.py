"""What a user may write about the service ``clocksync``."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from echokernel import InvalidArgument
from echokernel.addresses import parse_address

__all__ = ["ClockSettings"]


class ClockSettings(BaseModel):
    """Settings of ``clocksync``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reference: str | None = Field(
        default=None,
        description="The node to follow: quic://host:port, or mdns://name. Without it, this node is the reference.",
    )
    fingerprint: str | None = Field(default=None, description="Trust this key of the reference: sha256:…")
    ca: str | None = Field(default=None, description="Trust certificates from these authorities: a PEM file.")
    credentials: SecretStr | None = Field(default=None, description="What the reference's authenticators want to see.")
    connect: dict[str, Any] = Field(
        default={}, description="Further settings of the reference's transport, as in [connect.NAME]."
    )
    burst: int = Field(default=16, ge=3, le=64, description="Probes in quick succession at the start and after a step.")
    burst_pause: float = Field(default=0.02, ge=0.005, le=10, description="Seconds between them.")
    interval: float = Field(
        default=1.0,
        ge=0.02,
        le=3_600,
        description="Seconds between later probes: a quarter of it where there is jitter, up to 8 times where there is none.",
    )
    max_slew_ppm: float = Field(
        default=500.0,
        ge=1,
        le=100_000,
        description="By how much corrections may change the clock's rate, in millionths.",
    )

    @field_validator("reference")
    @classmethod
    def _is_address(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                parse_address(value, named=True)
            except InvalidArgument as error:
                raise ValueError(str(error)) from error
        return value

    @model_validator(mode="after")
    def _trust_is_for_a_reference(self) -> ClockSettings:
        given = [name for name in ("fingerprint", "ca", "credentials", "connect") if getattr(self, name)]
        if given and self.reference is None:
            raise ValueError(
                f'{", ".join(given)}: for the reference, and there is none; add reference = "quic://host:port"'
            )
        return self
