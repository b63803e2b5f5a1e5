"""Streams that are open between agents: one message in parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from echokernel_agora.agents import Agent

__all__ = ["Key", "Stream"]

Key = tuple[str, str, bool, str]
"""Sender, receiver, whether it is a reply, stream id: senders choose ids, and two of them may choose the same."""


class Stream:
    """One of them. ``failed``: its sender was told why; what it still sends goes nowhere, and is counted."""

    __slots__ = ("chunks", "failed", "key", "last", "opened", "receiver", "sender")

    def __init__(self, key: Key, sender: Agent, receiver: Agent, now: float) -> None:
        self.key, self.sender, self.receiver = key, sender, receiver
        self.opened = self.last = now
        self.chunks = 0
        self.failed = False

    @property
    def reply(self) -> bool:
        return self.key[2]

    @property
    def stream_id(self) -> str:
        return self.key[3]
