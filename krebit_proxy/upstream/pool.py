"""The connections to one origin: who uses them, which are idle, and whose time is up."""

import asyncio
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from krebit_proxy.config import Settings
from krebit_proxy.turns import Turn
from krebit_proxy.upstream.connect import Connector
from krebit_proxy.upstream.exchange import Exchange
from krebit_proxy.upstream.link import Link

if TYPE_CHECKING:
    from collections.abc import Callable

_SLOWEST_LOOK: Final = 1.0  # seconds; deadlines are met to a tenth of themselves, or to this


class Upstream:
    """Opens exchanges with one origin, on idle connections where there are some. Raises SettingsError."""

    def __init__(self, settings: Settings, turn: Turn | None = None) -> None:
        """`turn` is that of the loop, where others use it too."""
        self.turn = turn or Turn()
        self.origin = settings.upstream_origin
        self.authority = urlsplit(self.origin).netloc.encode("ascii")
        self._connector = Connector(settings)
        upstream = settings.upstream
        self._response_timeout = upstream.response_timeout
        self._idle_timeout = upstream.idle_timeout
        self._keepalive = upstream.keepalive
        self._interval = min(
            upstream.response_timeout / 10, upstream.idle_timeout / 10, upstream.keepalive / 10, _SLOWEST_LOOK
        )
        self._idle: list[Link] = []  # the most recently used last
        self._exchanges: set[Exchange] = set()
        self._look: asyncio.TimerHandle | None = None
        self._closed = False
        self.loop: asyncio.AbstractEventLoop  # known with the first connection
        self.time: Callable[[], float]

    async def open(
        self, head: bytes, *, method: str, content: int | None = 0, upgrade: bool = False, retry: bool = True
    ) -> Exchange:
        """Sends a request's head on an idle connection or a new one.

        Args:
            head: request line and fields, with the blank line, ready to be sent.
            method: the request's method.
            content: octets that `send` will bring; 0 is none, None: chunked.
            upgrade: whether the head asks for another protocol, so that a 101 may come.
            retry: whether an idempotent request may be sent again when its connection turns out to be stale.

        Raises:
            Refused: upstream_unreachable.
        """
        link = self._take() or await self.connect()
        return self._begin(link, head, method, content, upgrade=upgrade, retry=retry)

    def open_nowait(self, head: bytes, *, method: str) -> Exchange | None:
        """The same for a request without content, on an idle connection. None when there is none: await `open`."""
        link = self._take()
        return self._begin(link, head, method, 0, upgrade=False, retry=True) if link is not None else None

    def _begin(
        self, link: Link, head: bytes, method: str, content: int | None, *, upgrade: bool, retry: bool
    ) -> Exchange:
        exchange = Exchange(self, link, head, method, content, upgrade=upgrade, retry=retry)
        self._exchanges.add(exchange)
        if self._look is None:
            self._look = self.loop.call_later(self._interval, self._look_around)
        return exchange

    def _take(self) -> Link | None:
        """The idle link that was used last: it is the least likely to be stale."""
        while self._idle:
            link = self._idle.pop()
            if self.time() - link.idle_since > self._keepalive:
                link.close()
            elif link.settle():
                return link
        return None

    def _look_around(self) -> None:
        """Ends what is over its time. One timer for all: a timer for each request would cost more than the rest."""
        now = self.time()
        for exchange in list(self._exchanges):
            exchange.check(now, self._response_timeout, self._idle_timeout)
        expired = [link for link in self._idle if now - link.idle_since > self._keepalive]
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
        for exchange in list(self._exchanges):
            exchange.abort()
        while self._idle:
            self._idle.pop().close()

    def __repr__(self) -> str:
        return f"<Upstream {self.origin}: {len(self._exchanges)} active, {len(self._idle)} idle>"

    # What exchanges call

    async def connect(self) -> Link:
        """A new link. Raises Refused(upstream_unreachable)."""
        self.loop = asyncio.get_running_loop()
        self.time = self.loop.time
        return await self._connector.connect(self)

    def put_back(self, exchange: Exchange, link: Link) -> None:
        """An exchange is complete, and its link may carry another one."""
        self._exchanges.discard(exchange)
        link.owner = self
        if link.uses == 1:
            self._connector.remember(link)
        if self._closed:
            link.close()
            return
        link.idle_since = self.time()
        self._idle.append(link)

    def forget(self, exchange: Exchange) -> None:
        """An exchange is over, and its link too."""
        self._exchanges.discard(exchange)

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
