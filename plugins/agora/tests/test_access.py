"""Tokens, origins, and the names under which pages may reach the router."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
from websockets.datastructures import Headers
from websockets.http11 import Request

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode leaves helpers beside the tests to us

from listening import Raw, agent, fetch, request, text, until, watched, websocket

from echokernel import ConfigError
from echokernel_agora import AgoraServer, Limits, Token
from echokernel_agora.access import Access, Refused
from echokernel_agora.hub import Hub

SECRET, OTHER = "s3cret-of-team-a/+?~", "another-secret-of-ops"
HOME, AWAY = "127.0.0.1", "192.0.2.7"
TOKENS = (Token("team-a", SECRET, ("team-a/*",)), Token("ops", OTHER, operator=True))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def encoded(secret: str, *, padded: bool = False) -> str:
    made = base64.urlsafe_b64encode(secret.encode()).decode()
    return made if padded else made.rstrip("=")


def asking(path: str = "/ws", **headers: str) -> Request:
    return Request(path, Headers({name.replace("_", "-"): value for name, value in headers.items()}))


def refused(access: Access, request: Request) -> tuple[int, str]:
    with pytest.raises(Refused) as caught:
        access.judge(request, HOME)
    return int(caught.value.status), caught.value.why


# --- tokens ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {SECRET}"},
        {"Authorization": f"bearer   {SECRET} "},
        {"Sec_WebSocket_Protocol": f"agora.v1, agora.bearer.{encoded(SECRET)}"},
        {"Sec_WebSocket_Protocol": f"agora.bearer.{encoded(SECRET, padded=True)},agora.v1"},
        {"Authorization": f"Bearer {SECRET}", "Sec_WebSocket_Protocol": "agora.v1"},
    ],
)
def test_a_token_says_who_it_is(headers: dict[str, str]) -> None:
    principal = Access(TOKENS).judge(asking(Host="router.example", **headers), HOME)
    assert (principal.name, principal.ids, principal.operator, principal.anonymous) == (
        "team-a",
        ("team-a/*",),
        False,
        False,
    )


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        ({}, "token_missing"),
        ({"Sec_WebSocket_Protocol": "agora.v1"}, "token_missing"),
        ({"Authorization": "Bearer wrong-wrong-wrong-wrong"}, "token_unknown"),
        ({"Authorization": f"Bearer {SECRET}x"}, "token_unknown"),
        ({"Authorization": f"Bearer {SECRET[:-1]}"}, "token_unknown"),
        ({"Authorization": f"Basic {encoded(SECRET)}"}, "token_form"),
        ({"Authorization": "Bearer"}, "token_form"),
        ({"Authorization": "Bearer \xff\xfe"}, "token_unknown"),
        ({"Sec_WebSocket_Protocol": "agora.v1, agora.bearer.*"}, "token_form"),
        ({"Sec_WebSocket_Protocol": "agora.v1, agora.bearer."}, "token_form"),
        ({"Sec_WebSocket_Protocol": "agora.v1, agora.bearer.QUJD"}, "token_unknown"),
        ({"Sec_WebSocket_Protocol": "agora.v1, agora.bearer.QUJD, agora.bearer.QUJE"}, "token_form"),
    ],
)
def test_everything_else_is_401(headers: dict[str, str], why: str) -> None:
    assert refused(Access(TOKENS), asking(Host="localhost", **headers)) == (401, why)


def test_a_bearer_without_the_protocol_is_told_what_lacks() -> None:
    wrong = asking(Host="localhost", Sec_WebSocket_Protocol=f"agora.bearer.{encoded(SECRET)}")
    assert refused(Access(TOKENS), wrong) == (400, "subprotocol")


@pytest.mark.parametrize(
    "query",
    [
        "token=x",
        "access_token=",
        "TOKEN=abc",
        "a=b&api_key=1",
        "x=s3cret-of-team-a%2F%2B%3F~",
        "authorization",
        "a=b&" * 200 + "token=x",
        "long-enough-for-a-token=as-this-one-is-too&" * 150 + "x=s3cret-of-team-a%2F%2B%3F~",
    ],
)
def test_a_token_in_the_url_is_refused_even_where_it_is_right(query: str) -> None:
    access = Access(TOKENS)
    right = asking(f"/ws?{query}", Host="localhost", Authorization=f"Bearer {SECRET}")
    assert refused(access, right) == (400, "token_in_url")
    with pytest.raises(Refused, match="replace it if it was real") as caught:
        access.judge(right, HOME)
    assert "s3cret" not in caught.value.text


def test_other_queries_are_nobodys_business() -> None:
    assert Access(TOKENS).judge(asking("/ws?verbose=1&x", Host="x", Authorization=f"Bearer {OTHER}"), HOME).operator


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (lambda: Token("a", "short"), "has 5 characters, wanted are at least 16"),
        (lambda: Token("a", "with a space in it, long"), "other than printable ASCII"),
        (lambda: Token("", SECRET), "needs a name"),
        (lambda: Token("a", SECRET, ()), "allows no id"),
        (lambda: Access([Token("a", SECRET), Token("a", OTHER)]), "same name or the same secret"),
        (lambda: Access([Token("a", SECRET), Token("b", SECRET)]), "same name or the same secret"),
        (lambda: Access(origins=["https://app.example/path"]), "wanted is scheme://host"),
        (lambda: Access(origins=["app.example"]), "wanted is scheme://host"),
        (lambda: AgoraServer(listen="0.0.0.0:1"), "other machines can reach 0.0.0.0:1, and there are no tokens"),
        (lambda: AgoraServer(listen="router.example:1"), "set insecure = true to let everybody in"),
        (lambda: AgoraServer(listen="8765"), "wanted is HOST:PORT, as in 127.0.0.1:8765"),
        (lambda: AgoraServer(listen="quic://127.0.0.1:1"), "speaks WebSocket there"),
        (lambda: AgoraServer(certificate="x.pem"), "needs both, certificate and key"),
        (lambda: AgoraServer(certificate="no.pem", key="no.key"), "cannot be loaded: FileNotFoundError"),
    ],
)
def test_mistakes_are_told_when_it_is_made(made: Any, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        made()
    assert says in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "operator"), [(HOME, True), ("::1", True), ("", True), (AWAY, False), ("fe80::1", False)]
)
def test_without_tokens_only_who_is_on_this_machine_is_an_operator(address: str, operator: bool) -> None:
    principal = Access(insecure=True).judge(asking(Host="localhost"), address)
    assert (principal.operator, principal.anonymous, principal.ids) == (operator, True, ("*",))


def test_secrets_are_not_shown() -> None:
    access = Access(TOKENS)
    assert SECRET not in repr(TOKENS)
    assert SECRET not in repr(vars(access))


# --- pages -----------------------------------------------------------------------------------------------------------

HERE = "localhost:8765"


@pytest.mark.parametrize(
    ("host", "origin", "settings"),
    [
        (HERE, None, {}),
        (HERE, f"http://{HERE}", {}),
        ("LOCALHOST:8765", "http://localhost:8765", {}),
        ("127.0.0.1:8765", "http://127.0.0.1:8765", {}),
        ("[::1]:8765", "http://[::1]:8765", {}),
        ("192.168.1.7:8765", "http://192.168.1.7:8765", {}),
        ("console.localhost", "http://console.localhost:80", {}),
        ("localhost", "https://localhost:443", {}),
        ("router.example", "https://router.example", {"hosts": ["Router.example"]}),
        ("router.example", None, {"hosts": ["router.example"]}),
        (HERE, "https://app.example", {"origins": ["https://app.example"]}),
        (HERE, "null", {"origins": ["null"]}),
        (HERE, "http://localhost:3000", {"origins": ["http://localhost:3000"]}),
        ("whatever.example", None, {"insecure": True}),
    ],
)
def test_pages_that_may_connect(host: str, origin: str | None, settings: dict[str, Any]) -> None:
    headers = {"Host": host} | ({} if origin is None else {"Origin": origin})
    assert Access(**settings).judge(asking(**headers), HOME).anonymous


@pytest.mark.parametrize(
    ("host", "origin", "settings", "expected"),
    [
        (HERE, "https://evil.example", {}, (403, "origin")),
        (HERE, "http://localhost:3000", {}, (403, "origin")),
        (HERE, "http://localhost", {}, (403, "origin")),
        (HERE, "null", {}, (403, "origin")),
        (HERE, "", {}, (403, "origin")),
        (HERE, "http://localhost:8765.evil.example", {}, (403, "origin")),
        ("evil.example:8765", "http://evil.example:8765", {}, (403, "host")),  # its name was pointed at 127.0.0.1
        ("evil.example:8765", "http://evil.example:8765", {"insecure": True}, (403, "host")),
        ("evil.example:8765", "http://evil.example:8765", {"tokens": TOKENS}, (403, "host")),
        ("evil.example:8765", None, {}, (403, "host")),  # its own GET has no Origin
        ("127.0.0.1.evil.example", None, {}, (403, "host")),
        ("localhost.evil.example", None, {}, (403, "host")),
        ("[::1", None, {}, (403, "host")),
        ("app.example", "https://other.example", {"origins": ["https://app.example"]}, (403, "host")),
        (HERE, "https://app.example:444", {"origins": ["https://app.example"]}, (403, "origin")),
    ],
)
def test_pages_that_may_not(host: str, origin: str | None, settings: dict[str, Any], expected: tuple[int, str]) -> None:
    headers = {"Host": host} | ({} if origin is None else {"Origin": origin})
    if "tokens" in settings:
        headers["Authorization"] = f"Bearer {SECRET}"
    assert refused(Access(**settings), asking(**headers)) == expected


def test_headers_that_are_there_twice_are_refused() -> None:
    headers = Headers([("Host", HERE), ("Origin", f"http://{HERE}"), ("Origin", "https://evil.example")])
    assert refused(Access(), Request("/ws", headers)) == (400, "headers")
    assert refused(Access(), Request("/ws", Headers())) == (400, "host")


# --- at the socket ---------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_only_the_protocol_is_echoed_never_the_token() -> None:
    async with AgoraServer(listen="127.0.0.1:0", tokens=TOKENS) as server:
        for padded in (False, True):
            offer: dict[str, str | None] = {
                "Sec-WebSocket-Protocol": f"agora.v1, agora.bearer.{encoded(SECRET, padded=padded)}",
                "Origin": f"http://localhost:{server.address.port}",
                "Host": f"localhost:{server.address.port}",
            }
            async with await websocket(server, headers=offer) as raw:
                assert b"Sec-WebSocket-Protocol: agora.v1\r\n" in raw.head
                assert raw.head.count(b"agora") == 1
                raw.send(text({"type": "register", "id": "team-b/1", "name": "x"}))
                assert (await raw.json())["code"] == "forbidden"
                raw.send(text({"type": "register", "id": "team-a/1", "name": "x"}))
                assert (await raw.json())["type"] == "registered"


@pytest.mark.anyio
async def test_the_console_and_the_metrics_are_for_operators() -> None:
    async with AgoraServer(listen="127.0.0.1:0", tokens=TOKENS) as server:
        for path in ("/metrics",):
            status, headers, _ = await fetch(server, path)
            assert (status, headers["WWW-Authenticate"]) == (401, 'Bearer realm="agora"')
            status, _, body = await fetch(server, path, {"Authorization": f"Bearer {SECRET}"})
            assert status == 403
            assert b"the token 'team-a' is not an operator's" in body
            assert (await fetch(server, path, {"Authorization": f"Bearer {OTHER}"}))[0] == 200
        for secret, expected in ((SECRET, 403), (OTHER, 101)):
            async with await Raw.dial(server) as raw:
                raw.send(request("/console", {"Authorization": f"Bearer {secret}"}))
                assert (await raw.response())[0] == expected
        assert (await fetch(server, "/healthz"))[0] == 200


@pytest.mark.anyio
async def test_without_tokens_a_stranger_gets_neither_console_nor_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    async with watched(insecure=True) as (server, _):
        assert (await fetch(server, "/metrics"))[0] == 200
        monkeypatch.setattr("echokernel_agora.access.is_local", lambda address: False)
        status, _, body = await fetch(server, "/metrics")
        assert status == 403
        assert b"no tokens, so this is for programs of its own machine only" in body
        async with await Raw.dial(server) as raw:
            raw.send(request("/console"))
            assert (await raw.response())[0] == 403
        async with await agent(server, "stranger"):
            assert (await fetch(server, "/healthz"))[0] == 200


@pytest.mark.anyio
async def test_no_token_is_in_any_log_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    payload = "words-of-an-agent"
    async with AgoraServer(listen="127.0.0.1:0", tokens=TOKENS) as server:
        bearer: dict[str, str | None] = {"Authorization": f"Bearer {SECRET}"}
        async with await agent(server, "team-a/1", bearer) as raw:
            raw.send(text({"type": "send", "to": "team-a/1", "payload": payload}))
            await raw.json()
            raw.send(text({"type": "send", "to": "team-b/1", "payload": payload}))
            assert (await raw.json())["code"] == "no_such_agent"
        for wrong in ({"Authorization": f"Bearer {SECRET}x"}, {"Authorization": f"Basic {SECRET}"}):
            async with await Raw.dial(server) as raw:
                raw.send(request(headers={**wrong}))
                assert (await raw.response())[0] == 401
        for path in (f"/ws?token={SECRET}", f"/ws?x={SECRET}", f"/{SECRET}"):
            status, _, body = await fetch(server, path)
            assert status in (400, 404)
            assert SECRET.encode() not in body
        metrics = (await fetch(server, "/metrics", {"Authorization": f"Bearer {OTHER}"}))[2].decode()
        snapshot = json.dumps(server.router.snapshot())
    lines = [
        f"{record.getMessage()} {vars(record)}" for record in caplog.records if record.name.startswith("echokernel")
    ]
    assert any("token_unknown" in line for line in lines)
    assert any("registered" in line and "'team-a/1'" in line for line in lines)
    for secret in (SECRET, encoded(SECRET), OTHER, payload):
        assert not [line for line in lines if secret in line]
        assert secret not in metrics
        assert secret not in snapshot


@pytest.mark.anyio
async def test_connections_are_bounded_and_an_answer_says_so() -> None:
    async with watched(limits=Limits(connections=3)) as (server, pair), await websocket(server):
        async with await Raw.dial(server) as raw:
            raw.send(request())
            status, headers = await raw.response()
            assert (status, headers["Retry-After"]) == (503, "1")
            assert b"the router has its 3 connections" in await raw.body()
        assert (await fetch(server, "/healthz"))[0] == 200, "whoever watches it can still do so"
        await pair.exchange()


@pytest.mark.anyio
async def test_an_address_may_hold_so_many_connections_that_register_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("echokernel_agora.hub.is_local", lambda address: False)
    async with watched(limits=Limits(unregistered_per_address=2)) as (server, pair):
        async with await websocket(server) as one, await websocket(server):
            async with await Raw.dial(server) as raw:
                raw.send(request())
                assert (await raw.response())[0] == 503
                assert b"2 connections from this address have registered nobody" in await raw.body()
            one.send(text({"type": "register", "id": "at-last", "name": "x"}))
            await one.json()
            async with await websocket(server):
                pass
        await pair.exchange()
        hub: Hub = server._hub  # type: ignore[assignment]
        await until(lambda: len(hub.connections) == 2)
        assert not hub.waiting, "nobody is counted that is gone, or registered"


@pytest.mark.anyio
@pytest.mark.parametrize("limits", [Limits(connections=2), Limits(unregistered_per_address=2)])
async def test_far_too_many_connections_are_dropped_without_an_answer(
    limits: Limits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("echokernel_agora.hub.is_local", lambda address: False)
    async with watched(limits=limits) as (server, pair):
        crowd = await asyncio.gather(*(Raw.dial(server) for _ in range(80)))
        crowd[-1].send(request())
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await crowd[-1].response()
        await asyncio.gather(*(raw.leave() for raw in crowd))
        await pair.exchange()
