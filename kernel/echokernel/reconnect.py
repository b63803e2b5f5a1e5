"""What a reconnect policy has to be."""

from __future__ import annotations

from abc import ABC, abstractmethod

__all__ = ["ReconnectPolicy"]


class ReconnectPolicy(ABC):
    """Says when a lost connection is tried again. One instance serves one client."""

    @abstractmethod
    def next_delay(self, attempt: int, error: Exception) -> float | None:
        """Return the seconds to wait before try number ``attempt`` (from 1), None to give up.

        ``error`` is what ended the connection, or the last try.
        """
