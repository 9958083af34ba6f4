"""Takes callers from a listening socket: all that wait, whenever some do."""

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final, Self

import structlog

from krebit_proxy.tasks import spawn

Take = Callable[[socket.socket], None]  # begins something with the socket of a caller

BACKLOG: Final = 1024  # callers that may wait
_AT_ONCE: Final = 64  # callers; those who are being served get their turn after so many
_PAUSE: Final = 1.0  # seconds after the system had no descriptor or memory left for a connection
_log: Final = structlog.get_logger()


class Serving:
    """Makes a connection of each caller, with a protocol of its own.

    The event loop takes callers, for it does so for less than we could. But libuv, and so uvloop, takes one in each
    turn, which may serve hundreds of requests: of a thousand callers that come together, the last would wait for a
    thousand such turns. So we take those that wait behind the one that it took.
    """

    def __init__(self, sock: socket.socket, protocol: Callable[[], asyncio.BaseProtocol]) -> None:
        self._sock = sock
        self._protocol = protocol
        self._loop = asyncio.get_running_loop()
        self._looking = False

    async def begin(self) -> Self:
        """Takes callers from now on."""
        # create_unix_server would remove the file of the socket when it closes, also where it is systemd's.
        self._server = await self._loop.create_server(self._arrived, sock=self._sock, backlog=BACKLOG)
        return self

    async def close(self) -> None:
        """Takes no more, and closes the socket."""
        self._server.close()

    def _arrived(self) -> asyncio.BaseProtocol:
        if not self._looking:
            self._looking = True
            self._loop.call_soon(self._take_others)
        return self._protocol()

    def _take_others(self) -> None:
        self._looking = False
        with suppress(OSError):  # there are none, or the loop will meet it too
            for caller in _waiting(self._sock):
                spawn(self._connect(caller), name="connection")

    async def _connect(self, caller: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._protocol, caller)
        except OSError:  # it left at once
            caller.close()


class Accepting:
    """Gives each caller's socket to `take`, from now on until it is closed."""

    def __init__(self, sock: socket.socket, take: Take) -> None:
        self._sock = sock
        self._take = take
        self._task = spawn(self._accept(), name="accept")

    async def close(self) -> None:
        """Takes no more. A socket that is open but not looked at would have callers wait for nothing: it is closed."""
        self._task.cancel()
        await asyncio.wait({self._task})
        self._sock.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                first, _ = await loop.sock_accept(self._sock)
                self._give(first)
                for caller in _waiting(self._sock):
                    self._give(caller)
                await asyncio.sleep(0)
            except ConnectionAbortedError:
                pass  # it left while it waited
            except OSError as error:
                _log.warning("connection.not_accepted", reason=error.strerror)
                await asyncio.sleep(_PAUSE)

    def _give(self, caller: socket.socket) -> None:
        try:
            self._take(caller)
        except Exception as error:  # whatever one caller leads to, the next one must get in
            _log.exception("connection.failed", error=type(error).__name__)
            caller.close()


def _waiting(sock: socket.socket) -> Iterator[socket.socket]:
    """The sockets of callers who wait at `sock`. Raises OSError, as its `accept` does."""
    with suppress(BlockingIOError):
        for _ in range(_AT_ONCE):
            caller, _address = sock.accept()
            caller.setblocking(False)
            yield caller
