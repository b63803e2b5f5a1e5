"""The little of HTTP/1.1 that the router's port speaks: a request's head, an answer, and the files of the console."""

from __future__ import annotations

import email.utils
import json
import mimetypes
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from importlib import resources
from typing import Any

from websockets.datastructures import Headers
from websockets.exceptions import HeaderLineTooLong, RequestLineTooLong, TooManyHeaders
from websockets.http11 import Request, Response
from websockets.streams import StreamReader

from echokernel_agora.access import Refused

__all__ = ["Answer", "RequestHead", "Resources", "error", "wants_websocket"]

MAX_HEAD = 32 * 1024  # bytes; browsers send 1 or 2 KiB, and thousands of connections may be at this point
METHODS = ("GET", "HEAD")
CONTENT_SECURITY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}  # not the machine's


class RequestHead:
    """Takes bytes until a request's head is complete; then ``rest`` holds what came behind it."""

    __slots__ = ("_parser", "_reader", "_seen", "_start")

    def __init__(self) -> None:
        self._reader = StreamReader()
        self._parser: Generator[None, None, Request] = Request.parse(self._reader.read_line)
        self._seen, self._start = 0, b""
        next(self._parser)

    @property
    def started(self) -> bool:
        return self._seen > 0

    @property
    def rest(self) -> bytes:
        return bytes(self._reader.buffer)

    def feed(self, data: bytes | memoryview) -> Request | None:
        """Return the request once it is complete. Raises :class:`Refused` for what is none."""
        self._seen += len(data)
        self._start = (self._start + bytes(data[:8]))[:8]
        self._reader.feed_data(bytes(data))
        if self._start[:1] == b"\x16":
            raise _bad("tls", "this port speaks plain HTTP, and what came is TLS; use ws:// and http:// for it")
        try:
            next(self._parser)
        except StopIteration as done:
            request: Request = done.value
            _check_method(request.method)
            return request
        except RequestLineTooLong:
            raise Refused(HTTPStatus.REQUEST_URI_TOO_LONG, "head", "the request line has more than 8 KiB") from None
        except (HeaderLineTooLong, TooManyHeaders):
            raise _too_large() from None
        except (NotImplementedError, ValueError, EOFError) as mistake:
            method = self._start.partition(b" ")[0].decode("latin-1")
            if method.isascii() and method.isupper():
                _check_method(method)  # what posts has a body, and its method is the clearer mistake
            raise _bad("head", f"this is no HTTP/1.1 request that is taken here: {str(mistake)[:200]}") from None
        if self._seen > MAX_HEAD:
            raise _too_large()
        return None


def wants_websocket(request: Request) -> bool:
    """Whether the client means a WebSocket, however well it says so."""
    return "Upgrade" in request.headers or any(name.lower().startswith("sec-websocket-") for name in request.headers)


