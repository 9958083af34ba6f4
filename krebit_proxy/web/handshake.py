"""TLS handshakes of callers. They count against the limit of connections from the start.

If the event loop accepted TLS connections, it would report them only after their handshake. A caller that never sends
one would then hold a connection that nobody counts, for a minute.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import structlog

from krebit_proxy.core.connection import HANDSHAKE, STANDING, step
from krebit_proxy.tasks import spawn
from krebit_proxy.web.accept import Take

if TYPE_CHECKING:
    from krebit_proxy.web.server import Server

_PLAIN_HTTP: Final = frozenset(("HTTP_REQUEST", "HTTPS_PROXY_REQUEST"))  # OpenSSL's names
_TEXT: Final = b"This port expects TLS. Use https:// instead of http://.\n"
_USE_TLS: Final = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n"
    b"X-Krebit-Proxy-Error: bad_request\r\nConnection: close\r\n\r\n%b" % (len(_TEXT), _TEXT)
)
_log: Final = structlog.get_logger()


def handshaking(server: "Server", context: Callable[[], ssl.SSLContext], patience: float) -> Take:
    """A function that begins a handshake on a socket. `context`: asked anew for each. `patience`: seconds for one."""

    def take(caller: socket.socket) -> None:
        Handshake(caller, server).begin(context(), patience)

    return take


class Handshake(asyncio.Protocol):
    """A connection whose TLS handshake is not complete. Later a `Connection` takes its place."""

    def __init__(self, sock: socket.socket, server: "Server") -> None:
        self._sock = sock
        self._server = server
        self._over = False
        try:
            remote, local = sock.getpeername()[0], sock.getsockname()[0]
        except OSError:  # the caller left at once
            remote = local = "::"
        self.peer = server.rules.peer(remote, local, scheme=b"https")
        self.phase = HANDSHAKE
        self.since = server.time()
        self.task: asyncio.Task[None] | None = None

    def begin(self, tls: ssl.SSLContext, patience: float) -> None:
        """Starts the handshake if there is room for the connection. It may take `patience` seconds.

        A caller of this computer gets a moment without a seat, because it may be a probe.
        """
        seats = self._server.seats
        if not seats.take(self):
            if not self.peer.here:
                self._end("all connections are busy")
                self._sock.close()
                return
            self.phase, patience = step(HANDSHAKE, "stand"), min(patience, self._server.deadlines[STANDING])
            seats.squeeze()
        self.task = spawn(self._encrypt(tls, patience), name="TLS handshake")

    async def _encrypt(self, tls: ssl.SSLContext, patience: float) -> None:
        reason = "TLS handshake failed: the connection broke off"
        spare = self._sock.dup()  # the event loop closes the socket after an error
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: self, self._sock, ssl=tls, ssl_handshake_timeout=patience
            )
        except ssl.SSLError as error:
            reason = f"TLS handshake failed: {error.reason or type(error).__name__}"
            if error.reason in _PLAIN_HTTP:
                reason = "plain HTTP was spoken to a TLS port"
                self._answer(spare)
        except OSError as error:
            failed = f"TLS handshake failed: {type(error).__name__}"
            reason = "closed to make room" if self.phase.over else failed
        finally:  # after a fault, too: it must not hold its seat
            spare.close()
            if not self._over:
                self._end(reason)
                self._sock.close()

    def _answer(self, caller: socket.socket) -> None:
        """Tells a caller that speaks plain HTTP."""
        with suppress(OSError):  # the caller has left already
            port = caller.getsockname()[1]
            self._server.strangers.warn("plain HTTP", "TLS", self.peer, port, self._server.time())
            caller.send(_USE_TLS)
            caller.shutdown(socket.SHUT_WR)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The handshake is complete: passes the transport to a `Connection`."""
        self._over = True
        self._server.seats.leave(self)
        if self.phase.over:
            transport.close()
            return
        protocol = self._server()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)

    def _end(self, reason: str) -> None:
        self._over = True
        self._server.seats.leave(self)
        _log.info("connection.refused", reason=reason, peer=self.peer.address)

    # What `Seats` calls, as for a `Connection`

    def make_room(self) -> None:
        """Ends the handshake to make room for another caller."""
        self.phase = step(self.phase, "end")
        with suppress(OSError):  # the caller has left already
            self._sock.shutdown(socket.SHUT_RDWR)

    close = make_room

    def cut(self, *, silent: bool) -> None:  # noqa: ARG002 -- no response was sent that could look complete
        self.make_room()

    def check(self, now: float) -> None:
        """Does nothing: the event loop enforces the time-out."""
