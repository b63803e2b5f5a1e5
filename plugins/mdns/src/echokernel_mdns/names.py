"""Names and TXT records: what may be announced, and what is made of what others announce. No network in here.

RFC 6763, sections 4.1 and 6. zeroconf itself checks next to nothing of it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from echokernel import InvalidArgument

__all__ = [
    "MAX_LABEL",
    "MAX_STRING",
    "MAX_TXT",
    "SERVICE_TYPE",
    "check_label",
    "decode_txt",
    "encode_txt",
    "harmless",
    "label_with",
]

SERVICE_TYPE = "_echokernel._udp.local."
MAX_LABEL = 63
"""Bytes of UTF-8 in an instance name: the DNS's limit for a label."""
MAX_STRING = 255
"""Bytes of one ``key=value``: its length is one byte."""
MAX_TXT = 1_300
"""Bytes of a whole TXT record, so that it still fits a packet beside its neighbours. Some 400 are good manners."""
MAX_PAIRS = 64
"""Pairs that are read of a TXT record; further ones are left out."""
TXT_VERSION = "1"

_KEY = re.compile(r"[\x20-\x3c\x3e-\x7e]+")  # printable ASCII without "="
# controls, and what turns the direction of writing, hides, or is half a character
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2064\u2066-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff]"
)


def harmless(text: str) -> str:
    """Return a text of somebody else's with U+FFFD for what would drive a terminal or cannot be seen."""
    return _UNSEEN.sub("\ufffd", text)


def check_label(text: str, what: str) -> str:
    """Return ``text``, in Unicode's composed form, where it can be a name in the DNS.

    Raises InvalidArgument: it is empty, longer than 63 bytes, or has control characters.
    """
    text = unicodedata.normalize("NFC", text)
    if not text.strip():
        raise InvalidArgument(f"{what} {text!r}: wanted a name of 1 to {MAX_LABEL} bytes; give it one")
    if _UNSEEN.search(text):
        raise InvalidArgument(f"{what} {text!r}: it has characters that cannot be seen; leave them out")
    length = len(text.encode("utf-8"))
    if length > MAX_LABEL:
        raise InvalidArgument(
            f"{what} {text!r}: {length} bytes as UTF-8, and a name in the DNS has at most {MAX_LABEL}; shorten it"
        )
    return text


def label_with(name: str, suffix: str) -> str:
    """Return ``name`` and ``suffix`` as one label: the name is shortened at a character, its dots become hyphens."""
    room = MAX_LABEL - len(suffix.encode("utf-8"))
    shortened = name.replace(".", "-").encode("utf-8")[:room].decode("utf-8", "ignore")
    return f"{shortened}{suffix}"


def encode_txt(pairs: Iterable[tuple[str, str]]) -> bytes:
    """Return a TXT record's bytes: for each pair a length and ``key=value``.

    Raises InvalidArgument naming the pair: a key that is empty, not printable ASCII, has a "=" or is there twice (case does
    not count); a value with control characters; a pair above 255 bytes; all together above 1,300 bytes.
    """
    strings: list[bytes] = []
    keys: set[str] = set()
    for key, value in pairs:
        if not _KEY.fullmatch(key):
            raise InvalidArgument(
                f"property {key!r}: a key is printable ASCII without '=', at best 9 characters or less; choose another one"
            )
        if key.casefold() in keys:
            raise InvalidArgument(
                f"property {key!r} is there twice, and case does not tell keys apart; keep one of them"
            )
        keys.add(key.casefold())
        if _UNSEEN.search(value):
            raise InvalidArgument(f"property {key}={value!r}: it has characters that cannot be seen; leave them out")
        string = f"{key}={value}".encode()
        if len(string) > MAX_STRING:
            raise InvalidArgument(
                f"property {key!r}: {len(string)} bytes with its key, and a TXT record's string has at most {MAX_STRING}; "
                "shorten it, or let the node tell it when it is asked"
            )
        strings.append(string)
    text = b"".join(bytes((len(string),)) + string for string in strings)
    if len(text) > MAX_TXT:
        raise InvalidArgument(
            f"{len(strings)} properties: {len(text)} bytes together, wanted at most {MAX_TXT}; announce less, "
            "and let the node tell the rest when it is asked"
        )
    return text


def decode_txt(text: bytes) -> tuple[tuple[tuple[str, str], ...], bool]:
    """Return (key, value) pairs of a record of somebody else's, and whether it was well formed.

    What cannot be read is left out; the first of equal keys counts; a key without a value has ``""``. Values are UTF-8,
    with U+FFFD for what is not, and for what cannot be seen.
    """
    pairs: dict[str, tuple[str, str]] = {}
    good = True
    position = 0
    while position < len(text):
        length = text[position]
        string = text[position + 1 : position + 1 + length]
        position += 1 + length
        if len(string) < length:
            good = False  # it ends in the middle of a pair
            break
        key, _, value = string.partition(b"=")
        name = key.decode("ascii", "replace")
        if not string:
            continue  # an empty record has one empty string
        if not _KEY.fullmatch(name) or len(pairs) >= MAX_PAIRS:
            good = False
            continue
        pairs.setdefault(name.casefold(), (name, harmless(value.decode("utf-8", "replace"))))
    return tuple(pairs.values()), good
