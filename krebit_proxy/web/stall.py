"""Whether a caller takes what was written to it."""

import asyncio

from krebit_proxy.sockets import unacknowledged


class Stall:
    """Watches one caller. `due` is when to look, by the loop's clock."""

    __slots__ = ("_ends", "_patience", "_sock", "_transport", "_unsent", "due")

    def __init__(self, transport: asyncio.WriteTransport, patience: float, now: float) -> None:
        """`patience`: seconds in which the caller must take something."""
        self._transport = transport
        self._sock = transport.get_extra_info("socket")
        self._patience = patience
        self._unsent = self._left()
        self._begin(now)

    def _begin(self, now: float) -> None:
        self._ends = now + self._patience
        self.due = now + self._patience / 4  # soon, for the caller's kernel takes the first part in any case

    def _left(self) -> int:
        kernel = unacknowledged(self._sock.fileno()) if self._sock is not None else 0
        return self._transport.get_write_buffer_size() + kernel

    def goes_on(self, now: float) -> bool:
        """Looks; False when the caller has taken nothing for too long."""
        left = self._left()
        if left < self._unsent:
            self._unsent = left
            self._begin(now)
        else:
            self.due = min(self._ends, now + self._patience / 4)
        return now < self._ends
