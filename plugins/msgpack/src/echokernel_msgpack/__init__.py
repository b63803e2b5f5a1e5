"""MessagePack for echokernel: self-describing payloads, checked against the annotations of the handlers."""

from echokernel_msgpack.serializer import MsgpackSerializer

__all__ = ["MsgpackSerializer"]
