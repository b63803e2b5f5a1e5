"""What the router's port answers to HTTP, and to handshakes that are none."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode leaves helpers beside the tests to us

from listening import BACKENDS, CLOSE, SECONDS, Raw, agent, fetch, names, request, text, until, watched, websocket

from echokernel_agora import AgoraServer, Limits
from echokernel_agora.http import Answer, Resources

pytestmark = pytest.mark.anyio


@pytest.fixture(params=BACKENDS, ids=names)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


HANDSHAKES: dict[str, tuple[bytes, int, str]] = {
    "HTTP/1.0": (
        request(line="GET /ws HTTP/1.0"),
        400,
        "this request is HTTP/1.0; a proxy in between has to pass HTTP/1.1",
    ),
    "no Upgrade": (
        request(headers={"Upgrade": None}),
        400,
        "lacks the headers Upgrade: websocket and Connection: Upgrade",
    ),
    "another Upgrade": (request(headers={"Upgrade": "h2c"}), 400, "open it with a WebSocket client"),
    "no Connection": (
        request(headers={"Connection": "keep-alive"}),
        400,
        "let proxies in between pass both headers on",
    ),
    "a browser's address bar": (b"GET /ws HTTP/1.1\r\nHost: localhost\r\n\r\n", 400, "this is a WebSocket's address"),
    "no key": (request(headers={"Sec-WebSocket-Key": None}), 400, "missing Sec-WebSocket-Key"),
    "a bad key": (request(headers={"Sec-WebSocket-Key": "abc"}), 400, "invalid Sec-WebSocket-Key"),
    "a short key": (request(headers={"Sec-WebSocket-Key": "YWJj"}), 400, "invalid Sec-WebSocket-Key"),
    "version 8": (request(headers={"Sec-WebSocket-Version": "8"}), 426, "Sec-WebSocket-Version is 8, wanted is 13"),
    "no version": (request(headers={"Sec-WebSocket-Version": None}), 426, "is missing, wanted is 13"),
    "POST": (request(line="POST /ws HTTP/1.1"), 405, "only GET and HEAD are answered here, and this request is POST"),
    "POST with a body": (
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}",
        405,
        "this request is POST",
    ),
    "chunked": (
        b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        405,
        "this request is PUT",
    ),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 405, "PRI"),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "what came is TLS"),
    "not HTTP": (b"hello router\r\n\r\n", 400, "this is no HTTP/1.1 request"),
    "a header without a colon": (b"GET / HTTP/1.1\r\nHost\r\n\r\n", 400, "this is no HTTP/1.1 request"),
    "a long URL": (b"GET /" + b"x" * 9_000 + b" HTTP/1.1\r\n\r\n", 414, "more than 8 KiB"),
    "a long header": (b"GET / HTTP/1.1\r\nX: " + b"x" * 9_000 + b"\r\n\r\n", 431, "headers are more than"),
    "many headers": (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n", 431, "headers are more than"),
    "headers without end": (
        b"GET / HTTP/1.1\r\n" + (b"X: " + b"x" * 4_000 + b"\r\n") * 9,
        431,
        "headers are more than",
    ),
    "elsewhere": (request("/socket"), 404, "nothing is here; there are /, /console, /healthz, "),
}


@pytest.mark.parametrize("case", HANDSHAKES)
async def test_a_wrong_handshake_gets_a_sentence_that_helps(case: str) -> None:
    sent, status, says = HANDSHAKES[case]
    async with watched() as (server, _), await Raw.dial(server) as raw:
        raw.send(sent)
        seen, headers = await raw.response()
        body = (await raw.body()).decode()
        assert (seen, says in body) == (status, True), body
        assert headers["Connection"] == "close"
        assert headers["Content-Length"] == str(len(body.encode()))
        assert ("Sec-WebSocket-Version" in headers) == (status == 426)
        assert ("Allow" in headers) == (status == 405)


@pytest.mark.parametrize("connection", ["Upgrade", "upgrade", "keep-alive, Upgrade"])
@pytest.mark.parametrize("upgrade", ["websocket", "WebSocket"])
async def test_handshakes_as_browsers_send_them(connection: str, upgrade: str) -> None:
    async with AgoraServer(listen="127.0.0.1:0") as server:
        headers: dict[str, str | None] = {"Connection": connection, "Upgrade": upgrade}
        async with await websocket(server, headers=headers) as raw:
            assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in raw.head, "the answer that RFC 6455 shows"
            assert b"Subprotocol" not in raw.head


async def test_a_request_may_come_byte_by_byte() -> None:
    async with AgoraServer(listen="127.0.0.1:0") as server, await Raw.dial(server) as raw:
        await raw.dribble(request())
        assert (await raw.response())[0] == 101


async def test_whoever_takes_too_long_over_the_request_is_told_and_closed() -> None:
    async with watched(limits=Limits(handshake_timeout=0.1)) as (server, pair):
        async with await Raw.dial(server) as slow, await Raw.dial(server) as silent:
            slow.send(b"GET /ws HTTP/1.1\r\nHost: localhost\r\n")
            assert (await slow.response())[0] == 408
            assert b"not complete within 0.1 s" in await slow.body()
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await silent.response()
        await pair.exchange()


async def test_a_slow_loris_does_not_win_time_by_dribbling() -> None:
    async with (
        AgoraServer(listen="127.0.0.1:0", limits=Limits(handshake_timeout=0.2)) as server,
        await Raw.dial(server) as raw,
    ):
        began = asyncio.get_running_loop().time()
        response = asyncio.ensure_future(raw.response())
        raw.send(b"GET /ws HTTP/1.1\r\n")
        while not response.done():
            raw.send(b"X: y\r\n")
            await asyncio.sleep(0.02)
        assert (await response)[0] == 408
        assert asyncio.get_running_loop().time() - began < 2


async def test_the_port_tells_how_it_is() -> None:
    async with AgoraServer(listen="127.0.0.1:0") as server:
        status, headers, body = await fetch(server, "/healthz")
        assert (status, json.loads(body)) == (200, {"status": "ok"})
        assert headers["Content-Type"] == "application/json"
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Content-Type-Options"] == "nosniff"
        status, _, body = await fetch(server, "/readyz?verbose")
        assert (status, json.loads(body)) == (200, {"status": "ready"})
        status, headers, body = await fetch(server, "/healthz", method="HEAD")
        assert (status, headers["Content-Length"], body) == (200, "17", b"")


async def test_while_it_drains_it_is_not_ready_and_lets_nobody_in() -> None:
    async with AgoraServer(listen="127.0.0.1:0") as server:
        async with await agent(server, "sender") as sender, await agent(server, "reader") as reader:
            reader.writer.transport.pause_reading()  # type: ignore[attr-defined]
            for _ in range(30):
                sender.send(text({"type": "send", "to": "reader", "payload": "x" * 100_000}))
            await until(lambda: server.router.agents["reader"].queue.frames > 0)
            stopping = asyncio.ensure_future(server.stop(drain=5))
            await asyncio.sleep(0)
            counters = server.router.counters
            accepted = counters.accepted
            sender.send(text({"type": "send", "to": "reader", "payload": "late"}))
            assert (await fetch(server, "/healthz"))[0] == 200
            status, _, body = await fetch(server, "/readyz")
            assert (status, json.loads(body)) == (503, {"status": "draining"})
            async with await Raw.dial(server) as late:
                late.send(request())
                status, headers = await late.response()
                assert (status, headers["Retry-After"]) == (503, "1")
            reader.writer.transport.resume_reading()  # type: ignore[attr-defined]
            for _ in range(counters.accepted - counters.errored):
                assert (await reader.json())["type"] == "message", "what was queued goes out before the close"
            assert await reader.frame() == (CLOSE, (1012).to_bytes(2, "big") + b"the router restarts")
            reader.send(b"")
            await reader.leave()
            await sender.leave()
            await stopping
            assert server.router.agents == {}
            assert counters.accepted == accepted, "what was not read was not accepted"
        with pytest.raises(OSError):
            await Raw.dial(server)


async def test_what_a_resuming_agent_has_got_and_not_acknowledged_holds_up_no_stop() -> None:
    async with AgoraServer(listen="127.0.0.1:0") as server:
        async with await agent(server, "sender") as sender, await websocket(server) as forgetful:
            forgetful.send(text({"type": "register", "id": "forgetful", "name": "x", "features": ["resume"]}))
            await forgetful.json()
            sender.send(text({"type": "send", "to": "forgetful", "payload": 1}))
            assert (await forgetful.json())["payload"] == 1
            assert server.router.agents["forgetful"].queue.frames == 1
            began = asyncio.get_running_loop().time()
            stopping = asyncio.ensure_future(server.stop(drain=4))
            assert (await forgetful.frame())[0] == CLOSE
            assert asyncio.get_running_loop().time() - began < 1
            await forgetful.leave()
            await sender.leave()
            await stopping


class Slow:
    """A connection with streams of its own, as a bridge's: it takes all frames and tells later what has gone."""

    holds = True

    def __init__(self) -> None:
        self.closed = False

    def write(self, frame: bytes) -> bool:
        return True

    def taken(self) -> None:
        pass

    def close(self, code: int, reason: str) -> None:
        self.closed = True

    def probe(self) -> None:
        pass


