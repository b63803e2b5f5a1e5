"""The ``$clock`` frames of one session: they leave at once, and a peer that sends too many is not listened to."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from echokernel.errors import TransportError
from echokernel_protocol.frames import MessageType, encode_frame, encode_method
from echokernel_protocol.link import CLOCK

if TYPE_CHECKING:
    from echokernel.engine.link import Link
    from echokernel.session import Session
    from echokernel.tasks import TaskScope

PER_SECOND = 200.0  # from one peer: four times what a burst of probes needs; each costs a packet
AT_ONCE = 64.0

logger = logging.getLogger("echokernel.session")
_HEAD = encode_method(CLOCK, 0)

__all__ = ["ClockFrames"]


class ClockFrames:
    """Sends them, as datagrams where there are some, and hands what comes to the node's clock."""

    __slots__ = ("_has_failed", "_link", "_room", "_room_at", "_session", "_tasks", "dropped")

    def __init__(self, session: Session, link: Link, tasks: TaskScope) -> None:
        self._session = session
        self._link = link
        self._tasks = tasks
        self._room = AT_ONCE
        self._room_at = tasks.now()
        self._has_failed = False
        self.dropped = 0
        """Received beyond the rate, or by a node without a clock."""

    def send(self, payload: bytes) -> bool:
        """Send one now; False where nothing may leave, or too many wait on the channel."""
        connection = self._link.connection
        data = encode_frame(MessageType.EVENT, 0, _HEAD, payload)[4:]
        if len(data) > connection.max_datagram:
            if not self._link.channel.clock(payload):
                return False
            self._link.flush()
            return True
        try:
            connection.send_datagram(data)
            connection.flush()
        except TransportError:
            return False  # the session is about to learn it too
        return True

    def take(self, payload: bytes) -> None:
        """The peer has sent one. Never raises."""
        now = self._tasks.now()
        self._room = min(AT_ONCE, self._room + (now - self._room_at) * PER_SECOND)
        self._room_at = now
        clock = self._session._node.context.clock
        if self._room < 1 or not clock.answers:
            self.dropped += 1
            return
        self._room -= 1
        try:
            clock.received(self._session, payload)
        except Exception as error:  # a plugin's fault is none of the session's
            if not self._has_failed:  # the peer may send what makes it fail, again and again
                self._has_failed = True
                logger.error("the clock failed: %s", type(error).__name__, exc_info=error)
