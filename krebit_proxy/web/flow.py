"""Backpressure and progress on one caller's connection: who waits for whom, and whether anything moves."""

import asyncio
from typing import Final

from krebit_proxy.sockets import unacknowledged

HIGH_WATER: Final = 256 << 10  # bytes of content waiting to be taken at which reading from the caller stops
LOW_WATER: Final = 64 << 10  # and at which it goes on


class Flow:
    """What passes through one transport.

    Attributes:
        full: The caller does not take what is written; the transport says so.
        held: We do not read, because nobody takes what was read.
        moved: Bytes received from the caller, and parts of answers written to it, so far.
    """

    __slots__ = ("_mark", "_taken", "_transport", "full", "held", "moved")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._taken: asyncio.Future[None] | None = None
        self._mark = self.moved = 0
        self.full = self.held = False

    # To the caller

    async def taken(self) -> None:
        """Waits until the caller has taken enough of what was written."""
        self._taken = asyncio.get_running_loop().create_future()
        await self._taken

    def resume(self) -> None:
        """The caller has taken enough."""
        self.full = False
        if self._taken is not None and not self._taken.done():
            self._taken.set_result(None)

    # From the caller

    def hold(self) -> None:
        """Stops reading."""
        if not self.held:
            self.held = True
            self._transport.pause_reading()

    def release(self) -> None:
        """Reads on."""
        if self.held:
            self.held = False
            self._transport.resume_reading()

    # Both

    def begin(self) -> None:
        """From now on, `progress` counts."""
        self._mark = self._through()

    def progress(self, seconds: float, least: float) -> bool:
        """Whether more than `least` bytes a second went through, either way, since `begin` or the last yes."""
        through = self._through()
        if through - self._mark <= least * seconds:
            return False
        self._mark = through
        return True

    def _through(self) -> int:
        sock = self._transport.get_extra_info("socket")
        kernel = unacknowledged(sock.fileno()) if sock is not None else 0
        return self.moved - self._transport.get_write_buffer_size() - kernel
