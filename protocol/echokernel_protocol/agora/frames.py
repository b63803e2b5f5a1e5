"""Every frame of Agora as a value: the seed's, and what this router adds."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    SerializerFunctionWrapHandler,
    WithJsonSchema,
    model_serializer,
)

__all__ = [
    "Ack",
    "AgentFrame",
    "AgentList",
    "AgentRecord",
    "AgentRegister",
    "AgentReply",
    "AgentReplyChunk",
    "AgentReplyEnd",
    "AgentSend",
    "AgentSendChunk",
    "AgentSendEnd",
    "Agents",
    "ClientFrame",
    "Credit",
    "Error",
    "Failure",
    "List",
    "Message",
    "MessageChunk",
    "MessageEnd",
    "Ping",
    "Pong",
    "Presence",
    "Receipt",
    "Register",
    "Registered",
    "Reply",
    "ReplyChunk",
    "ReplyEnd",
    "RouterAgents",
    "RouterFrame",
    "RouterMessage",
    "RouterMessageChunk",
    "RouterMessageEnd",
    "RouterRecord",
    "RouterRegistered",
    "RouterReply",
    "RouterReplyChunk",
    "RouterReplyEnd",
    "Send",
    "SendChunk",
    "SendEnd",
    "ServerFrame",
    "Stop",
    "Unwatch",
    "Watch",
]

_RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII)


class _Instant(datetime):
    """A time that remembers how it was written."""

    text: str


def _instant(value: object) -> datetime:
    if isinstance(value, str) and _RFC3339.fullmatch(value):
        moment = _Instant.fromisoformat(value).astimezone(UTC)
        if value.endswith("Z"):
            moment.text = value
        return moment
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC)
    raise ValueError("a time of RFC 3339, as 2025-01-31T12:00:00Z")


def _instant_text(moment: datetime) -> str:
    digits = "microseconds" if moment.microsecond % 1000 else "milliseconds" if moment.microsecond else "seconds"
    return getattr(moment, "text", "") or moment.isoformat(timespec=digits).replace("+00:00", "Z")


Instant = Annotated[
    datetime,
    PlainValidator(_instant),
    PlainSerializer(_instant_text, return_type=str),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]


def _schema(schema: dict[str, Any]) -> None:
    if "type" in schema["properties"]:
        schema["required"] = ["type", *schema.get("required", ())]


class _Model(BaseModel):
    model_config = ConfigDict(
        extra="ignore", frozen=True, strict=True, validate_by_name=True, serialize_by_alias=True, json_schema_extra=_schema
    )

    @model_serializer(mode="wrap")
    def _present(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = {"type": None, **handler(self)}  # `type` goes first
        nulls = self.model_fields_set & {"payload"}
        return {name: value for name, value in written.items() if value is not None or name in nulls}


class AgentRecord(_Model):
    """An agent in the answer to :class:`List`; ``registered_at`` is a time in UTC."""

    id: str
    name: str
    endpoint: str | None = None
    registered_at: Instant


class _To(_Model):
    to: str


class _From(_Model):
    from_: str = Field(validation_alias="from", serialization_alias="from")


class _Start(_Model):
    stream_id: str | None = None
    stream: bool | None = None
    payload: Any = None


class _Chunk(_Model):
    stream_id: str
    chunk: str


class _End(_Model):
    stream_id: str


class Register(_Model):
    """Take an id; the same id again is an update."""

    type: Literal["register"] = "register"
    id: str
    name: str
    endpoint: str | None = None


class Registered(_Model):
    """The answer to :class:`Register`."""

    type: Literal["registered"] = "registered"
    id: str


class List(_Model):
    """Ask who is there."""

    type: Literal["list"] = "list"


class Agents(_Model):
    """The answer to :class:`List`."""

    type: Literal["agents"] = "agents"
    agents: list[AgentRecord]


class Send(_Start, _To):
    """A message, or with ``stream`` the start of one in chunks."""

    type: Literal["send"] = "send"


class SendChunk(_Chunk, _To):
    """A piece of a message."""

    type: Literal["send_chunk"] = "send_chunk"


class SendEnd(_End, _To):
    """The end of a message in chunks."""

    type: Literal["send_end"] = "send_end"


class Message(_Start, _From):
    """A :class:`Send` as its receiver gets it."""

    type: Literal["message"] = "message"


class MessageChunk(_Chunk, _From):
    """A :class:`SendChunk` as its receiver gets it."""

    type: Literal["message_chunk"] = "message_chunk"


class MessageEnd(_End, _From):
    """A :class:`SendEnd` as its receiver gets it."""

    type: Literal["message_end"] = "message_end"


class Reply(_To):
    """An answer, or with ``stream_id`` the start of one in chunks; both ways."""

    type: Literal["reply"] = "reply"
    stream_id: str | None = None
    payload: Any = None


class ReplyChunk(_Chunk, _To):
    """A piece of an answer; both ways."""

    type: Literal["reply_chunk"] = "reply_chunk"


class ReplyEnd(_End, _To):
    """The end of an answer in chunks; both ways."""

    type: Literal["reply_end"] = "reply_end"


ClientFrame = Annotated[
    Register | List | Send | SendChunk | SendEnd | Reply | ReplyChunk | ReplyEnd, Field(discriminator="type")
]
"""The seed's frames from an agent to the router."""
ServerFrame = Annotated[
    Registered | Agents | Message | MessageChunk | MessageEnd | Reply | ReplyChunk | ReplyEnd, Field(discriminator="type")
]
"""The seed's frames from the router to an agent."""


