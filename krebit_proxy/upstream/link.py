"""One connection to the upstream, on a non-blocking socket that the event loop only watches.

TLS is an `ssl.SSLSocket` directly on the socket. The transports of asyncio and uvloop pass each record through two
memory buffers and a state machine, which costs more than everything else that a small request needs.
"""

import asyncio
import select
import ssl
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from socket import socket
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, Self

from krebit_proxy.sockets import COUNTS_UNACKNOWLEDGED, silence, unacknowledged

if TYPE_CHECKING:
    from krebit_proxy.upstream.connect import Link

_RECORD: Final = 16 << 10  # RFC 8446, 5.1: "The record layer fragments information blocks into ... 2^14 bytes or less"
READ: Final = 256 << 10  # octets that a link reads at once
READ_DENSE: Final = 32 << 10  # the same, if they take long to parse
LOW_WATER: Final = 64 << 10  # octets still to be sent at which a waiting sender goes on
_WAIT: Final = (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError, InterruptedError)

# One receive buffer for all links. The owner copies the data before control goes back to the loop.
_buffer: Final = bytearray(READ)
_view: Final = memoryview(_buffer)


class Owner(Protocol):
    """The current user of a link: an exchange, or the pool while the link is idle."""

    def received(self, link: "Link", data: memoryview | bytes, /) -> None:
        """Octets arrived. `data` is valid only during the call."""

    def flushed(self, link: "Link", /) -> None:
        """The octets still to be sent have fallen to the low-water mark, or below."""

    def ended(self, link: "Link", error: Exception | None, /) -> None:
        """Nothing more arrives. `error` is None after an orderly end: FIN or, over TLS, close_notify."""


class Octets(NamedTuple):
    """Three methods of a socket: send octets, receive up to n octets into a buffer, count decrypted octets at hand."""

    send: Callable[[bytes | memoryview], int]
    take: Callable[[int, bytearray | memoryview], int]
    pending: Callable[[], int]

    @classmethod
    def of(cls, sock: socket) -> Self:
        # The checks of `SSLSocket` around its C object take a noticeable part of a request. Fall back to the public
        # methods on Pythons without this object.
        inner = getattr(sock, "_sslobj", None)
        if all(hasattr(inner, name) for name in ("write", "read", "pending")):
            return cls(inner.write, inner.read, inner.pending)  # type: ignore[union-attr]
        return cls(sock.send, lambda size, buffer: sock.recv_into(buffer, size), getattr(sock, "pending", lambda: 0))


class SocketLink:
    """A link on a connected socket, after the TLS handshake.

    Attributes:
        owner: Gets what arrives. An exchange, or the pool.
        uses: How many requests it has carried.
        buffered: Octets still to be sent.
        most: Octets that it reads at once.
        closed: We have closed it, or its end was reported to the owner.
        idle_since: When it became idle, by `clock.elapsed`.
        expires: When it is too old for another request, by the same clock.
    """

    __slots__ = ("_loop", "_octets", "_out", "_poll", "_read_wants_write", "_reading", "_socket", "_write_failed",
                 "_write_wants_read", "_writing", "buffered", "closed", "expires", "idle_since", "most",
                 "owner", "uses")  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket, owner: Owner) -> None:
        self.owner = owner
        self.uses = self.buffered = 0
        self.idle_since = self.expires = 0.0
        self.closed = False
        self.most = READ
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
        """Octets that the upstream has not acknowledged: buffered here or in the kernel."""
        return self.buffered + unacknowledged(self._socket.fileno())

    def maybe_dead(self) -> bool:
        """Whether the other side has not acknowledged all that was written, so that it may be gone."""
        return not COUNTS_UNACKNOWLEDGED or self.untaken() > 0

    def silence(self) -> float:
        """Seconds since the other side last acknowledged anything, while it should. 0 if all is well or unknown."""
        return silence(self._socket)

    def write(self, data: bytes, /) -> None:
        """Sends, and buffers the rest without a limit. After a failure, `Owner.ended` follows."""
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
        """Sends what the socket accepts now. If that is 0, OpenSSL must get the same octets again: keep them."""
        try:
            return self._octets.send(data)
        except ssl.SSLWantReadError:
            self._write_wants_read = True
        except _WAIT:
            pass
        except OSError:
            # RFC 9112, 9.5: "A client sending a message body SHOULD monitor the network connection for an error
            # response while it is transmitting the request." That response may
            # be in the receive buffer, so read before reporting the end.
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
        """Stops reading. TCP then slows down the upstream."""
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._socket)

    def resume(self) -> None:
        if not self._reading and not self.closed:
            self._reading = True
            self._loop.add_reader(self._socket, self._read)

    def settle(self) -> bool:
        """Reads what the loop has not reported yet. False: the link is closed."""
        # Octets that arrived before a request is sent do not belong to its response, so read them first.
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
        """Fills the buffer. Returns its size, whether the connection ended, and the error that ended it."""
        take, most = self._octets.take, self.most
        size = 0
        try:
            size = got = take(most, _buffer)
            # A TLS socket gives one record at a time. After a full record, or a part of one, there is more.
            while got and size <= most - _RECORD and (got == _RECORD or self._octets.pending()):
                got = take(most - size, _view[size:])
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
        if self.closed:
            return
        if self.tls is not None and not self._out and not self._write_failed:
            # Sends close_notify, without waiting for the one of the other side (RFC 8446, 6.1).
            with suppress(OSError, ValueError):
                self.tls.unwrap()
        self._release()

    def abort(self) -> None:
        """Cuts the connection, without close_notify over TLS, so that the other side notices."""
        if not self.closed:
            self._release()

    def _release(self) -> None:
        self.pause()
        self._drop()
        self.closed = True
        self._socket.close()
