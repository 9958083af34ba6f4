"""Backpressure and progress on one caller's connection."""

import asyncio
from typing import Final

from krebit_proxy.sockets import unacknowledged, unread

HIGH_WATER: Final = 256 << 10  # bytes waiting to be taken at which we stop reading from the caller
LOW_WATER: Final = 64 << 10  # bytes at which we read on


class Flow:
    """Backpressure in both directions of one transport, and a measure of progress.

    Attributes:
        full: The caller takes data too slowly, so the write buffer of the transport is full.
        held: We have stopped reading, because the data read so far is not taken.
        moved: Bytes received from the caller plus bytes written to the transport, so far.
    """

    __slots__ = ("_mark", "_taken", "_transport", "full", "held", "moved")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._taken: asyncio.Future[None] | None = None
        self._mark = self.moved = 0
        self.full = self.held = False

    # To the caller

    async def taken(self) -> None:
        self._taken = asyncio.get_running_loop().create_future()
        await self._taken

    def resume(self) -> None:
        self.full = False
        if self._taken is not None and not self._taken.done():
            self._taken.set_result(None)

    # From the caller

    def hold(self) -> None:
        if not self.held:
            self.held = True
            self._transport.pause_reading()

    def release(self) -> None:
        if self.held:
            self.held = False
            self._transport.resume_reading()

    # Both

    def begin(self) -> None:
        """Starts to measure progress."""
        self._mark = self._through()

    def progress(self, seconds: float, least: float) -> bool:
        """Whether more than `least` bytes a second passed, both ways together, since `begin` or the last True."""
        through = self._through()
        if through - self._mark <= least * seconds:
            return False
        self._mark = through
        return True

    @property
    def unread(self) -> int:
        """Bytes that have arrived, but that the event loop has not read yet."""
        sock = self._transport.get_extra_info("socket")
        return unread(sock.fileno()) if sock is not None else 0

    @property
    def untaken(self) -> int:
        """Bytes written that the caller has not acknowledged."""
        sock = self._transport.get_extra_info("socket")
        kernel = unacknowledged(sock.fileno()) if sock is not None else 0
        return self._transport.get_write_buffer_size() + kernel

    def _through(self) -> int:
        """Bytes received, plus bytes that the caller has acknowledged."""
        return self.moved - self.untaken
