"""TLS handshakes of callers, which count against the limits of connections from the first moment on.

An event loop that accepts for us tells of a connection when its handshake is over. So whoever never sends one would
hold a connection that nobody counts, and nothing but a minute's timeout ends.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import structlog

from krebit_proxy.core.connection import HANDSHAKE, step
from krebit_proxy.tasks import spawn
from krebit_proxy.web.accept import Take

if TYPE_CHECKING:
    from krebit_proxy.web.server import Server

_log: Final = structlog.get_logger()


def handshaking(server: "Server", context: Callable[[], ssl.SSLContext], patience: float) -> Take:
    """Begins a handshake on each socket, with what `context` gives by then; `patience`: seconds that it may take."""

    def take(caller: socket.socket) -> None:
        """Begins the handshake of one caller."""
        Handshake(caller, server).begin(context(), patience)

    return take


class Handshake(asyncio.Protocol):
    """A connection until it is encrypted: the first phase of one that speaks TLS."""

    def __init__(self, sock: socket.socket, server: "Server") -> None:
        self._sock = sock
        self._server = server
        self._over = False
        try:
            remote, local = sock.getpeername()[0], sock.getsockname()[0]
        except OSError:  # it left at once
            remote = local = "::"
        self.peer = server.rules.peer(remote, local, scheme=b"https")
        self.phase = HANDSHAKE
        self.since = server.time()
        self.task: asyncio.Task[None] | None = None

    def begin(self, tls: ssl.SSLContext, patience: float) -> None:
        """Encrypts the connection within `patience` seconds, if there is room for it."""
        if self._server.seats.take(self):
            self.task = spawn(self._encrypt(tls, patience), name="TLS handshake")
        else:
            self._end("all connections are busy")
            self._sock.close()

    async def _encrypt(self, tls: ssl.SSLContext, patience: float) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: self, self._sock, ssl=tls, ssl_handshake_timeout=patience
            )
        except OSError as error:
            reason = "it made room" if self.phase.over else f"no TLS: {type(error).__name__}"
        else:
            reason = "no TLS: it was broken off"
        if not self._over:
            self._end(reason)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is encrypted, and goes on with a protocol of the server."""
        self._over = True
        self._server.seats.leave(self)
        if self._server.draining:
            transport.close()
            return
        protocol = self._server()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)

    def _end(self, reason: str) -> None:
        self._over = True
        self._server.seats.leave(self)
        _log.info("connection.refused", reason=reason, peer=self.peer.address)

    # What the server asks of a connection

    def make_room(self) -> None:
        """Ends it for the sake of another caller."""
        self.phase = step(self.phase, "end")
        with suppress(OSError):  # it is gone already
            self._sock.shutdown(socket.SHUT_RDWR)

    close = make_room

    def cut(self, *, silent: bool) -> None:  # noqa: ARG002 -- nothing was sent that could look complete
        """Ends it."""
        self.make_room()

    def check(self, now: float) -> None:
        """The event loop looks after its time."""
