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
        received: Bytes of the caller so far.
    """

    __slots__ = ("_mark", "_taken", "_transport", "full", "held", "received")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._taken: asyncio.Future[None] | None = None
        self._mark = 0
        self.full = self.held = False
        self.received = 0

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

    def begin(self, written: int) -> None:
        """From now on, `progress` counts."""
        self._mark = self._moved(written)

    def progress(self, written: int, seconds: float, least: float) -> bool:
        """Whether more than `least` bytes a second have moved, either way, since `begin` or the last yes.

        `written`: bytes of the answer that is under way, so far.
        """
        moved = self._moved(written)
        if moved - self._mark > least * seconds:
            self._mark = moved
            return True
        self._mark = min(self._mark, moved)  # another answer began
        return False

    def _moved(self, written: int) -> int:
        sock = self._transport.get_extra_info("socket")
        kernel = unacknowledged(sock.fileno()) if sock is not None else 0
        return self.received + written - self._transport.get_write_buffer_size() - kernel
