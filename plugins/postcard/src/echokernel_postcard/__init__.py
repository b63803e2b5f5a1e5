"""postcard for echokernel: the wire format of the Rust crate, version 1, compiled from annotations."""

from echokernel_postcard.serializer import PostcardSerializer

__all__ = ["PostcardSerializer"]
