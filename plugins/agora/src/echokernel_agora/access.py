"""Who may connect: tokens, the origin of browsers' pages, and the name under which they reached the router."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import parse_qsl, urlsplit

from websockets.datastructures import Headers
from websockets.http11 import Request

from echokernel import ConfigError
from echokernel_agora.hub import is_local
from echokernel_agora.principal import LOCAL, Principal

__all__ = ["BEARER", "SUBPROTOCOL", "Access", "Refused", "Token"]

SUBPROTOCOL = "agora.v1"
BEARER = "agora.bearer."
MIN_TOKEN = 16  # characters; a shorter one can be guessed
URL_KEYS = frozenset({"access_token", "api_key", "apikey", "auth", "authorization", "bearer", "key", "secret", "token"})
STRANGER = Principal("stranger", anonymous=True)
"""Everybody who is not on this machine, where there are no tokens."""
DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}


class Refused(Exception):
    """A request gets this answer instead of what it asked for. ``why`` is a word for metrics and logs."""

    def __init__(self, status: HTTPStatus, why: str, text: str, headers: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(text)
        self.status, self.why, self.text, self.headers = status, why, text, headers


@dataclass(frozen=True)
class Token:
    """A secret and what its bearer may do.

    ``name``: a label for logs and the console. ``secret``: at least 16 printable ASCII characters without spaces. ``ids``:
    patterns such as ``team-a/*`` that its agents' ids must match. ``reaches``: patterns of ids that they may send to and see.
    ``operator``: may use the console and read the metrics.
    Raises ConfigError for a secret that is too short or cannot be sent.
    """

    name: str
    secret: str = field(repr=False)
    ids: tuple[str, ...] = ("*",)
    reaches: tuple[str, ...] = ("*",)
    operator: bool = False

    def __post_init__(self) -> None:
        if not self.name or not self.name.isprintable():
            raise ConfigError(f"a token needs a name of printable characters for logs, and got {self.name!r}")
        if len(self.secret) < MIN_TOKEN:
            raise ConfigError(
                f"the token {self.name!r} has {len(self.secret)} characters, wanted are at least {MIN_TOKEN}; "
                "make one with: python -c 'import secrets; print(secrets.token_urlsafe(32))'"
            )
        if not all("!" <= character <= "~" for character in self.secret):
            raise ConfigError(f"the token {self.name!r} has characters other than printable ASCII without spaces")
        if not self.ids:
            raise ConfigError(f'the token {self.name!r} allows no id; name some, as in ids = ["team-a/*"]')
        object.__setattr__(self, "ids", tuple(self.ids))
        object.__setattr__(self, "reaches", tuple(self.reaches))


class Access:
    """Judges requests. ``insecure``: without tokens, and open to other machines.

    ``origins``: of pages on other hosts that may connect, as browsers send them. ``hosts``: names, beside those of the
    loopback and all addresses, under which pages may have reached the router.
    """

    def __init__(
        self,
        tokens: Iterable[Token] = (),
        *,
        origins: Iterable[str] = (),
        hosts: Iterable[str] = (),
        insecure: bool = False,
    ) -> None:
        self._tokens: list[tuple[bytes, Principal]] = []
        for token in tokens:
            principal = Principal(token.name, token.ids, token.reaches, token.operator)
            self._tokens.append((_digest(token.secret.encode()), principal))
        names = [principal.name for _, principal in self._tokens]
        if len(set(names)) < len(names) or len({digest for digest, _ in self._tokens}) < len(names):
            raise ConfigError("two tokens have the same name or the same secret; give each its own")
        self._origins = frozenset(_origin(origin) for origin in origins)
        self._hosts = frozenset(host.lower().rstrip(".") for host in hosts)
        self._insecure = insecure

    @property
    def has_tokens(self) -> bool:
        return bool(self._tokens)

    def judge(self, request: Request, address: str) -> Principal:
        """Return whose request this is that came from ``address``. Raises :class:`Refused`.

        Without tokens, who is an operator can be told by nothing but the address: only programs of this machine are.
        """
        self.judge_url(request)
        self.judge_page(request)
        offered = _offered(request.headers)
        if not self._tokens:
            return LOCAL if is_local(address) else STRANGER
        given = _bearer(request.headers, offered)
        if given is None:
            raise _unauthorized(
                "token_missing",
                "this router wants a token: send the header Authorization: Bearer TOKEN, "
                f"or from a browser the subprotocols {SUBPROTOCOL} and {BEARER}BASE64URL",
            )
        principal = self._find(given)
        if principal is None:
            raise _unauthorized("token_unknown", "this router does not know that token")
        return principal

    def judge_url(self, request: Request) -> None:
        """Refuse a token in the URL: it would stand in logs and histories."""
        query = request.path.partition("?")[2]
        for key, value in parse_qsl(query, keep_blank_values=True) if query else ():
            # a value that is shorter than any token need not be looked for; some hundred longer ones fit into a URL
            if key.lower() in URL_KEYS or (len(value) >= MIN_TOKEN and self._find(value.encode()) is not None):
                raise Refused(
                    HTTPStatus.BAD_REQUEST,
                    "token_in_url",
                    "a token in the URL ends up in logs and is not read; replace it if it was real. Send it as the header "
                    f"Authorization: Bearer TOKEN, or from a browser as subprotocols: new WebSocket(url, "
                    f"['{SUBPROTOCOL}', '{BEARER}' + base64url(token)])",
                )

    def judge_page(self, request: Request) -> None:
        """Refuse pages that are not the router's own: any page of a browser could else speak for whoever looks at it."""
        origin, host = _only(request.headers, "Origin"), _only(request.headers, "Host")
        if origin is not None and origin.lower() in self._origins:
            return
        if origin is None and (self._tokens or self._insecure):
            return  # no browser's page, or one that knows a token
        if host is None:
            raise Refused(HTTPStatus.BAD_REQUEST, "host", "the request has no header Host; HTTP/1.1 requires one")
        if not self._is_known(_name(host)):
            raise Refused(
                HTTPStatus.FORBIDDEN,
                "host",
                f"the header Host names {host[:100]!r}, and this router is reached as localhost or by an address; if that "
                "name is its own, add it to hosts in the router's settings",
            )
        if origin is not None and not _same(origin, host):
            raise Refused(
                HTTPStatus.FORBIDDEN,
                "origin",
                f"a page of {origin[:100]!r} may not connect to {host[:100]!r}; if it should, add that origin to origins in "
                "the router's settings",
            )

    def _is_known(self, name: str) -> bool:
        if name == "localhost" or name.endswith(".localhost") or name in self._hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True  # a name can be pointed here by its owner, an address cannot

    def _find(self, given: bytes) -> Principal | None:
        digest, found = _digest(given), None
        for known, principal in self._tokens:  # always all of them: how long it takes says nothing
            if hmac.compare_digest(digest, known):
                found = principal
        return found


def _digest(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()


def _unauthorized(why: str, text: str) -> Refused:
    return Refused(HTTPStatus.UNAUTHORIZED, why, text, [("WWW-Authenticate", 'Bearer realm="agora"')])


def _only(headers: Headers, name: str) -> str | None:
    values = headers.get_all(name)
    if len(values) > 1:
        raise Refused(
            HTTPStatus.BAD_REQUEST, "headers", f"the header {name} is there {len(values)} times, wanted is one"
        )
    return values[0].strip() if values else None


def _offered(headers: Headers) -> list[str]:
    offered = [part.strip() for value in headers.get_all("Sec-WebSocket-Protocol") for part in value.split(",")]
    if any(part.startswith(BEARER) for part in offered) and SUBPROTOCOL not in offered:
        raise Refused(
            HTTPStatus.BAD_REQUEST,
            "subprotocol",
            f"{BEARER}… is there without {SUBPROTOCOL}; offer both, because only {SUBPROTOCOL} is sent back, and a browser "
            "closes where none is",
        )
    return offered


def _bearer(headers: Headers, offered: Sequence[str]) -> bytes | None:
    authorization = _only(headers, "Authorization")
    if authorization is not None:
        scheme, _, value = authorization.partition(" ")
        if scheme.lower() != "bearer" or not value.strip():
            raise _unauthorized("token_form", "the header Authorization has to be of the form: Bearer TOKEN")
        return value.strip().encode("utf-8", "surrogateescape")
    encoded = [part.removeprefix(BEARER) for part in offered if part.startswith(BEARER)]
    if not encoded:
        return None
    try:
        if len(encoded) > 1 or not encoded[0]:
            raise ValueError
        text = encoded[0].rstrip("=")
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        raise _unauthorized("token_form", f"what follows {BEARER} is not one token in base64url") from None


def _origin(text: str) -> str:
    parts = urlsplit(text)
    if text != "null" and (not parts.scheme or not parts.netloc or parts.path or parts.query or parts.fragment):
        raise ConfigError(
            f"origins has {text!r}, wanted is scheme://host[:port] without a path, as in https://app.example"
        )
    return text.lower()


def _name(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _same(origin: str, host: str) -> bool:
    """Whether a page of ``origin`` came from ``host``. The scheme may differ: a proxy may have taken TLS away."""
    try:
        page = urlsplit(origin)
        port = DEFAULT_PORTS.get(page.scheme)
        here = urlsplit(f"//{host}")
        return bool(page.hostname) and (page.hostname, page.port or port) == (here.hostname, here.port or port)
    except ValueError:
        return False
