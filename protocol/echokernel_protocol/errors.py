"""What the protocol package raises, and ErrorInfo: how an error travels."""

from __future__ import annotations

from dataclasses import dataclass

from echokernel_protocol.codes import Code
from echokernel_protocol.postcard import Malformed, Truncated, encode_bytes, encode_varint, take_bytes, take_varint


class ProtocolViolation(Exception):
    """The peer broke a rule of the wire. Its connection has to be closed with ``code`` and this message."""

    def __init__(self, message: str, *, code: int = Code.PROTOCOL_ERROR) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class ErrorInfo:
    """The payload of a frame with the ERROR flag: ``code: varint · message: str · details: option<bytes>``."""

    code: int
    message: str
    details: bytes | None = None

    MAX_MESSAGE = 4096  # characters; a longer message is cut by its sender

    def encode(self) -> bytes:
        """Return the wire form; a message over 4,096 characters is cut."""
        text = self.message[: self.MAX_MESSAGE].encode("utf-8", "replace")
        head = encode_varint(self.code) + encode_varint(len(text)) + text
        return head + (b"\x00" if self.details is None else b"\x01" + encode_bytes(self.details))

    @classmethod
    def decode(cls, payload: bytes) -> ErrorInfo:
        """Return what ``payload`` holds. Raises ProtocolViolation."""
        try:
            code, position = take_varint(payload, 0)
            text, position = take_bytes(payload, position)
            present = payload[position]
            details, position = take_bytes(payload, position + 1) if present else (None, position + 1)
            if present > 1 or position != len(payload):
                raise ProtocolViolation("an ErrorInfo has an invalid option tag or bytes after its end")
            return cls(code, text.decode("utf-8"), details)
        except (Truncated, Malformed, IndexError, UnicodeDecodeError) as error:
            raise ProtocolViolation("an ErrorInfo is cut short or not UTF-8") from error
