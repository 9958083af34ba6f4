"""Takes callers from a listening socket: all that wait, whenever some do.

libuv, and so uvloop, takes one in each turn of the event loop. A turn may serve hundreds of requests: of a thousand
callers that come together, the last would wait for a thousand such turns.
"""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import structlog

from krebit_proxy.tasks import spawn

Take = Callable[[socket.socket], None]  # begins a connection, or a handshake, on the socket of a caller

_AT_ONCE: Final = 64  # callers; those who are being served get their turn after so many
_PAUSE: Final = 1.0  # seconds after the system had no descriptor or memory left for a connection
_log: Final = structlog.get_logger()


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
                self._give(*await loop.sock_accept(self._sock))
                with suppress(BlockingIOError):
                    for _ in range(_AT_ONCE):
                        self._give(*self._sock.accept())
                    await asyncio.sleep(0)
            except ConnectionAbortedError:
                pass  # it left while it waited
            except OSError as error:
                _log.warning("connection.not_accepted", reason=error.strerror)
                await asyncio.sleep(_PAUSE)

    def _give(self, caller: socket.socket, _address: object) -> None:
        try:
            caller.setblocking(False)
            self._take(caller)
        except Exception as error:  # noqa: BLE001 -- whatever one caller leads to, the next one must get in
            _log.exception("connection.failed", error=type(error).__name__)
            caller.close()


def connecting(protocol: Callable[[], asyncio.BaseProtocol]) -> Take:
    """Begins a connection on each socket, with a protocol of its own."""

    async def connect(caller: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(protocol, caller)
        except OSError:  # it left at once
            caller.close()

    def take(caller: socket.socket) -> None:
        spawn(connect(caller), name="connection")

    return take
