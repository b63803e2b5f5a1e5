"""What a reconnect policy has to be, and what a client's builder collects about it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from echokernel.errors import ConnectionClosed, EchoError
from echokernel_protocol.codes import Code

__all__ = ["ReconnectPolicy", "Reconnecting", "is_final"]

Notice = Callable[..., Awaitable[None] | None]
"""Called with the client's context first."""
_UNWANTED = (Code.PERMISSION_DENIED, Code.UNAUTHENTICATED, Code.INCOMPATIBLE)


class ReconnectPolicy(ABC):
    """Says when a lost connection is tried again. One instance serves one client."""

    dial_timeout: float = 10.0
    """Seconds that one try may take, from asking for credentials to the answer to the hello."""

    @abstractmethod
    def next_delay(self, attempt: int, error: Exception) -> float | None:
        """Return the seconds to wait before try number ``attempt`` (from 1), None to give up.

        ``error`` is what ended the connection, or the last try. It is not asked about errors that no try can change.
        """

    def connected(self) -> None:
        """A session is open: the hello was answered. The next ``attempt`` is 1 again."""


@dataclass(slots=True)
class Reconnecting:
    """How one client connects again, and who hears of it."""

    policy: ReconnectPolicy | None = None
    first: bool = False
    on_reconnecting: list[Notice] = field(default_factory=list)
    on_reconnected: list[Notice] = field(default_factory=list)
    on_gave_up: list[Notice] = field(default_factory=list)

    def copy(self) -> Reconnecting:
        """Return one that later calls of the builder do not change."""
        return replace(
            self,
            on_reconnecting=list(self.on_reconnecting),
            on_reconnected=list(self.on_reconnected),
            on_gave_up=list(self.on_gave_up),
        )


def is_final(error: Exception) -> bool:
    """Whether no later try can succeed: we are not wanted, do not fit, or the peer has ended the session on purpose.

    What is no error of ours, such as a failure of the program that gets the credentials, may pass.
    """
    if not isinstance(error, EchoError):
        return False
    if isinstance(error, ConnectionClosed) and (error.code in _UNWANTED or (error.by_peer and error.code == Code.OK)):
        return True
    return not error.retryable
