"""The pool of connections to one origin, the exchanges on them, and all their time-outs."""

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from krebit_proxy.batches import Batches
from krebit_proxy.config import Settings
from krebit_proxy.errors import Refused
from krebit_proxy.tasks import spawn
from krebit_proxy.upstream.connect import Connector, Link
from krebit_proxy.upstream.exchange import Exchange

if TYPE_CHECKING:
    from collections.abc import Callable

# TLS handshakes at once. A thousand would block everything else for a second. Connections that become free meanwhile
# serve most of a burst sooner.
_DIALS: Final = 64
_LONGEST_INTERVAL: Final = 1.0  # seconds between checks; otherwise a tenth of the shortest time-out


class Upstream:
    """Opens exchanges with one origin.

    A request takes the idle connection that was used last. If there is none, it waits, and the pool makes a new one.
    The request that has waited longest gets the next connection, whether it is new or has become free.

    Raises SettingsError if `upstream.ca_file` is unusable.
    """

    def __init__(self, settings: Settings, batches: Batches | None = None) -> None:
        """`batches`: shared with other users on this loop. None: its own."""
        self.batches = batches or Batches()
        self.origin = settings.upstream_origin
        self.authority = urlsplit(self.origin).netloc.encode("ascii")
        self._connector = Connector(settings)
        self._times = times = settings.upstream
        shortest = min(times.connect_timeout, times.response_timeout, times.idle_timeout, times.keepalive)
        self._interval = min(shortest / 10, _LONGEST_INTERVAL)
        self._idle: list[Link] = []  # the most recently used last
        self._exchanges: set[Exchange] = set()
        self._waiting: OrderedDict[Exchange, float] = OrderedDict()  # -> since when, oldest first
        self._dials: set[asyncio.Task[None]] = set()  # tasks that make connections for them
        self._due = False  # whether `_dial_one` is scheduled
        self._look: asyncio.TimerHandle | None = None
        self._closed = False
        self.loop: asyncio.AbstractEventLoop  # set by the first `open`
        self.time: Callable[[], float]

    def open(
        self, head: bytes, *, method: str, content: int | None = 0, upgrade: bool = False, retry: bool = True
    ) -> Exchange:
        """Sends the head of a request, as soon as there is a connection.

        Await the exchange for the connection before you send content. Otherwise `Exchange.response` raises the error if
        connecting fails.

        Args:
            head: request line, fields and the blank line.
            method: the request's method.
            content: octets of content that will follow. None: chunked.
            upgrade: whether the head has an Upgrade field, so that a 101 is allowed.
            retry: whether an idempotent request is sent again after its connection proves stale.
        """
        if self._look is None:
            self.loop = asyncio.get_running_loop()
            self.time = self.loop.time
            self._look = self.loop.call_later(self._interval, self._look_around)
        exchange = Exchange(self, head, method, content, upgrade=upgrade, retry=retry)
        self._exchanges.add(exchange)
        link = self._take()
        if link is not None:
            exchange.start(link)
        else:
            self._waiting[exchange] = self.time()
            self._dial()
        return exchange

    def _dial(self) -> None:
        """Starts a connection if too few are under way. One in each turn of the loop, so that others get their turn."""
        if not self._due and len(self._dials) < min(len(self._waiting), _DIALS):
            self._due = True
            self.loop.call_soon(self._dial_one)

    def _dial_one(self) -> None:
        self._due = False
        task = spawn(self._connect(), name="upstream.connect")
        self._dials.add(task)
        task.add_done_callback(self._dialed)
        self._dial()

    def _dialed(self, task: asyncio.Task[None]) -> None:
        self._dials.discard(task)
        self._dial()

    async def _connect(self) -> None:
        """Connects, and gives the link, or the error, to the exchange that has waited longest."""
        try:
            link = await self.connect()
        except Refused as refused:
            if self._waiting:
                self._waiting.popitem(last=False)[0].abort(refused)
        else:
            self._offer(link)

    def _offer(self, link: Link) -> None:
        """Gives a free link to the next waiting exchange, or keeps it as idle."""
        if self._closed:
            link.close()
        elif self._waiting:
            if link.settle():
                self._waiting.popitem(last=False)[0].start(link)
        else:
            link.idle_since = self.time()
            self._idle.append(link)

    def _take(self) -> Link | None:
        """The idle link that was used last, because it is the least likely to be stale."""
        while self._idle:
            link = self._idle.pop()
            if self.time() - link.idle_since > self._times.keepalive:
                link.close()
            elif link.settle():
                return link
        return None

    def _look_around(self) -> None:
        """Enforces all time-outs. One timer for all, because one for each request would cost more than the rest."""
        now = self.time()
        for exchange in list(self._exchanges):
            exchange.check(now, self._times.response_timeout, self._times.idle_timeout)
        for exchange, since in list(self._waiting.items()):
            if now - since > self._times.connect_timeout:
                exchange.abort(self._connector.too_slow())
        expired = [link for link in self._idle if now - link.idle_since > self._times.keepalive]
        del self._idle[: len(expired)]  # the list begins with those that were idle longest
        for link in expired:
            link.close()
        busy = self._exchanges or self._idle
        self._look = self.loop.call_later(self._interval, self._look_around) if busy else None

    async def close(self) -> None:
        """Closes all connections. Open exchanges are aborted."""
        self._closed = True
        if self._look is not None:
            self._look.cancel()
        for dial in self._dials:
            dial.cancel()
        for exchange in list(self._exchanges):
            exchange.abort()
        while self._idle:
            self._idle.pop().close()

    def __repr__(self) -> str:
        return f"<Upstream {self.origin}: {len(self._exchanges)} active, {len(self._idle)} idle>"

    # Called by exchanges

    async def connect(self) -> Link:
        """A new link. Raises Refused(upstream_unreachable)."""
        return await self._connector.connect(self)

    def put_back(self, exchange: Exchange, link: Link) -> None:
        """Takes back the link of a complete exchange, for reuse."""
        self._exchanges.discard(exchange)
        link.owner = self
        if link.uses == 1:
            self._connector.remember(link)
        self._offer(link)

    def forget(self, exchange: Exchange) -> None:
        """Removes an exchange that has ended without a reusable link."""
        self._exchanges.discard(exchange)
        self._waiting.pop(exchange, None)

    # Called by idle links

    def received(self, link: Link, _data: memoryview | bytes) -> None:
        """Octets without a request. RFC 9112, 9.2: "message delimitation is now ambiguous"."""
        # "If a client receives data on a connection that doesn't have outstanding requests, the client MUST NOT
        # consider that data to be a valid response; the client SHOULD close the connection".
        self._discard(link)

    def flushed(self, link: Link) -> None:
        """An idle link has nothing to send."""

    def ended(self, link: Link, _error: Exception | None) -> None:
        """The upstream closed an idle connection, which it may do at any time."""
        self._discard(link)

    def _discard(self, link: Link) -> None:
        link.abort()
        if link in self._idle:
            self._idle.remove(link)
