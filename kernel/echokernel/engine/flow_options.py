"""How a stream is carried: what its sender chose, checked, and what its open frame says of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, get_args

from echokernel.errors import InvalidArgument
from echokernel.flows import Delivery, OnFull

BUFFER_FRAMES: Final = (
    64  # 2 s of video at 30 frames/s, 1.3 s of audio at 50: what is older is worth nothing to a listener
)
BUFFER_BYTES: Final = 1_048_576  # of one stream: as many streams as a peer serves at a time (64) hold at most 64 MiB
FRAMES_OPEN: Final = (
    64  # per_frame: streams of one flow that its receiver has not taken; a window, as bytes are elsewhere
)
ALL_FRAMES_OPEN: Final = 112  # of all flows of a session: a QUIC peer takes 128 streams, and bodies need some too

DELIVERY_KEY: Final = "$delivery"
MAX_AGE_KEY: Final = "$max_age"

__all__ = ["FlowOptions"]


@dataclass(frozen=True, slots=True)
class FlowOptions:
    """What a sender chose for one stream."""

    delivery: Delivery = "reliable"
    max_age: float | None = None
    """Seconds after which a frame is not sent any more; None: never."""
    on_full: OnFull = "wait"
    buffer: int = BUFFER_FRAMES
    """Frames that may wait here for the carrier."""

    @property
    def is_direct(self) -> bool:
        """Whether frames go straight into one reliable stream."""
        return self.delivery == "reliable" and self.on_full == "wait" and self.max_age is None

    def check(self, name: str) -> None:
        """Raise InvalidArgument for what cannot be."""
        if self.delivery not in get_args(Delivery):
            raise InvalidArgument(f"stream {name!r}: delivery {self.delivery!r}; wanted {_choices(Delivery)}")
        if self.on_full not in get_args(OnFull):
            raise InvalidArgument(f"stream {name!r}: on_full {self.on_full!r}; wanted {_choices(OnFull)}")
        if self.max_age is not None and not 0.001 <= self.max_age <= 3600:
            raise InvalidArgument(f"stream {name!r}: max_age {self.max_age!r}; wanted 0.001 to 3600 seconds, or None")
        if not isinstance(self.buffer, int) or not 1 <= self.buffer <= 65_536:
            raise InvalidArgument(f"stream {name!r}: buffer {self.buffer!r}; wanted 1 to 65,536 frames")
        if self.delivery == "datagram" and (self.max_age is not None or self.on_full != "wait"):
            raise InvalidArgument(
                f"stream {name!r}: datagrams leave at once or not at all, without a buffer here: max_age and on_full "
                'do not apply to delivery="datagram"; leave them out, or use "per_frame"'
            )

    def entries(self) -> dict[str, str]:
        """Return the kernel's keys for the open frame; none for what is usual."""
        if self.delivery == "reliable":
            return {}
        entries = {DELIVERY_KEY: str(self.delivery)}
        if self.max_age is not None:
            entries[MAX_AGE_KEY] = str(int(self.max_age * 1000))
        return entries


def _choices(kind: object) -> str:
    return ", ".join(get_args(kind))
