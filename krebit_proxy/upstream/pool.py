"""The connections to one origin: who uses them, which are idle, and whose time is up."""

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

# TLS handshakes at once. A thousand would take a second of the CPU in which nothing else gets done; most of a burst is
# served sooner by the connections that become free meanwhile.
_DIALS: Final = 64
_SLOWEST_LOOK: Final = 1.0  # seconds; deadlines are met to a tenth of themselves, or to this


class Upstream:
    """Opens exchanges with one origin, on idle connections where there are some. Raises SettingsError."""

    def __init__(self, settings: Settings, batches: Batches | None = None) -> None:
        """`batches` is that of the loop, where others use it too."""
        self.batches = batches or Batches()
        self.origin = settings.upstream_origin
        self.authority = urlsplit(self.origin).netloc.encode("ascii")
        self._connector = Connector(settings)
        self._times = times = settings.upstream
        shortest = min(times.connect_timeout, times.response_timeout, times.idle_timeout, times.keepalive)
        self._interval = min(shortest / 10, _SLOWEST_LOOK)
        self._idle: list[Link] = []  # the most recently used last
        self._exchanges: set[Exchange] = set()
        self._waiting: OrderedDict[Exchange, float] = OrderedDict()  # for a link, since when; the longest first
        self._dials: set[asyncio.Task[None]] = set()  # that make links for them
        self._due = False  # the next of those
        self._look: asyncio.TimerHandle | None = None
        self._closed = False
        self.loop: asyncio.AbstractEventLoop  # known with the first exchange
        self.time: Callable[[], float]

    def open(
        self, head: bytes, *, method: str, content: int | None = 0, upgrade: bool = False, retry: bool = True
    ) -> Exchange:
        """Sends a request's head on an idle connection, or on the first that becomes free or is made.

        Before there is a connection, no content may be sent: await the exchange for one. Without that, a failure to
        connect is what `Exchange.response` raises.

        Args:
            head: request line and fields, with the blank line, ready to be sent.
            method: the request's method.
            content: octets that `send` will bring; 0 is none, None: chunked.
            upgrade: whether the head asks for another protocol, so that a 101 may come.
            retry: whether an idempotent request may be sent again when its connection turns out to be stale.
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
        """Has a link made, if too few are: one in each turn of the loop, for the turn of a busy one is long."""
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
        """A new link for whoever has waited longest by then."""
        try:
            link = await self.connect()
        except Refused as refused:
            if self._waiting:
                self._waiting.popitem(last=False)[0].abort(refused)
        else:
            self._offer(link)

    def _offer(self, link: Link) -> None:
        """Has the next request sent on a link that nobody uses, or keeps it."""
        if self._closed:
            link.close()
        elif self._waiting:
            if link.settle():
                self._waiting.popitem(last=False)[0].start(link)
        else:
            link.idle_since = self.time()
            self._idle.append(link)

    def _take(self) -> Link | None:
        """The idle link that was used last: it is the least likely to be stale."""
        while self._idle:
            link = self._idle.pop()
            if self.time() - link.idle_since > self._times.keepalive:
                link.close()
            elif link.settle():
                return link
        return None

    def _look_around(self) -> None:
        """Ends what is over its time. One timer for all: a timer for each request would cost more than the rest."""
        now = self.time()
        for exchange in list(self._exchanges):
            exchange.check(now, self._times.response_timeout, self._times.idle_timeout)
        for exchange, since in list(self._waiting.items()):
            if now - since > self._times.connect_timeout:
                exchange.abort(self._connector.too_slow())
        expired = [link for link in self._idle if now - link.idle_since > self._times.keepalive]
        del self._idle[: len(expired)]  # the longest idle come first
        for link in expired:
            link.close()
        busy = self._exchanges or self._idle
        self._look = self.loop.call_later(self._interval, self._look_around) if busy else None

    async def close(self) -> None:
        """Ends every connection; exchanges that are still open break off."""
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

    # What exchanges call

    async def connect(self) -> Link:
        """A new link. Raises Refused(upstream_unreachable)."""
        return await self._connector.connect(self)

    def put_back(self, exchange: Exchange, link: Link) -> None:
        """An exchange is complete, and its link may carry another one."""
        self._exchanges.discard(exchange)
        link.owner = self
        if link.uses == 1:
            self._connector.remember(link)
        self._offer(link)

    def forget(self, exchange: Exchange) -> None:
        """An exchange is over, and its link too."""
        self._exchanges.discard(exchange)
        self._waiting.pop(exchange, None)

    # What idle links call

    def received(self, link: Link, _data: memoryview | bytes) -> None:
        """Octets that nobody asked for: RFC 9112, 9.2: "message delimitation is now ambiguous"."""
        # "If a client receives data on a connection that doesn't have outstanding requests, the client MUST NOT
        # consider that data to be a valid response; the client SHOULD close the connection".
        self._discard(link)

    def flushed(self, link: Link) -> None:
        """An idle link has nothing to send."""

    def ended(self, link: Link, _error: Exception | None) -> None:
        """The upstream closed an idle connection, as it may."""
        self._discard(link)

    def _discard(self, link: Link) -> None:
        link.abort()
        if link in self._idle:
            self._idle.remove(link)
