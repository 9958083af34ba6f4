"""The pool of connections to one origin, the exchanges on them, and all their time-outs."""

import asyncio
import random
from collections import OrderedDict
from itertools import takewhile
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from krebit_proxy.batches import Batches
from krebit_proxy.config import Settings
from krebit_proxy.errors import Refused
from krebit_proxy.metrics import Metrics
from krebit_proxy.tasks import spawn
from krebit_proxy.upstream.clock import elapsed
from krebit_proxy.upstream.connect import Away, Connector, Link
from krebit_proxy.upstream.exchange import HELD, IDEMPOTENT, Exchange

if TYPE_CHECKING:
    from collections.abc import Callable

# TLS handshakes at once. A thousand would block everything else for a second. Connections that become free meanwhile
# serve most of a burst sooner.
_DIALS: Final = 64
_LONGEST_INTERVAL: Final = 1.0  # seconds between checks; otherwise a tenth of the shortest time-out
# Seconds until a request without any sign of life from the upstream is sent once more; a quarter of a short
# `response_timeout`.
_PATIENCE: Final = 3.0
# A request that must not be sent twice takes no connection that has been idle for longer, in seconds: it might be dead.
# Servers and NATs close or forget connections after 5 seconds at the earliest.
_TRUSTED_IDLE: Final = 5.0
# Seconds between attempts while the upstream is away: doubled each time.
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 1.5


