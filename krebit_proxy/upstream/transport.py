"""A link on an asyncio transport, for event loops that cannot watch a socket (the proactor loop of Windows).

It is slower than `SocketLink`. And with TLS, asyncio reports a cut connection in the same way as a closed one.
"""

import asyncio
from typing import cast

from krebit_proxy.upstream.link import LOW_WATER, Owner


class TransportLink(asyncio.Protocol):
    """A transport with the methods and attributes of `SocketLink`."""

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self.uses = self.most = 0  # it reads as much as asyncio likes
        self.idle_since = self.expires = 0.0
        self.closed = False
        self._transport: asyncio.Transport | None = None
        self._paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=LOW_WATER, low=LOW_WATER)

    def data_received(self, data: bytes) -> None:
        self.owner.received(self, data)

    def resume_writing(self) -> None:
        self.owner.flushed(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closed:
            self.closed = True
            self.owner.ended(self, exc)

    @property
    def buffered(self) -> int:
        return 0 if self._transport is None or self.closed else self._transport.get_write_buffer_size()

    def untaken(self) -> int:
        return self.buffered

    def maybe_dead(self) -> bool:
        return True  # what the kernel knows is out of reach here

    def silence(self) -> float:
        return 0.0

    def write(self, data: bytes) -> None:
        if self._transport is not None and not self.closed:
            self._transport.write(data)

    def pause(self) -> None:
        if self._transport is not None and not self._paused and not self.closed:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None and self._paused and not self.closed:
            self._paused = False
            self._transport.resume_reading()

    def settle(self) -> bool:
        return not self.closed and self._transport is not None and not self._transport.is_closing()

    def close(self) -> None:
        self.closed = True
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        self.closed = True
        if self._transport is not None:
            self._transport.abort()
