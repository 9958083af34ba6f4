"""Who is connected: how many there may be, who makes room for whom, and one clock for all of them."""

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import structlog

if TYPE_CHECKING:
    from krebit_proxy.web.connection import Connection
    from krebit_proxy.web.handshake import Handshake

_CUT: Final = 1.0  # seconds for connections that were cut to end
_log: Final = structlog.get_logger()


class Seats:
    """The connections of all callers, TLS handshakes included, in the order in which they came.

    Those that are over do not count, but wait for their callers, who may let them wait: there may be as many of them.
    """

    def __init__(self, limit: int, interval: float) -> None:
        """`limit`: connections at once. `interval`: seconds between two looks at their deadlines."""
        self._limit = limit
        self._interval = interval
        self._loop = asyncio.get_running_loop()
        self._taken: dict[Connection | Handshake, None] = {}
        self._leaving: set[Connection | Handshake] = set()
        self._vacated = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    def all(self) -> "list[Connection | Handshake]":
        """Who is connected now."""
        return list(self._taken)

    def take(self, connection: "Connection | Handshake") -> bool:
        """A caller connected. False: there is no room for it, though it stays until it is closed."""
        self._taken[connection] = None
        self._vacated.clear()
        if self._timer is None:
            self._look()
        peer, limit = connection.peer, self._limit
        if not peer.loopback and sum(other.peer.site == peer.site for other in self._taken) > limit // 2:
            return False
        if len(self._taken) <= limit:
            return True
        if len(self._taken) > 2 * limit:
            next((other for other in self._taken if other.phase.over), connection).cut(silent=True)
        others = [other for other in self._taken if not other.phase.over and other is not connection]
        return len(others) < limit or self._make_room(others)

    def _make_room(self, others: "list[Connection | Handshake]") -> bool:
        now = self._loop.time()
        candidates = [other for other in others if other.phase.turn and now - other.since >= other.phase.spared]
        if candidates:
            min(candidates, key=lambda other: (other.phase.turn, other.since)).make_room()
        return bool(candidates)

    def leave(self, connection: "Connection | Handshake") -> None:
        """A connection is gone."""
        del self._taken[connection]
        if not self._taken:
            self._vacated.set()

    def admit_anew(self) -> None:
        """Ends each TLS connection of now once it is idle, so that its caller must show a certificate again."""
        self._leaving |= {connection for connection in self._taken if connection.peer.scheme == b"https"}

    def _look(self) -> None:
        """One timer for all connections: a timer for each request would cost more than the rest."""
        now = self._loop.time()
        for connection in self.all():
            try:
                connection.check(now)
            except Exception as error:  # the deadlines of the others must hold
                connection.cut(silent=True)
                _log.error("connection.failed", error=type(error).__name__, exc_info=error)
        self._leaving &= self._taken.keys()
        for connection in list(self._leaving):
            connection.close()
        self._timer = self._loop.call_later(self._interval, self._look) if self._taken else None

    async def vacate(self, timeout: float | None) -> None:
        """Closes what is idle, waits `timeout` seconds for the others, then cuts them so that their callers see it."""
        tasks = {connection.task for connection in self._taken if connection.task is not None}
        for connection in self.all():
            connection.close()
        await self._vacant(timeout)
        for connection in self.all():
            connection.cut(silent=True)
        await self._vacant(_CUT)
        if tasks:
            await asyncio.wait(tasks, timeout=_CUT)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _vacant(self, timeout: float | None) -> None:
        if self._taken:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._vacated.wait(), timeout)
