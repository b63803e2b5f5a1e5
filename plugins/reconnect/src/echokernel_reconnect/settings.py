"""What a user may write about the policy ``backoff``."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from echokernel_reconnect.backoff import Backoff

__all__ = ["BackoffSettings"]


class BackoffSettings(BaseModel):
    """Settings of ``backoff``; the defaults are those of :class:`Backoff`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    first: float = Field(
        default=0.1, ge=0, le=3_600, description="The first try comes within so many seconds of the loss, at random."
    )
    base: float = Field(
        default=0.1,
        gt=0,
        le=3_600,
        description="The second try comes within so many seconds of the first one, at random.",
    )
    factor: float = Field(default=2.0, ge=1, le=100, description="By how much that bound grows with each further try.")
    cap: float = Field(default=10.0, gt=0, le=3_600, description="The bound grows no further than this, in seconds.")
    stable: float = Field(
        default=10.0,
        ge=0,
        le=3_600,
        description="Seconds that a session has to last for the next loss to begin with the first try again.",
    )
    max_tries: int | None = Field(
        default=None, ge=1, description="Tries since the last stable session before giving up; without it, no limit."
    )
    max_seconds: float | None = Field(
        default=None, gt=0, description="Seconds after the loss in which a try may begin; without it, no limit."
    )
    dial_timeout: float = Field(default=10.0, gt=0, le=3_600, description="Seconds that one try may take.")

    def to_policy(self) -> Backoff:
        """Return a policy with these settings, for one client."""
        return Backoff(**self.model_dump())
