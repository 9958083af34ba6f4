"""Accepts connections on a listening socket: all that wait, not one in each turn of the event loop.

`Serving` makes a connection of each (plain HTTP). `Accepting` hands out bare sockets, for TLS: see `web.handshake`.
"""

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final, Self

import structlog

from krebit_proxy.tasks import spawn

Take = Callable[[socket.socket], None]  # gets the socket of a new caller

BACKLOG: Final = 1024  # callers that may wait to be accepted
_AT_ONCE: Final = 64  # callers accepted in a row, before the connected ones get their turn
_PAUSE: Final = 1.0  # seconds to wait when the system has no descriptor or memory left for a connection
_log: Final = structlog.get_logger()


class Serving:
    """Gives each caller a connection and a protocol of its own.

    The event loop accepts, because that is cheaper than in Python. But libuv, and so uvloop, accepts one caller in each
    turn, and a turn may serve hundreds of requests. Of a thousand callers that come together, the last would wait for a
    thousand turns. So after each caller that the loop accepts, we accept the others that wait.
    """

    def __init__(
        self, sock: socket.socket, protocol: Callable[[], asyncio.BaseProtocol], *, inherited: bool = False
    ) -> None:
        self._sock = sock
        self._inherited = inherited
        self._protocol = protocol
        self._loop = asyncio.get_running_loop()
        self._looking = False

    async def begin(self) -> Self:
        # create_unix_server would remove the file of the socket on close, even if systemd owns it.
        self._server = await self._loop.create_server(self._arrived, sock=self._sock, backlog=BACKLOG)
        return self

    async def close(self) -> None:
        """Stops. Callers that wait in the backlog of a socket of ours get a connection: closing would reset them.

        On an inherited socket, they wait for the next process.
        """
        if not self._inherited:
            self._take_others(BACKLOG)
        self._server.close()

    def _arrived(self) -> asyncio.BaseProtocol:
        if not self._looking:
            self._looking = True
            self._loop.call_soon(self._take_others)
        return self._protocol()

    def _take_others(self, most: int = _AT_ONCE) -> None:
        self._looking = False
        with suppress(OSError):  # if the error lasts, the loop reports it
            for caller in _waiting(self._sock, most):
                spawn(self._connect(caller), name="connection")

    async def _connect(self, caller: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._protocol, caller)
        except OSError:  # the caller left at once
            caller.close()


class Accepting:
    """Gives each caller's socket to `take`, until `close`."""

    def __init__(self, sock: socket.socket, take: Take, *, inherited: bool = False) -> None:
        self._sock = sock
        self._inherited = inherited
        self._take = take
        self._task = spawn(self._accept(), name="accept")

    async def close(self) -> None:
        """Stops, as `Serving.close`, and closes the socket: on an open one, callers would wait for nothing."""
        self._task.cancel()
        await asyncio.wait({self._task})
        with suppress(OSError):
            for caller in [] if self._inherited else _waiting(self._sock, BACKLOG):
                self._give(caller)
        self._sock.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                first, _ = await loop.sock_accept(self._sock)
                self._give(first)
                for caller in _waiting(self._sock, _AT_ONCE):
                    self._give(caller)
                await asyncio.sleep(0)
            except ConnectionAbortedError:
                pass  # the caller left while it waited
            except OSError as error:
                _log.warning("connection.not_accepted", reason=error.strerror)
                await asyncio.sleep(_PAUSE)

    def _give(self, caller: socket.socket) -> None:
        try:
            self._take(caller)
        except Exception as error:  # a fault with one caller must not keep out the next one
            _log.exception("connection.failed", error=type(error).__name__)
            caller.close()


def _waiting(sock: socket.socket, most: int) -> Iterator[socket.socket]:
    """Accepts callers that wait, `most` at most. Raises OSError."""
    with suppress(BlockingIOError):
        for _ in range(most):
            caller, _address = sock.accept()
            caller.setblocking(False)
            yield caller
