"""What tests of echokernel and of its plugins are made of."""

from echokernel.testing.memory import MemoryConnection, MemoryTransport, connection_pair

__all__ = ["MemoryConnection", "MemoryTransport", "connection_pair"]
