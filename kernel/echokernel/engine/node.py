"""What all sessions of one node share. Built once, never changed by a message."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from echokernel.context import ClientContext
from echokernel.introspection import About
from echokernel.limits import Limits
from echokernel.methods import MethodTable
from echokernel.middleware import overrides
from echokernel_protocol.clock import CLOCK_FEATURE
from echokernel_protocol.hello import Hello

if TYPE_CHECKING:
    from echokernel.middleware import Middleware
    from echokernel.registry import Authenticator
    from echokernel.serializer import Serializer
    from echokernel.session import Session

__all__ = ["Node"]

Callback = Callable[[Any], Awaitable[None] | None]


@dataclass(slots=True, kw_only=True)
class Node:
    """One program's end of all its sessions."""

    name: str = ""
    limits: Limits = field(default_factory=Limits)
    methods: MethodTable = field(default_factory=MethodTable)
    serializers: Sequence[Serializer] = ()
    middleware: Sequence[Middleware] = ()
    authenticators: Sequence[Authenticator] = ()
    on_connect: Sequence[Callback] = ()
    on_disconnect: Sequence[Callback] = ()
    context: Any = None
    """The ServerContext or ClientContext."""
    tracebacks: bool = False
    """Whether peers get the tracebacks of handlers that fail."""
    follows: bool = True
    """Whether its clock follows that of a node that it dials."""
    boot: str = field(default_factory=lambda: secrets.token_hex(8))
    about: About = field(default_factory=About)

    def hello(self, credentials: bytes = b"") -> Hello:
        """Return what this node announces."""
        limits = self.limits
        return Hello(
            node=self.name,
            boot=self.boot,
            features=(CLOCK_FEATURE,) if self.context.clock.answers else (),
            serializers=tuple(serializer.name for serializer in self.serializers),
            max_frame=limits.max_frame,
            max_message=limits.max_message,
            max_requests=limits.max_requests,
            max_request_bytes=limits.max_request_bytes,
            event_limit=limits.event_window,
            timeout=int(limits.default_timeout * 1000),
            credentials=credentials,
        )

    @property
    def is_told_of_sessions(self) -> bool:
        """Whether something runs when a session begins, before anything of it is handled."""
        return bool(self.on_connect) or any(overrides(layer, "handle_session") for layer in self.middleware)

    def subject(self, session: Session) -> Any:
        """Return what connect and disconnect callbacks get: the session on a server, the context on a client."""
        return self.context if isinstance(self.context, ClientContext) else session

    def chosen(self, names: Sequence[str]) -> list[Serializer]:
        """Return the serializers of slots 1, 2, 3 by the names that the hello agreed on."""
        by_name = {serializer.name: serializer for serializer in self.serializers}
        return [by_name[name] for name in names]