async def test_what_a_bridge_still_holds_is_waited_for() -> None:
    async with AgoraServer(listen="127.0.0.1:0") as server, await agent(server, "sender") as sender:
        router = server.router
        peer = router.attach(Slow(), transport="quic")
        router.receive(peer, b'{"type":"register","id":"far","name":"x"}')
        sender.send(text({"type": "send", "to": "far", "payload": 1}))
        await until(lambda: router.agents["far"].queue.frames == 1)
        stopping = asyncio.ensure_future(server.stop(drain=SECONDS))
        await asyncio.sleep(0.1)
        assert not server._hub.shut  # type: ignore[union-attr]
        for parcel in list(peer.agent.queue.take()):  # type: ignore[union-attr]
            router.settle(peer, parcel)
        assert (await sender.frame())[0] == CLOSE
        await sender.leave()
        await stopping
        assert router.counters.delivered == 1
        router.detach(peer)


async def test_whoever_stops_it_a_second_time_waits_for_the_first() -> None:
    async with (
        AgoraServer(listen="127.0.0.1:0", limits=Limits(close_timeout=0.3)) as server,
        await agent(server, "deaf"),
    ):
        first = asyncio.ensure_future(server.stop(drain=0))
        await asyncio.sleep(0)
        await server.stop()
        assert not server._hub.connections  # type: ignore[union-attr]
        await asyncio.wait_for(first, 0.1)
        await server.stop()