class Failure(_Model):
    """Why a stream was cut: ``sender_gone``, ``stream_idle``, or what its sender gave."""

    code: str
    message: str | None = None


class _Tagged(_Model):
    id: str | None = None
    """The sender's name for this frame, at most 128 characters."""
    request_id: str | int | None = None


class _Sent(_Tagged):
    hops: int | None = None


class _Cut(_Model):
    error: Failure | None = None
    """The stream was aborted: what came is not the whole."""


class _Relayed(_Tagged):
    from_: str | None = Field(None, validation_alias="from", serialization_alias="from")
    seq: int | None = None
    """With the feature ``resume``: 1, 2, … within a session."""


class _Got(_Tagged):
    seq: int | None = None


class AgentRegister(Register):
    """``features``: of ``receipt``, ``credit``, ``resume``, ``presence``; ``resume`` and ``seq``: go on with a lost session."""

    features: list[str] | None = None
    capabilities: list[str] | None = None
    card: dict[str, Any] | None = None
    resume: str | None = None
    seq: int | None = None


class AgentList(List):
    """A page of those who are there, or of those with a capability."""

    id: str | None = None
    limit: int | None = None
    cursor: str | None = None
    capability: str | None = None
    card: bool | None = None


class AgentSend(_Sent, Send): ...
class AgentSendChunk(_Sent, SendChunk): ...
class AgentSendEnd(_Cut, _Sent, SendEnd): ...


class AgentReply(_Sent, Reply):
    """:class:`Reply` with extensions; ``stream`` says what ``stream_id`` means."""

    stream: bool | None = None


class AgentReplyChunk(_Sent, ReplyChunk): ...
class AgentReplyEnd(_Cut, _Sent, ReplyEnd): ...


class Ping(_Model):
    """Ask for a :class:`Pong`."""

    type: Literal["ping"] = "ping"
    id: str | None = None


class Watch(_Model):
    """Ask for :class:`Presence` of all agents (feature ``presence``)."""

    type: Literal["watch"] = "watch"


class Unwatch(_Model):
    """Take :class:`Watch` back."""

    type: Literal["unwatch"] = "unwatch"


class Ack(_Model):
    """Everything up to ``seq`` has come (feature ``resume``)."""

    type: Literal["ack"] = "ack"
    seq: int


class Stop(_From):
    """Its receiver does not want the rest of a stream; ``reply``: of a streamed answer."""

    type: Literal["stop"] = "stop"
    stream_id: str
    reply: bool | None = None


class RouterRecord(AgentRecord):
    """A record with extensions: ``state`` ``offline``, ``transport`` ``quic``."""

    capabilities: list[str] | None = None
    card: dict[str, Any] | None = None
    state: str | None = None
    transport: str | None = None


class RouterRegistered(Registered):
    """What was granted: ``credit`` bytes for each receiver, ``window`` seconds to ``resume``, ``received`` relayed frames."""

    features: list[str] | None = None
    credit: int | None = None
    resume: str | None = None
    window: float | None = None
    resumed: bool | None = None
    received: int | None = None


class RouterAgents(Agents):
    """A page of agents; ``cursor`` asks for the next."""

    agents: list[RouterRecord]  # type: ignore[assignment]  # a list of subclasses, which nobody appends to
    id: str | None = None
    cursor: str | None = None


class RouterMessage(_Got, Message): ...
class RouterMessageChunk(_Got, MessageChunk): ...
class RouterMessageEnd(_Cut, _Got, MessageEnd): ...


class RouterReply(_Relayed, Reply):
    """:class:`Reply` with extensions; ``from_`` is who replied."""

    stream: bool | None = None


class RouterReplyChunk(_Relayed, ReplyChunk): ...
class RouterReplyEnd(_Cut, _Relayed, ReplyEnd): ...


class Error(_Tagged):
    """A frame had no effect, or a stream is over. ``code`` is for programs, ``message`` for people."""

    type: Literal["error"] = "error"
    code: str
    message: str | None = None
    to: str | None = None
    from_: str | None = Field(None, validation_alias="from", serialization_alias="from")
    stream_id: str | None = None
    retry_ms: int | None = None


class Pong(_Model):
    """The answer to :class:`Ping`."""

    type: Literal["pong"] = "pong"
    id: str | None = None


class Receipt(_Model):
    """What became of the frame ``id``: ``delivered`` or ``stored`` (feature ``receipt``)."""

    type: Literal["receipt"] = "receipt"
    id: str
    to: str
    status: str


class Credit(_Model):
    """So many more bytes of frames may go to ``to`` (feature ``credit``)."""

    type: Literal["credit"] = "credit"
    to: str
    bytes: int


class Presence(_Model):
    """An agent came, changed, lost its connection or left: ``online changed offline gone`` (feature ``presence``)."""

    type: Literal["presence"] = "presence"
    event: str
    agent: RouterRecord


AgentFrame = Annotated[
    AgentRegister | AgentList | AgentSend | AgentSendChunk | AgentSendEnd | AgentReply | AgentReplyChunk | AgentReplyEnd
    | Ping | Watch | Unwatch | Ack | Stop,
    Field(discriminator="type"),
]  # fmt: skip
"""All frames from an agent to this router: the seed's with the extensions, and further ones."""
RouterFrame = Annotated[
    RouterRegistered | RouterAgents | RouterMessage | RouterMessageChunk | RouterMessageEnd | RouterReply | RouterReplyChunk
    | RouterReplyEnd | Error | Pong | Receipt | Credit | Presence,
    Field(discriminator="type"),
]  # fmt: skip
"""All frames from this router to an agent: the seed's with the extensions, and further ones."""
