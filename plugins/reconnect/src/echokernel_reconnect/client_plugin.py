"""The plugin for builders: ``EchoClient.builder().plugin(ReconnectPlugin())``."""

from __future__ import annotations

from typing import Any

from echokernel import ClientBuilder, InvalidArgument, ReconnectPolicy
from echokernel_reconnect.backoff import Backoff

__all__ = ["ReconnectPlugin"]


class ReconnectPlugin:
    """Makes a client connect again when its connection is lost.

    ``policy``: when; by default a :class:`Backoff` with the ``settings`` that are given here: ``ReconnectPlugin(max_tries=5)``.
    ``retry_first``: also when there is no connection to begin with; else connecting raises at once. Raises InvalidArgument for
    settings that are out of bounds, and for settings beside a policy.
    """

    name = "reconnect"

    def __init__(self, policy: ReconnectPolicy | None = None, *, retry_first: bool = False, **settings: Any) -> None:
        if policy is not None and settings:
            raise InvalidArgument(f"ReconnectPlugin: {', '.join(settings)}: settings are the policy's; give them to it")
        self._policy = policy
        self._settings = settings
        self._retry_first = retry_first
        if policy is None:
            Backoff(**settings)  # a mistake shows here

    def install(self, builder: ClientBuilder) -> ClientBuilder:
        """Give the builder's client a policy."""
        policy = self._policy or Backoff(**self._settings)  # one for each client
        return builder.reconnect(policy, first=self._retry_first)
