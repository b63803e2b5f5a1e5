"""Calls that are coded by their handlers' types."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from echokernel.engine.codecs import REMEMBERED
from echokernel.engine.metadata import Claim
from echokernel.engine.stubs import Stub
from echokernel.errors import InvalidArgument
from echokernel_protocol.frames import Flags

if TYPE_CHECKING:
    from collections.abc import Callable

    from echokernel.calling import CallOptions
    from echokernel.engine.calls import Calls
    from echokernel.engine.codecs import Codecs

_ERROR = int(Flags.ERROR)

__all__ = ["TypedOut"]


class TypedOut:
    """The typed half of :class:`~echokernel.engine.calls.Calls`, of one session."""

    def __init__(self, calls: Calls, codecs: Codecs) -> None:
        self._calls = calls
        self._codecs = codecs
        self._stubs: dict[Any, Stub] = {}
        """By the handler's function: a method that is looked up on an instance is a new handler each time."""

    def stub(self, handler: Any) -> Stub:
        """Return how a handler of the peer's is called. Raises InvalidArgument."""
        try:
            stub = self._stubs.get(handler.function)
            if stub is not None and stub.method == handler.name:
                return stub
        except AttributeError:
            raise InvalidArgument(
                f"{handler!r} is no handler: wanted what @rpc or @event made; request() and emit() take names"
            ) from None
        stub = Stub(handler, self._codecs)
        if len(self._stubs) < REMEMBERED:
            self._stubs[handler.function] = stub
        return stub

    async def call(self, stub: Stub, payload: bytes, options: CallOptions) -> Any:
        """Send a request and return its result; see :meth:`Session.call`."""
        calls, method = self._calls, stub.method
        metadata = options.metadata if stub.is_known else Claim(options.metadata, stub.fingerprint)
        timeout, idempotent, isolated = options.timeout, options.idempotent, options.isolated
        try:
            if calls.outgoing is not None:
                flags, answer = await calls.request_through(
                    stub.head, method, payload, timeout, idempotent, metadata, isolated
                )
            else:
                exchange = calls.own_streams.exchange_isolated if isolated else calls.exchange
                flags, answer = await exchange(method, stub.head, payload, timeout, idempotent, metadata)
            if flags & _ERROR:
                raise calls.error_from(answer)
        except InvalidArgument as error:
            raise stub.judge(error) from None
        stub.is_known = True
        return self._decoder(stub.returns, flags)(answer)

    def _decoder(self, returns: Any, flags: int) -> Callable[[bytes], Any]:
        try:
            return self._codecs.decoders[returns, flags]
        except (KeyError, TypeError):
            return self._codecs.decoder(returns, flags)

    async def tell(self, stub: Stub, payload: bytes, options: CallOptions) -> None:
        """Send an event; see :meth:`Session.call`."""
        calls = self._calls
        if not stub.is_known:
            await calls.learning.compare(stub, options.timeout)
        emit = calls.emit_payload if calls.outgoing is None else calls.emit_through
        await emit(stub.method, stub.head, payload, options.metadata)