def explain(request: Request) -> Refused | None:
    """Return how a WebSocket handshake is wrong, in words that help its author; None where nothing is.

    The protocol library checks the same again, and more; its own words come where these have none.
    """
    headers = request.headers
    connection = [part.strip().lower() for value in headers.get_all("Connection") for part in value.split(",")]
    upgrade = [value.strip().lower() for value in headers.get_all("Upgrade")]
    if request.method != "GET":
        return _wrong_method(request.method)
    if request.protocol != "HTTP/1.1":
        return _bad(
            "handshake",
            f"a WebSocket begins with GET over HTTP/1.1, and this request is {request.protocol}; a proxy "
            "in between has to pass HTTP/1.1 on",
        )
    if upgrade != ["websocket"] or "upgrade" not in connection:
        return _bad(
            "handshake",
            "this is a WebSocket's address, and the request lacks the headers Upgrade: websocket and Connection: Upgrade; "
            "open it with a WebSocket client, and let proxies in between pass both headers on",
        )
    version = headers.get_all("Sec-WebSocket-Version")
    if version != ["13"]:
        return Refused(
            HTTPStatus.UPGRADE_REQUIRED,
            "handshake",
            f"the header Sec-WebSocket-Version is {', '.join(version) or 'missing'}, wanted is 13",
            [("Sec-WebSocket-Version", "13"), ("Upgrade", "websocket")],
        )
    return None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a path answers to GET."""

    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    status: HTTPStatus = HTTPStatus.OK
    headers: tuple[tuple[str, str], ...] = (("Cache-Control", "no-store"),)

    @classmethod
    def of_json(cls, value: Any, status: HTTPStatus = HTTPStatus.OK) -> Answer:
        return cls(json.dumps(value).encode() + b"\n", "application/json", status)

    def serialize(self, *, head_only: bool = False) -> bytes:
        """Return the whole response; the connection ends behind it."""
        headers = Headers(
            [
                ("Date", email.utils.formatdate(usegmt=True)),
                ("Connection", "close"),
                ("Content-Type", self.content_type),
                ("Content-Length", str(len(self.body))),
                ("X-Content-Type-Options", "nosniff"),
                ("Referrer-Policy", "no-referrer"),
                *self.headers,
            ]
        )
        body = b"" if head_only else self.body
        return Response(self.status.value, self.status.phrase, headers, body).serialize()


def error(refused: Refused) -> Answer:
    headers = (("Cache-Control", "no-store"), *refused.headers)
    return Answer(f"{refused.text}\n".encode(), status=refused.status, headers=headers)


class Resources:
    """Paths and who answers them: a function that is called for each request, or a file."""

    def __init__(self) -> None:
        self._paths: dict[str, Callable[[], Answer]] = {}
        self._parts: set[str] = set()  # files that a page asks for itself

    def add(self, path: str, answer: Callable[[], Answer]) -> None:
        self._paths[path] = answer

    def add_files(self, package: str, folder: str) -> None:
        """Serve the files of a package's folder; ``index.html`` is ``/``. They are read once, here."""
        where = resources.files(package).joinpath(folder)
        for entry in sorted(where.iterdir(), key=lambda entry: entry.name) if where.is_dir() else ():
            if entry.is_file() and not entry.name.startswith((".", "_")) and not entry.name.endswith(".py"):
                answer = Answer(entry.read_bytes(), _content_type(entry.name), headers=STATIC)
                path = "/" if entry.name == "index.html" else f"/{entry.name}"
                self.add(path, partial(_same, answer))
                if path != "/":
                    self._parts.add(path)

    def find(self, path: str) -> Answer | None:
        found = self._paths.get(path)
        return None if found is None else found()

    @property
    def paths(self) -> list[str]:
        """What somebody may ask for; not the files that belong to a page."""
        return [path for path in self._paths if path not in self._parts]


def _same(answer: Answer) -> Answer:
    return answer


STATIC = (
    ("Cache-Control", "no-cache"),
    ("Content-Security-Policy", CONTENT_SECURITY),
    ("X-Frame-Options", "DENY"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
)


def _content_type(name: str) -> str:
    ending = name[name.rfind(".") :].lower()
    guessed = TYPES.get(ending) or mimetypes.guess_type(name)[0] or "application/octet-stream"
    return f"{guessed}; charset=utf-8" if guessed.startswith("text/") or ending == ".svg" else guessed


def _check_method(method: str) -> None:
    if method not in METHODS:
        raise _wrong_method(method)


def _bad(why: str, text: str) -> Refused:
    return Refused(HTTPStatus.BAD_REQUEST, why, text)


def _too_large() -> Refused:
    return Refused(
        HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "head", f"the headers are more than {MAX_HEAD // 1024} KiB"
    )


def _wrong_method(method: str) -> Refused:
    text = f"only GET and HEAD are answered here, and this request is {method[:40]}"
    return Refused(HTTPStatus.METHOD_NOT_ALLOWED, "method", text, [("Allow", "GET, HEAD")])
