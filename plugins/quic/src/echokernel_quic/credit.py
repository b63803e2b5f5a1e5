"""How much a peer may send: credit for what was consumed, never for what merely arrived. No IO, no aioquic."""

from __future__ import annotations

KIB = 1024
STREAM_WINDOW = 64 * KIB  # every stream starts with this; it is promised in the handshake
STREAM_WINDOW_MAX = 256 * KIB
CHANNEL_WINDOW_MAX = 1024 * KIB  # of the prioritized stream
TOTAL_WINDOWS = 16 * 1024 * KIB  # windows grow only while their sum stays below
STRANGER_WINDOW = 256 * KIB  # all streams together, until the kernel's hello is done
NEWCOMERS = 128 * KIB  # for streams whose first bytes are still on their way
STEP = 64 * KIB  # connection credit is raised in steps: one small frame for 50 packets

__all__ = ["Credit", "StreamCredit"]


class StreamCredit:
    """One receiving stream's share. ``limit`` is the offset up to which the peer may send; it never shrinks."""

    __slots__ = ("consumed", "ended", "largest_window", "limit", "raised_at", "window")

    def __init__(self) -> None:
        self.window = STREAM_WINDOW
        self.largest_window = STREAM_WINDOW_MAX
        self.limit = STREAM_WINDOW
        self.consumed = 0
        self.raised_at: float | None = None
        """When the limit was raised last, in seconds of the caller's clock."""
        self.ended = False


class Credit:
    """A connection's ledger. ``limit`` is the sum of bytes that the peer may send on all streams; it never shrinks.

    The limit covers what was consumed, every live stream's window and room for newcomers. So streams that nobody reads
    can use up their own windows and nothing else: the channel always has credit left.
    """

    __slots__ = ("_established", "_windows", "consumed", "limit")

    def __init__(self) -> None:
        self.consumed = 0
        self.limit = STRANGER_WINDOW
        self._windows = 0
        self._established = False

    def establish(self) -> None:
        """The peer is no stranger any more."""
        self._established = True

    def add(self, stream: StreamCredit) -> None:
        """A stream appeared; its first window was granted in the handshake."""
        self._windows += stream.window

    def end(self, stream: StreamCredit, received: int) -> None:
        """The stream takes no more data: of ``received`` bytes, those that nobody read count as consumed."""
        if not stream.ended:
            stream.ended = True
            self._windows -= stream.window
            self.consumed += received - stream.consumed
            stream.consumed = received

    def consume(
        self,
        stream: StreamCredit,
        size: int,
        received: int,
        *,
        open_ended: bool,
        now: float = 0.0,
        round_trip: float = 0.0,
    ) -> bool:
        """``size`` bytes were read, of ``received`` so far. Return whether the stream's limit was raised.

        ``open_ended``: the peer has not announced the end of this stream, so that more credit is of use. ``now`` and
        ``round_trip``, in seconds: half a window that is used up within two round trips is a window that holds the peer up.
        """
        if stream.ended:
            return False
        stream.consumed += size
        self.consumed += size
        if not open_ended:
            return False
        raised = stream.consumed + stream.window
        if raised - stream.limit < stream.window // 2:
            return False
        quick = stream.raised_at is not None and now - stream.raised_at < 2 * round_trip
        stream.raised_at = now
        if (
            self._established
            and (quick or stream.limit - received <= stream.window // 4)
            and received - stream.consumed <= stream.window // 2
        ):
            self._grow(stream)  # the peer used the window up while the reader kept up: the window was too small
            raised = stream.consumed + stream.window
        stream.limit = raised
        return True

    def due(self) -> bool:
        """Raise the connection's limit if it is time, and return whether it was raised."""
        limit = self.consumed + (
            max(self._windows, STREAM_WINDOW) + NEWCOMERS if self._established else STRANGER_WINDOW
        )
        if limit - self.limit < STEP:
            return False
        self.limit = limit
        return True

    def _grow(self, stream: StreamCredit) -> None:
        grown = min(2 * stream.window, stream.largest_window)
        if self._windows + grown - stream.window <= TOTAL_WINDOWS:
            self._windows += grown - stream.window
            stream.window = grown