async def test_a_stop_that_is_cancelled_leaves_nothing_behind() -> None:
    server = AgoraServer(listen="127.0.0.1:0")
    await server.start()
    async with await agent(server, "deaf"):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(server.stop(drain=0), 0.05)
        await until(lambda: not server._hub.connections, 1)  # type: ignore[union-attr]
        assert not server.router.agents
        await server.stop()
    with pytest.raises(OSError):
        await Raw.dial(server)


async def test_a_peer_that_does_not_answer_the_close_is_dropped() -> None:
    async with watched(limits=Limits(close_timeout=0.1)) as (server, pair), await agent(server, "deaf") as deaf:
        server.router.disconnect("deaf")
        assert (await deaf.frame())[0] == CLOSE
        assert await deaf.frame() == (-1, b""), "and nobody said goodbye"
        await pair.exchange()


async def test_files_are_served_with_types_and_a_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "fake_console"
    (package / "pages").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    contents = {"index.html": "<p>ü", "console.css": "p{}", "console.js": "1", "icon.svg": "<svg/>", "a.png": "x"}
    contents[".hidden"] = "x"
    for name, content in contents.items():
        (package / "pages" / name).write_text(content, "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    server = AgoraServer(listen="127.0.0.1:0")
    async with server:
        server.resources.add_files("fake_console", "pages")
        server.resources.add("/data", lambda: Answer.of_json([1]))
        types = {}
        for path in ("/", "/console.css", "/console.js", "/icon.svg", "/a.png", "/data"):
            status, headers, _ = await fetch(server, path)
            assert status == 200
            types[path] = headers["Content-Type"]
            if path != "/data":
                assert "default-src 'none'; script-src 'self'" in headers["Content-Security-Policy"]
                assert "unsafe" not in headers["Content-Security-Policy"]
        assert types == {
            "/": "text/html; charset=utf-8",
            "/console.css": "text/css; charset=utf-8",
            "/console.js": "text/javascript; charset=utf-8",
            "/icon.svg": "image/svg+xml; charset=utf-8",
            "/a.png": "image/png",
            "/data": "application/json",
        }
        for path in ("/.hidden", "/pages/console.css", "/../server.py", "/console.css/", "//", "/%2e%2e/server.py"):
            assert (await fetch(server, path))[0] == 404, path


def test_a_package_without_files_serves_none() -> None:
    resources = Resources()
    resources.add_files("echokernel_agora", "no_such_folder")
    assert resources.find("/") is None


# --- where it listens ------------------------------------------------------------------------------------------------


async def test_ipv6_and_names() -> None:
    if not socket.has_ipv6:
        pytest.skip("this Python has no IPv6")
    try:
        async with AgoraServer(listen="[::1]:0") as server:
            assert server.url == f"ws://[::1]:{server.address.port}/ws"
            async with await agent(server, "six"):
                assert server.router.agents["six"].peer.address == "::1"  # type: ignore[union-attr]
    except Exception as error:
        if "no address of this machine" not in str(error) and "not supported" not in str(error):
            raise
        pytest.skip("this machine has no IPv6")
    async with AgoraServer(listen="localhost:0") as server, await agent(server, "named"):
        pass


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    trustme = pytest.importorskip("cryptography.x509")
    import datetime

    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = trustme.Name([trustme.NameAttribute(trustme.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        trustme.CertificateBuilder(name, name, key.public_key(), trustme.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(trustme.SubjectAlternativeName([trustme.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem, none = serialization.Encoding.PEM, serialization.NoEncryption()
    (tmp_path / "key.pem").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, none))
    (tmp_path / "cert.pem").write_bytes(made.public_bytes(pem))
    return tmp_path


async def test_tls(certificate: Path) -> None:
    files = {"certificate": certificate / "cert.pem", "key": str(certificate / "key.pem")}
    context = ssl.create_default_context(cafile=str(certificate / "cert.pem"))
    async with AgoraServer(listen="127.0.0.1:0", **files) as server:  # type: ignore[arg-type]
        assert server.url.startswith("wss://127.0.0.1:")
        async with await Raw.dial(server, ssl=context, server_hostname="localhost") as raw:
            raw.send(request(headers={"Origin": "https://localhost"}))
            assert (await raw.response())[0] == 101
            raw.send(text({"type": "register", "id": "safe", "name": "x"}))
            assert (await raw.json())["type"] == "registered"
            raw.send(text({"type": "send", "to": "safe", "payload": "x" * 900_000}))
            assert len((await raw.json())["payload"]) == 900_000
            server.router.disconnect("safe")
            assert (await raw.frame())[0] == CLOSE
        async with await Raw.dial(server, ssl=context, server_hostname="localhost") as raw:
            raw.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await raw.response())[0] == 200
            assert await raw.body() == b'{"status": "ok"}\n'


async def test_a_handshake_of_tls_that_ends_after_the_stop_opens_nothing(certificate: Path) -> None:
    context = ssl.create_default_context(cafile=str(certificate / "cert.pem"))
    coming, going = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(coming, going, server_hostname="localhost")
    server = AgoraServer(listen="127.0.0.1:0", certificate=certificate / "cert.pem", key=certificate / "key.pem")
    await server.start()
    async with await Raw.dial(server) as raw:
        done = False
        while not done:
            try:
                tls.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                raw.send(going.read())
                coming.write(await raw.reader.read(65_536))
        await server.stop(drain=0)
        tls.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        raw.send(going.read())  # the end of the handshake, and a request
        with contextlib.suppress(ConnectionError):
            while data := await asyncio.wait_for(raw.reader.read(65_536), 2):
                coming.write(data)
                with pytest.raises(ssl.SSLError):
                    tls.read()
        await asyncio.sleep(0.05)
        assert not server._hub.connections  # type: ignore[union-attr]
