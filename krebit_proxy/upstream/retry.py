"""The one retry of a request, on a fresh link, while the first link may still answer.

A connection that died without a word looks like a slow server. So the first link is not cut when the retry begins:
whichever link brings an octet of the response first serves the exchange, and the other one is cut.
"""

from typing import TYPE_CHECKING

from krebit_proxy.upstream.clock import elapsed
from krebit_proxy.upstream.connect import Link

if TYPE_CHECKING:
    from krebit_proxy.upstream.exchange import Exchange


class Retry:
    """The owner of both links until the first octet of a response, or until only the first link is left."""

    __slots__ = ("_exchange", "_first", "_second", "_since")

    def __init__(self, exchange: "Exchange", first: Link | None, second: Link) -> None:
        """`first`: None if it has ended."""
        self._exchange = exchange
        self._first = first
        self._second = second
        self._since = elapsed()
        if first is not None:
            first.owner = self
        second.owner = self

    def received(self, link: Link, data: memoryview | bytes) -> None:
        """The first octets of the response decide."""
        if link is self._second:
            if self._first is not None:
                self._first.abort()
            self._exchange.settle(link, "done", silent_since=None if self._first is None else self._since)
        else:
            self._second.abort()
            self._exchange.settle(link, "first_answered")
        self._exchange.received(link, data)

    def flushed(self, link: Link) -> None:
        if link is self._second:
            self._exchange.flushed(link)

    def ended(self, link: Link, error: Exception | None) -> None:
        """A link ended without a response. The other one may still bring it."""
        if link is not self._second:
            self._first = None
        elif self._first is not None:
            self._exchange.settle(self._first, "failed")
        else:
            self._exchange.settle(link, "failed")
            self._exchange.ended(link, error)

    def cut(self) -> None:
        """Cuts both links."""
        self._second.abort()
        if self._first is not None:
            self._first.abort()