class Upstream:
    """Opens exchanges with one origin.

    A request takes the idle connection that was used last. If there is none, it waits, and the pool makes a new one.
    The request that has waited longest gets the next connection, whether it is new or has become free.

    While the upstream is away, for example during a restart, requests wait for `upstream.connect_timeout` in all. One
    attempt at a time finds out whether it is back, however many wait.

    Raises SettingsError if `upstream.ca_file` is unusable.
    """

    def __init__(self, settings: Settings, batches: Batches | None = None, metrics: Metrics | None = None) -> None:
        """`batches`: shared with other users on this loop. `metrics`: counts retries. None: its own."""
        self.batches = batches or Batches()
        self.metrics = metrics or Metrics()
        self.origin = settings.upstream_origin
        self.authority = urlsplit(self.origin).netloc.encode("ascii")
        self._connector = Connector(settings)
        self._times = times = settings.upstream
        shortest = min(times.connect_timeout, times.response_timeout, times.idle_timeout, times.keepalive)
        self._interval = min(shortest / 10, _LONGEST_INTERVAL)
        self.patience = min(_PATIENCE, times.response_timeout / 4)
        self._idle: list[Link] = []  # the most recently used last
        self._exchanges: set[Exchange] = set()
        self._waiting: OrderedDict[Exchange, float] = OrderedDict()  # -> since when, oldest first
        self._retrying: OrderedDict[Exchange, float] = OrderedDict()  # the same; these need a new connection
        self._dials: set[asyncio.Task[None]] = set()  # tasks that make connections for them
        self._due = False  # whether `_dial_one` is scheduled
        self._away: Away | None = None  # why the last attempt failed, while the upstream is away
        self._pauses = 0  # since then
        self._pause: asyncio.TimerHandle | None = None  # until the next attempt
        self._clock = elapsed
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
        retry = retry and method in IDEMPOTENT
        exchange = Exchange(self, head, method, content, upgrade=upgrade, retry=retry)
        self._exchanges.add(exchange)
        link = self._take(retry and (content == 0 or (content is not None and content <= HELD)))
        if link is not None:
            exchange.start(link)
        else:
            self._waiting[exchange] = self.time()
            self._dial()
        return exchange

    def _dial(self) -> None:
        """Starts a connection if too few are under way. One in each turn of the loop, so that others get their turn."""
        most = _DIALS if self._away is None else 1
        if not self._due and self._pause is None and len(self._dials) < min(self._wanted, most):
            self._due = True
            self.loop.call_soon(self._dial_one)

    @property
    def _wanted(self) -> int:
        return len(self._waiting) + len(self._retrying)

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
            link = await self._connector.connect(self)
        except Away as away:
            self._wait(away)
        except Refused as refused:
            if self._retrying:
                self._retrying.popitem(last=False)[0].cannot_retry(refused)
            elif self._waiting:
                self._waiting.popitem(last=False)[0].abort(refused)
        else:
            self._back()
            self._offer(link)

    def _wait(self, away: Away) -> None:
        """Pauses before the next attempt."""
        self._away = away
        if self._pause is None and not self._closed:
            pause = min(_FIRST_PAUSE * 2**self._pauses, _LONGEST_PAUSE) * random.uniform(0.8, 1)
            self._pauses += 1
            self._pause = self.loop.call_later(pause, self._try_again)

    def _try_again(self) -> None:
        self._pause = None
        if not self._wanted:
            self._back()
        self._dial()

    def _back(self) -> None:
        """Forgets that the upstream was away."""
        self._away, self._pauses = None, 0
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None

    def _offer(self, link: Link) -> None:
        """Gives a free link to the next exchange that waits for it, or keeps it as idle."""
        if self._closed:
            link.close()
            return
        while self._retrying and not link.uses:
            if self._retrying.popitem(last=False)[0].start_again(link):
                return
        if self._waiting:
            if link.settle():
                self._waiting.popitem(last=False)[0].start(link)
        else:
            self._idle.append(link)

    def _take(self, retry: bool) -> Link | None:
        """The idle link that was used last, because it is the least likely to be stale.

        `retry`: whether the request may be sent once more if it is. If not, the link must have been used recently.
        """
        idle = self._idle
        if not idle:
            return None
        now = self._clock()
        keepalive = self._times.keepalive
        while idle:
            link = idle[-1]
            unused = now - link.idle_since
            if unused > _TRUSTED_IDLE and not retry:
                return None
            idle.pop()
            if unused > keepalive or now >= link.expires:
                link.close()
            elif link.settle():
                return link
        return None

    def _look_around(self) -> None:
        """Enforces all time-outs. One timer for all, because one for each request would cost more than the rest."""
        now = self.time()
        for exchange in list(self._exchanges):
            exchange.check(now, self._times.response_timeout, self._times.idle_timeout)
        for exchange in _overdue(self._waiting, now - self._times.connect_timeout):
            exchange.abort(self._connector.too_slow(self._away))
        for exchange in _overdue(self._retrying, now - self._times.connect_timeout):
            del self._retrying[exchange]
            exchange.cannot_retry(self._connector.too_slow(self._away))
        clock, keepalive = self._clock(), self._times.keepalive
        self._sort_out(lambda link: clock - link.idle_since > keepalive or clock >= link.expires)
        busy = self._exchanges or self._idle
        self._look = self.loop.call_later(self._interval, self._look_around) if busy else None

    def _sort_out(self, bad: "Callable[[Link], bool]") -> None:
        """Closes these idle links."""
        links, self._idle = self._idle, []
        for link in links:
            if bad(link):
                link.close()
            else:
                self._idle.append(link)

    async def close(self) -> None:
        """Closes all connections. Open exchanges are aborted."""
        self._closed = True
        if self._look is not None:
            self._look.cancel()
        self._back()
        for dial in self._dials:
            dial.cancel()
        for exchange in list(self._exchanges):
            exchange.abort()
        while self._idle:
            self._idle.pop().close()

    def __repr__(self) -> str:
        return f"<Upstream {self.origin}: {len(self._exchanges)} active, {len(self._idle)} idle>"

    # Called by exchanges

    def retry(self, exchange: Exchange) -> None:
        """Makes a new link for an exchange whose link is dead, or may be."""
        if exchange not in self._retrying:
            self._retrying[exchange] = self.time()
            self._dial()

    def distrust(self, before: float) -> None:
        """Closes the links that have been idle since before this moment: one of their age proved dead."""
        self._sort_out(lambda link: link.idle_since < before)

    def put_back(self, exchange: Exchange, link: Link) -> None:
        """Takes back the link of a complete exchange, for reuse."""
        self._exchanges.discard(exchange)
        if self._retrying:
            self._retrying.pop(exchange, None)
        link.owner = self
        if link.uses == 1:
            self._connector.remember(link)
        link.idle_since = now = self._clock()
        if now < link.expires:
            self._offer(link)
        else:
            link.close()

    def forget(self, exchange: Exchange) -> None:
        """Removes an exchange that has ended without a reusable link."""
        self._exchanges.discard(exchange)
        self._waiting.pop(exchange, None)
        self._retrying.pop(exchange, None)

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


def _overdue(waiting: "OrderedDict[Exchange, float]", before: float) -> list[Exchange]:
    """Those that have waited since before this moment."""
    return list(takewhile(lambda exchange: waiting[exchange] < before, waiting))
