"""The connections of all callers: their limit, which of them make room for others, and one timer for all deadlines."""

import asyncio
import ctypes
import sys
from collections import Counter
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Final

import structlog

from krebit_proxy.core.connection import CLOSING, IDLE, STANDING

if TYPE_CHECKING:
    from krebit_proxy.web.connection import Connection
    from krebit_proxy.web.handshake import Handshake

STANDING_ROOM: Final = 256  # more callers than the event loop accepts until it has read what the first one asks
_CUT: Final = 1.0  # seconds that cut connections get to end
_CROWD: Final = 100  # connections that leave much free memory behind
_log: Final = structlog.get_logger()


class Seats:
    """The connections of all callers, TLS handshakes included, oldest first.

    - `limit` connections may be open at once. At the limit, one that is idle or too slow makes room for a new one, by
      `ConnectionPhase.turn`. If none can, the new one gets an error.
    - Connections that only wait for their caller to close do not count. There may be `limit` of them on top.
    - One remote site (`Peer.site`) may take as many seats as remote sites leave free: half of the limit if it is alone,
      a quarter if another one has half. So whoever has two addresses cannot keep out a third one. Beyond its share, its
      new connections make room for each other.
    - All remote sites together leave an eighth to this computer.
    - Callers of this computer without a seat may stand for a moment: `/healthz` is answered nevertheless.
    """

    def __init__(self, limit: int, interval: float) -> None:
        """`limit`: connections at once. `interval`: seconds between two checks of the deadlines."""
        self._limit = limit
        self._interval = interval
        self._loop = asyncio.get_running_loop()
        self._taken: dict[Connection | Handshake, None] = {}
        self._sites: Counter[str] = Counter()  # of remote connections
        self._leaving: set[Connection | Handshake] = set()
        self._vacated = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._crowd = 0  # the most connections since memory was given back

    def all(self) -> "list[Connection | Handshake]":
        return list(self._taken)

    def take(self, connection: "Connection | Handshake") -> bool:
        """Adds a connection, and makes room if necessary. False: no room, so refuse it. It stays until `leave`."""
        self._taken[connection] = None
        self._vacated.clear()
        if self._timer is None:
            self._look()
        local, limit = connection.peer.loopback, self._limit
        if not local:
            self._sites[connection.peer.site] += 1
        if len(self._taken) > limit:
            over = [other for other in self._taken if other.phase.over]
            if len(over) > limit:
                # A response may still be on its way in CLOSING. Who is LINGERING has had it for a while.
                min(over, key=lambda other: (other.phase is CLOSING, other.since)).cut(silent=True)
        if not local and not self._has_share(connection):
            return False
        if len(self._taken) <= limit:
            return True
        others = [other for other in self._taken if other.phase.seated and other is not connection]
        return len(others) < limit or self._make_room(others)

    def _has_share(self, connection: "Connection | Handshake") -> bool:
        """Whether its site may take one more seat. If too few would be left, another remote one makes room."""
        site = connection.peer.site
        if self._is_fair(self._sites[site], self._sites.total()):  # even with those that are leaving
            return True
        remote = [other for other in self._taken if other.phase.seated and not other.peer.loopback]
        sites = Counter(other.peer.site for other in remote)
        mine = sites[site]
        if self._is_fair(mine, len(remote)):
            return True
        others = [other for other in remote if other is not connection]
        larger = [other for other in others if sites[other.peer.site] >= mine]
        return self._make_room(larger) or self._make_room([o for o in others if o.phase.turn <= IDLE.turn])

    def _is_fair(self, mine: int, remote: int) -> bool:
        """Whether a site may have `mine` seats while all remote sites have `remote`."""
        limit = self._limit
        return mine + remote <= limit and remote <= limit - limit // 8

    def squeeze(self) -> None:
        """If too many stand, refuses the one that has stood longest: a probe does not take long to ask."""
        standing = [other for other in self._taken if other.phase is STANDING]
        if len(standing) > STANDING_ROOM:
            standing[0].make_room()

    def _make_room(self, others: "list[Connection | Handshake]") -> bool:
        now = monotonic()
        candidates = [other for other in others if other.phase.turn and now - other.since >= other.phase.spared]
        grown = [other for other in candidates if now - other.since >= other.phase.young]
        if grown:
            min(grown, key=lambda other: (other.phase.turn, other.since)).make_room()
        elif candidates:
            candidates[0].make_room()  # who came first had the most time to ask
        return bool(candidates)

    def leave(self, connection: "Connection | Handshake") -> None:
        if connection not in self._taken:
            return  # it failed before it had a place
        del self._taken[connection]
        if not connection.peer.loopback:
            site = connection.peer.site
            self._sites[site] -= 1
            if self._sites[site] <= 0:
                del self._sites[site]
        if not self._taken:
            self._vacated.set()

    def admit_anew(self) -> None:
        """Closes each current TLS connection once it is idle, so that its caller must show a certificate again."""
        self._leaving |= {connection for connection in self._taken if connection.peer.scheme == b"https"}

    def _look(self) -> None:
        """Checks all deadlines. One timer is enough: one for each request would cost more than all other work on it."""
        now = monotonic()
        self._timer = self._loop.call_later(self._interval, self._look) if self._taken else None
        for connection in self.all():
            try:
                connection.check(now)
            except Exception as error:  # the other connections must keep their deadlines
                connection.cut(silent=True)
                _log.error("connection.failed", error=type(error).__name__, exc_info=error)
        self._crowd = max(self._crowd, len(self._taken))
        if self._crowd >= _CROWD and len(self._taken) < self._crowd // 4:
            self._crowd = 0
            _give_memory_back()
        self._leaving &= self._taken.keys()
        for connection in list(self._leaving):
            connection.close()

    async def vacate(self, timeout: float | None) -> None:
        """Closes idle connections, waits `timeout` seconds for the others, then cuts them, visibly for the callers."""
        tasks = {connection.task for connection in self._taken if connection.task is not None}
        for connection in self.all():
            connection.close()
        await self.empty(timeout)
        for connection in self.all():
            connection.cut(silent=True)
        await self.empty(_CUT)
        if tasks:
            await asyncio.wait(tasks, timeout=_CUT)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def empty(self, timeout: float | None) -> None:
        """Waits until there is no connection, `timeout` seconds at most."""
        if self._taken:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._vacated.wait(), timeout)


def _give_memory_back() -> None:
    """Gives free memory back to the system, which glibc does not do by itself if a little of it is still in use."""
    if sys.platform == "linux":
        with suppress(AttributeError):  # another libc
            ctypes.CDLL(None).malloc_trim(0)
