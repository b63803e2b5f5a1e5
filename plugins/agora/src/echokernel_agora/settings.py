"""What a user may write in ``[service.NAME] use = "agora"``."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr, create_model, field_validator, model_validator

from echokernel import ConfigError
from echokernel_agora.limits import Limits

__all__ = ["AgoraSettings", "TokenSettings"]


MAY_BE_ZERO = {"self_per_minute", "pair_per_minute", "hops", "resume_window", "capabilities", "card_bytes"}


class TokenSettings(BaseModel):
    """One token, ``[[service.NAME.tokens]]``."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    name: str = Field(description="A label for logs and the console.")
    token: SecretStr = Field(description='At least 16 characters: { env = "NAME" } or { file = "path" }.')
    ids: list[str] = Field(
        default=["*"], min_length=1, description='Patterns of ids that its agents may have: "team-a/*".'
    )
    reaches: list[str] = Field(default=["*"], description="Patterns of ids they may send to, and see.")
    operator: bool = Field(default=False, description="May use the console and read the metrics.")


def _limits_model() -> type[BaseModel]:
    """The fields of :class:`Limits`, with the bounds that each makes sense in."""
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(Limits):
        kind = float if isinstance(field.default, float) else int
        least: dict[str, Any] = {"ge": 0} if field.name in MAY_BE_ZERO else {"gt": 0}
        fields[field.name] = (kind, Field(default=field.default, **least))
    return create_model(
        "LimitsSettings", __config__=ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True), **fields
    )


if TYPE_CHECKING:
    LimitsSettings = BaseModel
else:
    LimitsSettings = _limits_model()


class AgoraSettings(BaseModel):
    """Settings of ``agora``."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    listen: str = Field(default="127.0.0.1:8765", description="HOST:PORT of the router; port 0: any that is free.")
    tokens: list[TokenSettings] = Field(
        default=[], description="Who may connect. Without any, everybody, and only from this machine."
    )
    origins: list[str] = Field(
        default=[],
        description='Pages of other hosts that may connect: "https://app.example". "null": files of a browser.',
    )
    hosts: list[str] = Field(
        default=[], description="Names, beside localhost and addresses, under which browsers reach the router."
    )
    insecure: bool = Field(default=False, description="Listen where others can connect, without tokens.")
    certificate: str | None = Field(default=None, description="A PEM file with the chain, for wss:// and https://.")
    key: str | None = Field(default=None, description="Its key, a PEM file.")
    strict_seed: bool = Field(
        default=False, description="Send the frames and fields of the original protocol only: no errors, no extensions."
    )
    limits: LimitsSettings = Field(
        default=LimitsSettings(), description="Bounds of the router: see the operating guide."
    )

    @field_validator("listen")
    @classmethod
    def _is_address(cls, value: str) -> str:
        from echokernel_agora.server import parse_listen

        try:
            parse_listen(value)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> AgoraSettings:
        """What the server would refuse is told here, with the line in the file."""
        from echokernel_agora.access import Access
        from echokernel_agora.server import check_exposure, parse_listen

        try:
            tokens = self.made_tokens()
            check_exposure(parse_listen(self.listen), has_tokens=bool(tokens), insecure=self.insecure)
            Access(tokens, origins=self.origins, hosts=self.hosts)
            if (self.certificate is None) != (self.key is None):
                raise ConfigError("TLS needs both, certificate and key: two PEM files")
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return self

    def made_tokens(self) -> list[Any]:
        """Return them as the server takes them. Raises ConfigError."""
        from echokernel_agora.access import Token

        return [
            Token(each.name, each.token.get_secret_value(), tuple(each.ids), tuple(each.reaches), each.operator)
            for each in self.tokens
        ]

    def made_limits(self) -> Limits:
        return Limits(**self.limits.model_dump())
