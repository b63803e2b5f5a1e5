"""A connection until it has said what it wants: an answer of HTTP, or a WebSocket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, cast

from websockets.datastructures import Headers
from websockets.http11 import Request
from websockets.server import ServerProtocol

from echokernel_agora.access import SUBPROTOCOL, Access, Refused
from echokernel_agora.http import Answer, RequestHead, Resources, error, explain
from echokernel_agora.hub import Hub
from echokernel_agora.principal import Principal
from echokernel_agora.websocket import HIGH_WATER, Sink, WebSocket, silent

__all__ = ["Door", "House"]

Gate = Callable[[WebSocket, Principal], tuple[Sink, Any]]
RETRY_SECONDS = 1  # after which a refused connection may try again; a restart is over by then
SPARE = 64  # connections beyond a bound, which get an answer before they go; further ones are dropped without a word


class House:
    """What all doors have in common: who may enter, what is to be had over HTTP, and the WebSockets by path."""

    def __init__(self, hub: Hub, access: Access, resources: Resources) -> None:
        self.hub, self.access, self.resources = hub, access, resources
        self.gates: dict[str, tuple[Gate, bool]] = {}
        """A WebSocket's path: who makes its sink and peer, and whether it is for operators only."""
        self.guarded: dict[str, Callable[[], Answer]] = {}
        """Paths of HTTP that are for operators only."""

    def answer(self, request: Request, address: str) -> Answer:
        """Return the answer to a request from ``address`` that wants no WebSocket. Raises Refused."""
        path = request.path.partition("?")[0]
        self.access.judge_url(request)
        if path in self.guarded:
            self.judge(request, address, operator=True)
            return self.guarded[path]()
        found = self.resources.find(path)
        if found is None:
            known = ", ".join(sorted({*self.gates, *self.guarded, *self.resources.paths}))
            raise Refused(HTTPStatus.NOT_FOUND, "path", f"nothing is here; there are {known}")
        return found

    def judge(self, request: Request, address: str, *, operator: bool) -> Principal:
        principal = self.access.judge(request, address)
        if operator and not principal.operator:
            if self.access.has_tokens:
                text = f"the token {principal.name!r} is not an operator's; this needs one with operator = true"
            else:
                text = (
                    "this router has no tokens, so this is for programs of its own machine only; give it tokens, one of them "
                    "with operator = true"
                )
            raise Refused(HTTPStatus.FORBIDDEN, "not_operator", text)
        return principal


class Door(asyncio.BufferedProtocol):
    """One TCP connection (or TLS over it) from its first byte to the answer, or to the WebSocket that takes it over."""

    __slots__ = ("_address", "_arrived", "_deadline", "_head", "_house", "_hub", "_transport")

    def __init__(self, house: House) -> None:
        self._house, self._hub = house, house.hub
        self._head: RequestHead | None = RequestHead()
        self._transport: asyncio.Transport
        self._address = ""
        self._arrived = False
        self._deadline = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self._address = peer[0] if isinstance(peer, tuple) else ""
        hub = self._hub
        if hub.shut:
            return self.abort(
                "the router stops"
            )  # a handshake of TLS ends when it likes; no timer would ever press this one
        hub.connections.add(self)
        hub.arrived(self._address)
        self._arrived = True
        for why, too_many in (
            ("connections", len(hub.connections) > hub.limits.connections + SPARE),
            ("unregistered", hub.is_crowded(self._address, spare=SPARE)),
        ):
            if too_many:
                hub.refusals[why] += 1
                return self.abort(why)
        self._deadline = hub.loop.time() + hub.limits.handshake_timeout
        hub.watch(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._hub.view

    def buffer_updated(self, nbytes: int) -> None:
        if self._head is None:
            return  # it has its answer
        try:
            request = self._head.feed(self._hub.view[:nbytes])
            if request is None:
                return
            if request.path.partition("?")[0] in self._house.gates:
                self._open(request)
            else:
                self._give(self._house.answer(request, self._address), head_only=request.method == "HEAD")
        except Refused as refused:
            self._refuse(refused)

    def _open(self, request: Request) -> None:
        house, hub = self._house, self._hub
        refused = explain(request)
        if refused is not None:
            raise refused
        make, operator = house.gates[request.path.partition("?")[0]]
        principal = house.judge(request, self._address, operator=operator)
        self._check_room()
        response = _handshake(request)
        if response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
            text = bytes(response.body).decode().strip()
            raise Refused(HTTPStatus(response.status_code), "handshake", text)
        assert self._head is not None
        rest, transport = self._head.rest, self._transport
        transport.write(response.serialize())
        transport.set_write_buffer_limits(high=HIGH_WATER)
        hub.forget(self)
        websocket = WebSocket(hub, transport, self._address)
        websocket.sink, websocket.peer = make(websocket, principal)
        transport.set_protocol(websocket)
        if rest:
            websocket.receive(rest)

    def _check_room(self) -> None:
        hub = self._hub
        retry = [("Retry-After", str(RETRY_SECONDS))]
        busy = HTTPStatus.SERVICE_UNAVAILABLE
        if hub.draining:
            raise Refused(busy, "draining", "the router is about to stop; try again", retry)
        if len(hub.connections) > hub.limits.connections:
            text = f"the router has its {hub.limits.connections} connections; try again later"
            raise Refused(busy, "connections", text, retry)
        if hub.is_crowded(self._address):
            text = f"{hub.limits.unregistered_per_address} connections from this address have registered nobody; let them first"
            raise Refused(busy, "unregistered", text, retry)

    def _refuse(self, refused: Refused) -> None:
        self._hub.refusals[refused.why] += 1
        fields = {"address": self._address, "status": int(refused.status), "why": refused.why}
        self._hub.on_event("refused", fields)
        self._give(error(refused))

    def _give(self, answer: Answer, *, head_only: bool = False) -> None:
        """Answer, and read on until the other side has it: closing at once would throw the answer away."""
        self._head = None
        self._transport.write(answer.serialize(head_only=head_only))
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()
        self._deadline = self._hub.loop.time() + self._hub.limits.close_timeout

    def eof_received(self) -> bool:
        self._deadline = min(self._deadline, self._hub.loop.time() + self._hub.limits.close_timeout)
        return False  # closes the transport once the answer is written

    def press(self, now: float) -> None:
        if now < self._deadline:
            return
        if self._head is None or not self._head.started:
            self.abort("nothing came")  # there is nobody to explain anything to
        else:
            seconds = self._hub.limits.handshake_timeout
            self._refuse(
                Refused(HTTPStatus.REQUEST_TIMEOUT, "timeout", f"the request was not complete within {seconds:g} s")
            )

    def beat(self, now: float) -> None:
        pass

    def abort(self, why: str) -> None:
        self._head = None
        self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self._hub.forget(self)
        if self._arrived:
            self._arrived = False
            self._hub.settled(self._address)


def _handshake(request: Request) -> Any:
    """Return the protocol library's answer to the request, with our own choice of a subprotocol."""
    offered = [part.strip() for value in request.headers.get_all("Sec-WebSocket-Protocol") for part in value.split(",")]
    # the library is not shown the offer: it may hold a token, and padded base64 is no word of the header's grammar
    headers = Headers()
    for name, value in request.headers.raw_items():
        if name.lower() != "sec-websocket-protocol":
            headers[name] = value
    response = ServerProtocol(logger=silent).accept(Request(request.path, headers, request.method, request.protocol))
    if response.status_code == HTTPStatus.SWITCHING_PROTOCOLS and SUBPROTOCOL in offered:
        response.headers["Sec-WebSocket-Protocol"] = SUBPROTOCOL
    return response
