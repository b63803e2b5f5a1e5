"""What tests of echokernel and of its plugins are made of."""

from echokernel.testing.clock import VirtualTimeLoop, virtual_time_backends
from echokernel.testing.memory import MemoryConnection, MemoryFaults, MemoryTransport, connection_pair
from echokernel.testing.nodes import JsonSerializer, Nodes, connected

__all__ = [
    "JsonSerializer",
    "MemoryConnection",
    "MemoryFaults",
    "MemoryTransport",
    "Nodes",
    "VirtualTimeLoop",
    "connected",
    "connection_pair",
    "virtual_time_backends",
]
