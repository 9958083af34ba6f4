"""One connection to the upstream, on a non-blocking socket that the event loop only watches.

TLS runs on `ssl.SSLSocket` straight on the socket. The transports of asyncio and uvloop take each record through two
memory buffers and a state machine instead, which costs more than all the rest of a small request.
"""

import asyncio
import select
import ssl
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from socket import socket
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, Self

from krebit_proxy.sockets import unacknowledged

if TYPE_CHECKING:
    from krebit_proxy.upstream.connect import Link

_RECORD: Final = 16 << 10  # RFC 8446, 5.1: "The record layer fragments information blocks into ... 2^14 bytes or less"
_READ: Final = 256 << 10
LOW_WATER: Final = 64 << 10  # octets still to be sent at which the sender may go on
_WAIT: Final = (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError, InterruptedError)

# One receive buffer for all links: what it holds is taken out before control goes back to the loop.
_buffer: Final = bytearray(_READ)
_view: Final = memoryview(_buffer)


class Owner(Protocol):
    """Whoever uses a link at the moment: an exchange, or the pool while it is idle."""

    def received(self, link: "Link", data: memoryview | bytes, /) -> None:
        """Octets arrived; `data` is valid during the call only."""

    def flushed(self, link: "Link", /) -> None:
        """What is still to be sent has fallen below the low-water mark, or is gone."""

    def ended(self, link: "Link", error: Exception | None, /) -> None:
        """Nothing more arrives. `error` is None after an orderly end: FIN, over TLS close_notify."""


class Octets(NamedTuple):
    """How a socket sends octets, puts as many as asked for into a buffer, and says how many more it has at hand."""

    send: Callable[[bytes | memoryview], int]
    take: Callable[[int, bytearray | memoryview], int]
    pending: Callable[[], int]

    @classmethod
    def of(cls, sock: socket) -> Self:
        # What `SSLSocket` puts around these methods of its C object costs as much as many a step of a request. Pythons
        # without these have the public methods.
        inner = getattr(sock, "_sslobj", None)
        if all(hasattr(inner, name) for name in ("write", "read", "pending")):
            return cls(inner.write, inner.read, inner.pending)  # type: ignore[union-attr]
        return cls(sock.send, lambda size, buffer: sock.recv_into(buffer, size), getattr(sock, "pending", lambda: 0))


class SocketLink:
    """A link on a connected socket; TLS must be set up already."""

    __slots__ = ("_loop", "_octets", "_out", "_poll", "_read_wants_write", "_reading", "_socket", "_write_failed",
                 "_write_wants_read", "_writing", "buffered", "closed", "idle_since", "owner", "uses")  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket, owner: Owner) -> None:
        self.owner = owner
        self.uses = self.buffered = 0
        self.idle_since = 0.0
        self.closed = False
        self._loop = loop
        self._socket = sock
        self._octets = Octets.of(sock)
        self._out: deque[memoryview | bytes] = deque()
        self._reading = self._writing = False
        self._read_wants_write = self._write_wants_read = self._write_failed = False
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self.resume()

    @property
    def tls(self) -> ssl.SSLSocket | None:
        """The TLS socket, for its session."""
        return self._socket if isinstance(self._socket, ssl.SSLSocket) else None

    # Writing

    def untaken(self) -> int:
        """Octets that the upstream has not taken: those still to be sent, and those that the kernel holds."""
        return self.buffered + unacknowledged(self._socket.fileno())

    def write(self, data: bytes, /) -> None:
        """Sends, or keeps what cannot be sent yet. A failure shows as the end of what can be read."""
        if self.closed or self._write_failed:
            return
        if not self._out:
            sent = self._try(data)
            if sent == len(data):
                return
            self._out.append(memoryview(data)[sent:] if sent else data)
            self.buffered = len(data) - sent
            if not self._write_wants_read:
                self._watch_writable()
        else:
            self._out.append(data)
            self.buffered += len(data)

    def _try(self, data: memoryview | bytes) -> int:
        """Sends what goes now. After a want, OpenSSL must be given the same octets again: the caller keeps them."""
        try:
            return self._octets.send(data)
        except ssl.SSLWantReadError:
            self._write_wants_read = True
        except _WAIT:
            pass
        except OSError:
            # RFC 9112, 9.5: "A client sending a message body SHOULD monitor the network connection for an error
            # response while it is transmitting the request." It may lie in the receive buffer: what can be
            # read tells the end.
            self._write_failed = True
            self._drop()
            self._loop.call_soon(self._read)
            return len(data)
        return 0

    def _flush(self) -> None:
        self._write_wants_read = False
        out = self._out
        while out:
            data = out[0]
            sent = self._try(data)
            if self._write_failed:
                return
            self.buffered -= sent
            if sent < len(data):
                if not sent:
                    break
                out[0] = memoryview(data)[sent:]
            else:
                out.popleft()
        if out and not self._write_wants_read:
            self._watch_writable()
        elif not self._read_wants_write:
            self._unwatch_writable()
        if self.buffered <= LOW_WATER:
            self.owner.flushed(self)

    def _drop(self) -> None:
        self._out.clear()
        self.buffered = 0
        self._unwatch_writable()

    def _watch_writable(self) -> None:
        if not self._writing:
            self._writing = True
            self._loop.add_writer(self._socket, self._writable)

    def _unwatch_writable(self) -> None:
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._socket)

    def _writable(self) -> None:
        if self._read_wants_write:
            self._read_wants_write = False
            self._read()
        if not self.closed:
            self._flush()

    # Reading

    def pause(self) -> None:
        """Stops reading, so that the upstream feels that the caller is slow."""
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._socket)

    def resume(self) -> None:
        """Reads again."""
        if not self._reading and not self.closed:
            self._reading = True
            self._loop.add_reader(self._socket, self._read)

    def settle(self) -> bool:
        """Takes in what arrived but was not seen yet. False: the link cannot be used any more."""
        # What came since the loop last looked belongs to no request: it must be seen before one is sent.
        if self._poll.poll(0):
            self._read()
        return not self.closed

    def _read(self) -> None:
        if self.closed:
            return
        if self._write_wants_read:
            self._flush()
        size, ended, error = self._receive()
        if size:
            self.owner.received(self, _view[:size])
        if ended and not self.closed:
            self._release()
            self.owner.ended(self, error)

    def _receive(self) -> tuple[int, bool, Exception | None]:
        """Fills the buffer with what is there: size, whether that was all there will be, and why."""
        take = self._octets.take
        size = 0
        try:
            size = got = take(_READ, _buffer)
            # A TLS socket gives one record at a time; one that is full, or not taken whole, has more behind it.
            while got and size <= _READ - _RECORD and (got == _RECORD or self._octets.pending()):
                got = take(_READ - size, _view[size:])
                size += got
        except ssl.SSLWantWriteError:
            self._read_wants_write = True
            self._watch_writable()
        except _WAIT:
            pass
        except OSError as failure:
            return size, True, failure
        else:
            return size, not got, None
        return size, False, None

    # The end

    def close(self) -> None:
        """Ends it in an orderly way."""
        if self.closed:
            return
        if self.tls is not None and not self._out and not self._write_failed:
            # Sends close_notify, and does not wait for the other side's (RFC 8446, 6.1).
            with suppress(OSError, ValueError):
                self.tls.unwrap()
        self._release()

    def abort(self) -> None:
        """Ends it at once, so that the other side sees that something was cut."""
        if not self.closed:
            self._release()

    def _release(self) -> None:
        self.pause()
        self._drop()
        self.closed = True
        self._socket.close()
