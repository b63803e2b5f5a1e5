"""An agent in Python against the real router."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from echokernel import InvalidArgument, RequestTimeout, TransportError, Unauthenticated
from echokernel_agora import (
    AgoraClient,
    BadRequest,
    ConnectionLost,
    IdInUse,
    Limits,
    Message,
    NoSuchAgent,
    ReceiverGone,
    ReceiverSlow,
    Replaced,
    StreamAborted,
    StreamRefused,
    Token,
    TooLarge,
)

pytestmark = pytest.mark.anyio
TOKEN = Token("lab", "a-token-of-enough-characters")


async def first(client: AgoraClient) -> Message:
    with anyio.fail_after(5):
        async for message in client.messages():
            return message
    raise AssertionError("no message")


async def test_agents_find_each_other(serve) -> None:
    async with serve() as lab, AgoraClient(lab.url, id="mail", name="Mail", capabilities=["email"], card={"v": 1}) as mail:
        async with AgoraClient(lab.url, id="other") as other:
            assert [(agent.id, agent.name) for agent in await other.list()] == [("mail", "Mail"), ("other", "other")]
            (found,) = await other.list(capability="email", cards=True)
            assert (found.id, found.capabilities, found.card) == ("mail", ["email"], {"v": 1})
            assert mail.features == {"receipt", "credit", "resume", "presence"}


async def test_a_list_of_many_pages_is_one_list(serve) -> None:
    async with serve(limits=Limits(list_page=2)) as lab:
        async with AgoraClient(lab.url, id="a") as a, AgoraClient(lab.url, id="b"), AgoraClient(lab.url, id="c"):
            assert [agent.id for agent in await a.list()] == ["a", "b", "c"]


async def test_messages_and_replies(serve) -> None:
    async with serve() as lab, AgoraClient(lab.url, id="a") as a, AgoraClient(lab.url, id="b") as b:
        await a.send("b", {"n": 2**70, "text": "ü\ud800"})
        message = await first(b)
        assert (message.sender, message.payload, message.is_reply) == ("a", {"n": 2**70, "text": "ü\ud800"}, False)
        assert not message.is_stream and await message.text() == ""
        assert await message.reply(None, confirm=True) == "delivered"
        reply = await first(a)
        assert (reply.sender, reply.payload, reply.payload_json, reply.is_reply) == ("b", None, b"null", True)
        await a.send("b")
        assert (await first(b)).payload_json == b""


async def test_requests_are_answered_to_whom_asked(serve) -> None:
    async with serve() as lab, AgoraClient(lab.url, id="a") as a, AgoraClient(lab.url, id="b") as b:
        answers = {}

        async def ask(n: int) -> None:
            answers[n] = (await a.request("b", n if n % 2 else {"n": n})).payload

        async with anyio.create_task_group() as tasks:
            for n in range(10):
                tasks.start_soon(ask, n)
            waiting = [await first(b) for _ in range(10)]
            for message in reversed(waiting):
                value = message.payload
                await message.reply(value * 10 if isinstance(value, int) else {"n": value["n"] * 10})
        plain = {n: value if n % 2 else value["n"] for n, value in answers.items()}
        assert plain == {n: n * 10 for n in range(10)}
        assert all("request_id" in answers[n] for n in range(0, 10, 2)), "as agents of the seed look for it"


async def test_streams_both_ways(serve) -> None:
    async with serve() as lab, AgoraClient(lab.url, id="a") as a, AgoraClient(lab.url, id="b") as b:

        async def answer() -> None:
            message = await first(b)
            assert message.payload["action"] == "shout" and message.is_stream
            async with message.reply_stream({"status": "ok"}) as out:
                async for chunk in message.chunks():
                    await out.send(chunk.upper())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(answer)
            async with a.stream("b", {"action": "shout"}, reply=True, confirm=True) as stream:
                await stream.send("hello ")
                reply = await stream.reply()
                chunks = reply.chunks()
                assert await anext(chunks) == "HELLO "
                await stream.send("wörld \ud83d")
            assert [chunk async for chunk in chunks] == ["WÖRLD \ud83d"]
            assert reply.payload["status"] == "ok" and reply.sender == "b"


async def test_a_streamed_reply_is_iterated(serve) -> None:
    async with serve() as lab, AgoraClient(lab.url, id="a") as a, AgoraClient(lab.url, id="b") as b:

        async def answer() -> None:
            message = await first(b)
            async with message.reply_stream() as out:
                for n in range(300):
                    await out.send(f"{n} ")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(answer)
            text = [chunk async for chunk in await a.request_stream("b", "count")]
            assert "".join(text) == "".join(f"{n} " for n in range(300))


async def test_errors_are_exceptions_named_after_their_codes(serve) -> None:
    heard = []
    async with serve() as lab, AgoraClient(lab.url, id="a", on_error=heard.append) as a:
        with pytest.raises(NoSuchAgent, match="nobody: nobody is registered under this id") as caught:
            await a.send("nobody", 1, confirm=True)
        assert (caught.value.to, caught.value.reason) == ("nobody", "no_such_agent")
        with pytest.raises(NoSuchAgent):
            await a.request("nobody", {"x": 1})
        await a.send("nobody", 1)
        with anyio.fail_after(5):
            while not heard:
                await anyio.sleep(0.01)
        assert isinstance(heard[0], NoSuchAgent)
        with pytest.raises(NoSuchAgent):
            async with a.stream("nobody", reply=True) as stream:
                await stream.reply()
        with pytest.raises(RequestTimeout, match=r"a did not answer within 0\.05 s"):
            await a.request("a", 1, timeout=0.05)
        with pytest.raises(InvalidArgument, match="has no JSON"):
            await a.send("a", object())
        with pytest.raises(InvalidArgument, match="wanted the id of an agent"):
            await a.send("", 1)


async def test_a_stream_that_fails_is_not_taken_for_the_whole(serve) -> None:
    async with serve() as lab, AgoraClient(lab.url, id="a") as a, AgoraClient(lab.url, id="b") as b:
        with pytest.raises(ZeroDivisionError):
            async with a.stream("b") as stream:
                await stream.send("x")
                raise ZeroDivisionError
        chunks = (await first(b)).chunks()
        assert await anext(chunks) == "x"
        with pytest.raises(StreamAborted, match="its sender failed: ZeroDivisionError"):
            await anext(chunks)


async def test_a_stream_that_nobody_holds_is_refused(serve) -> None:
    async with serve() as lab, AgoraClient(lab.url, id="a") as a, AgoraClient(lab.url, id="b") as b:
        with pytest.raises(StreamRefused), anyio.fail_after(5):
            async with a.stream("b") as stream:
                await stream.send("x")
                await first(b)  # and nobody keeps it
                while True:
                    await stream.send("y")
                    await anyio.sleep(0.005)
        async with a.stream("b") as stream:
            message = await first(b)
            await message.stop()
            assert await message.text() == ""
            with pytest.raises(StreamRefused), anyio.fail_after(5):
                while True:
                    await stream.send("y")
                    await anyio.sleep(0.005)


async def test_a_receiver_that_leaves_ends_the_stream(serve) -> None:
    async with serve() as lab, AgoraClient(lab.url, id="a") as a:
        async with AgoraClient(lab.url, id="b"):
            stream = await a.stream("b").__aenter__()
            await a.list()  # behind the beginning
        with pytest.raises(ReceiverGone), anyio.fail_after(5):
            while True:
                await stream.send("y")
                await anyio.sleep(0.005)


async def test_a_slow_reader_pauses_the_sender_and_nobody_else(serve) -> None:
    async with serve() as lab, AgoraClient(lab.url, id="a", paced=False) as a:
        async with AgoraClient(lab.url, id="slow") as slow, AgoraClient(lab.url, id="b") as b:
            sent = 0

            async def push() -> None:
                nonlocal sent
                for _ in range(400):
                    await a.send("slow", "x" * 16_000)
                    sent += 1

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(push)
                with anyio.fail_after(10):
                    before = -1
                    while sent != before:
                        before = sent
                        await anyio.sleep(0.15)
                assert 0 < sent < 400, "it waits for credit"
                await a.send("b", "hello")
                assert (await first(b)).payload == "hello", "others do not notice"
                for _ in range(400):
                    await first(slow)
            assert sent == 400


async def test_presence(serve) -> None:
    async with serve() as lab, AgoraClient(lab.url, id="a") as a:
        events = a.presence()
        await a.list()  # behind the request for events
        async with AgoraClient(lab.url, id="b"):
            event, agent = await anext(events)
            assert (event, agent.id) == ("online", "b")
        event, agent = await anext(events)
        assert (event, agent.id) == ("gone", "b")
        del events
        await a.list()
        assert not lab.router._watchers


async def test_a_lost_connection_loses_and_doubles_nothing(serve) -> None:
    async with serve() as lab, AgoraClient(lab.url, id="a") as a, AgoraClient(lab.url, id="b") as b:

        async def push() -> None:
            async with a.stream("b") as stream:
                for n in range(400):
                    await stream.send(str(n))
                    if n % 100 == 50:
                        lab.cut()
                    await anyio.lowlevel.checkpoint()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(push)
            message = await first(b)
            with anyio.fail_after(20):
                assert [chunk async for chunk in message.chunks()] == [str(n) for n in range(400)]
        assert lab.router.counters.resumed >= 2


async def test_a_request_survives_a_lost_connection(serve) -> None:
    async with serve() as lab, AgoraClient(lab.url, id="a") as a, AgoraClient(lab.url, id="b") as b:

        async def answer() -> None:
            message = await first(b)
            lab.cut()
            await message.reply("later")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(answer)
            assert (await a.request("b", "?")).payload == "later"


async def test_after_a_restart_what_was_open_fails_and_the_rest_goes_on(serve) -> None:
    async with serve() as lab, AgoraClient(lab.url, id="a") as a, AgoraClient(lab.url, id="b") as b:
        caught = []

        async def ask() -> None:
            with pytest.raises(ConnectionLost) as lost:
                await a.request("b", "?")
            caught.append(lost.value)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            message = await first(b)
            stream = await a.stream("b").__aenter__()
            incoming = await first(b)
            lab.restart()
            with anyio.fail_after(10):
                with pytest.raises(ConnectionLost):
                    await incoming.text()
                with pytest.raises(ConnectionLost):
                    while True:
                        await stream.send("x")
                        await anyio.sleep(0.01)
        assert caught[0].delivered is None and not caught[0].retryable
        with anyio.fail_after(10):
            while {agent.id for agent in await a.list()} != {"a", "b"}:
                await anyio.sleep(0.02)
            await message.reply("too late")
            assert (await first(a)).is_reply


async def test_a_replaced_client_does_not_come_back(serve) -> None:
    async with serve(tokens=[TOKEN]) as lab, AgoraClient(lab.url, id="a", token=TOKEN.secret) as old:
        async with AgoraClient(lab.url, id="a", token=TOKEN.secret):
            with pytest.raises(Replaced), anyio.fail_after(5):
                await first(old)
            with pytest.raises(Replaced):
                await old.send("a", 1)
            assert isinstance(old.failure, Replaced) and not old.connected


async def test_who_may_not_come_in_is_told_why(serve) -> None:
    async with serve(tokens=[TOKEN]) as lab:
        with pytest.raises(Unauthenticated, match=r"401 Unauthorized: .*; pass the router's token"):
            async with AgoraClient(lab.url, id="a"):
                pass
    async with serve() as lab, AgoraClient(lab.url, id="a"):
        with pytest.raises(IdInUse):
            async with AgoraClient(lab.url, id="a"):
                pass
    with pytest.raises(TransportError, match=r"cannot connect to 127\.0\.0\.1:1"):
        async with AgoraClient("ws://127.0.0.1:1/ws", id="a"):
            pass
    for url in ("http://127.0.0.1/ws", "127.0.0.1:8765", "ws://user:secret@host/ws"):
        with pytest.raises(InvalidArgument):
            AgoraClient(url, id="a")


async def test_a_router_of_the_seed_is_enough(serve) -> None:
    async with serve(strict_seed=True) as lab, AgoraClient(lab.url, id="a") as a, AgoraClient(lab.url, id="b") as b:
        assert a.features == frozenset()
        assert [agent.id for agent in await a.list()] == ["a", "b"]

        async def answer() -> None:
            for _ in range(2):
                message = await first(b)
                if message.is_stream:
                    assert await message.text() == "xy"
                    async with message.reply_stream() as out:
                        await out.send("z")
                else:
                    await message.reply({"ok": True})

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(answer)
            assert (await a.request("b", {"action": "?"})).payload["ok"] is True
            async with a.stream("b", {"action": "s"}, reply=True) as stream:
                await stream.send("x")
                await stream.send("y")
            assert await (await stream.reply()).text() == "z"
        with pytest.raises(InvalidArgument, match="no receipts"):
            await a.send("b", 1, confirm=True)


async def test_leaving_says_goodbye_behind_what_was_sent(serve) -> None:
    async with serve() as lab, AgoraClient(lab.url, id="b") as b:
        async with AgoraClient(lab.url, id="a") as a:
            for n in range(100):
                await a.send("b", n)
        assert [(await first(b)).payload for _ in range(100)] == list(range(100))
        with pytest.raises(ConnectionLost):
            await a.send("b", 1)
        assert [agent.id for agent in await b.list()] == ["b"]


async def test_what_is_not_read_is_bounded_and_answers_come_through(serve) -> None:
    refused = []
    async with serve(limits=Limits(frame_burst=1e6)) as lab, AgoraClient(lab.url, id="b") as b:
        async with AgoraClient(lab.url, id="a", features=(), on_error=refused.append) as a:
            for n in range(6000):
                await a.send("b", [n, "x" * 1000])
            with anyio.fail_after(10):
                while not refused:
                    await anyio.sleep(0.01)
            unread = b._engine.inbox.unread
            assert 256 < unread.frames < 600
            assert isinstance(refused[0], ReceiverSlow)
            assert {agent.id for agent in await b.list()} == {"a", "b"}
            assert unread.frames < 256 * 17
            assert [(await first(b)).payload[0] for _ in range(1000)] == list(range(1000)), "in order, without gaps"


async def test_a_program_that_fails_in_on_error_keeps_its_connection(serve) -> None:
    async with serve() as lab, AgoraClient(lab.url, id="a", on_error=lambda error: 1 / 0) as a:
        await a.send("nobody", 1)
        assert [agent.id for agent in await a.list()] == ["a"]


async def test_a_request_that_is_cancelled_leaves_nothing_behind(serve) -> None:
    async with serve() as lab, AgoraClient(lab.url, id="a") as a, AgoraClient(lab.url, id="b") as b:
        with anyio.move_on_after(0.05):
            await a.request("b", {"n": 1})
        assert not a._engine.is_waiting
        await (await first(b)).reply("late")
        assert (await first(a)).payload == "late", "a reply that nobody waits for is a message"


async def test_entering_twice_and_using_before_entering_are_mistakes(serve) -> None:
    async with serve() as lab:
        client = AgoraClient(lab.url, id="a")
        with pytest.raises(InvalidArgument, match="not connected"):
            await client.send("b", 1)
        assert not client.connected
        async with client:
            with pytest.raises(InvalidArgument, match="entered once"):
                await client.__aenter__()
            with pytest.raises(InvalidArgument, match="a chunk is text, not bytes"):
                async with client.stream("a") as stream:
                    await stream.send(b"x")


async def test_ids_names_and_cards_that_the_router_refuses(serve) -> None:
    async with serve(limits=Limits(card_bytes=10)) as lab:
        with pytest.raises(BadRequest, match="`id` is 'a b'"):
            async with AgoraClient(lab.url, id="a b"):
                pass
        with pytest.raises(TooLarge, match="the card has"):
            async with AgoraClient(lab.url, id="a", card={"text": "x" * 20}):
                pass


async def test_two_that_want_one_id_do_not_fight_for_ever(serve) -> None:
    async with serve(tokens=[TOKEN]) as lab:
        taken = 0
        for _ in range(3):
            async with AgoraClient(lab.url, id="a", token=TOKEN.secret) as old:
                async with AgoraClient(lab.url, id="a", token=TOKEN.secret):
                    with pytest.raises(Replaced), anyio.fail_after(5):
                        await first(old)
                    taken += 1
        assert taken == 3


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_hundred_are_back_within_5_s_of_a_restart(serve) -> None:
    async with serve() as lab, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(AgoraClient(lab.url, id=f"agent-{n}")) for n in range(100)]
        await anyio.to_thread.run_sync(lab.restart)
        with anyio.fail_after(5):
            while len(lab.router.agents) < 100:  # asking by a client would fail where that one is not back yet
                await anyio.sleep(0.05)
        assert {client.id for client in clients} == set(lab.router.agents)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A folder with a certificate of 127.0.0.1."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not here")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=agora -addext subjectAltName=IP:127.0.0.1"
    files = ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem")]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)
    return tmp_path


async def test_tls_is_verified(serve, certificate: Path) -> None:
    async with serve(certificate=certificate / "cert.pem", key=certificate / "key.pem") as lab:
        assert lab.url.startswith("wss://")
        context = ssl.create_default_context(cafile=str(certificate / "cert.pem"))
        async with AgoraClient(lab.url, id="a", context=context) as a:
            assert await a.send("a", "x" * 100_000, confirm=True) == "delivered"
            assert (await first(a)).payload == "x" * 100_000
        with pytest.raises(TransportError, match="certificate verify failed"):
            async with AgoraClient(lab.url, id="b"):
                pass
