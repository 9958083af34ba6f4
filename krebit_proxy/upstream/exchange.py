"""One request and its response on a link.

Everything that the network does arrives through `received`, `flushed` and `ended`, called by the link; everything that
the caller does are the public methods. Between them stand two waiters at most: one for news of the response, one until
more of the request's content can be taken.
"""

from collections.abc import Callable, Generator
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self

from krebit_proxy.batches import SEND
from krebit_proxy.errors import Refused
from krebit_proxy.tasks import spawn
from krebit_proxy.upstream.connect import Link
from krebit_proxy.upstream.link import LOW_WATER
from krebit_proxy.upstream.response import InvalidResponse, Response, ResponseHead

if TYPE_CHECKING:
    import asyncio

    from krebit_proxy.upstream.pool import Upstream

HIGH_WATER: Final = 256 << 10  # octets, each way, above which the quicker side waits
HELD: Final = 64 << 10  # octets of content kept for the one retry

# RFC 9110, 9.2.2: "PUT, DELETE, and safe request methods are idempotent", and "A proxy MUST NOT automatically retry
# non-idempotent requests".
IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})


class UpstreamBroken(Exception):
    """The transfer broke off after the response head was returned."""


class Exchange:
    """One request and its response. Made by `Upstream.open`; ended by `release` or `abort`, in every case."""

    __slots__ = ("_answered", "_drainer", "_error", "_finished", "_head", "_held", "_left", "_link", "_pool",
                 "_response", "_since", "_untaken", "_waiter")  # fmt: skip

    def __init__(
        self, pool: "Upstream", head: bytes, method: str, content: int | None, *, upgrade: bool, retry: bool
    ) -> None:
        self._pool = pool
        self._link: Link | None = None  # None while it waits for one
        self._left = content  # octets of the request's content to come; None: chunked
        self._finished = content == 0
        self._head = head  # not sent yet: goes with the first content in one write
        # What was sent, as long as all of it may be sent once more.
        self._held: bytes | bytearray | None = b"" if retry and method in IDEMPOTENT else None
        self._response = Response(method, upgrade=upgrade)
        self._error: Exception | None = None
        self._answered = False  # the head has been returned
        self._waiter: Callable[[], None] | None = None
        self._drainer: asyncio.Future[None] | None = None
        self._since = 0.0  # the last movement; while only the response is waited for: the end of the request
        self._untaken = 0  # by the upstream, of what was sent, when that was looked at last

    def start(self, link: Link) -> None:
        """Sends the request on `link`."""
        self._link = link
        if not link.uses:
            self._held = None  # a new connection is not stale
        elif self._held is not None:
            self._held = self._head
        link.owner = self
        link.uses += 1
        self._since = self._pool.time()
        self._pool.batches.do(SEND, Exchange._flush_head, self)
        self._wake_drainer()

    def __await__(self) -> Generator[Any, None, Self]:
        """The exchange, once it has a connection. Raises Refused: upstream_unreachable; it is over then."""
        try:
            while self._link is None and self._error is None:
                yield from self._progress().__await__()
        except BaseException:
            self.abort()
            raise
        if self._error is not None:
            raise self._error
        return self

    def _flush_head(self) -> None:
        if self._head and self._link is not None:
            head, self._head = self._head, b""
            self._link.write(head)

    # The request

    def send(self, data: bytes) -> None:
        """Sends request content; chunks are framed here. Buffers what does not go at once: call `drain`.

        Raises ValueError for more than the Content-Length said.
        """
        if not data:
            return
        if self._response.head is not None and self._response.head.status == 101:
            pass
        elif self._left is None:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        else:
            self._left -= len(data)
            if self._left < 0:
                self.abort()
                raise ValueError("more content than the Content-Length of the request")
        self._write(data)

    def finish(self) -> None:
        """The request's content is complete. Raises ValueError when it is shorter than its Content-Length."""
        if self._finished:
            return
        if self._left:
            self.abort()
            raise ValueError("less content than the Content-Length of the request")
        self._finished = True
        if self._left is None:
            self._write(b"0\r\n\r\n")
        self._since = self._pool.time()

    def _write(self, data: bytes) -> None:
        self._since = self._pool.time()
        if self._held is not None:
            if isinstance(self._held, bytes):
                self._held = bytearray(self._held)
            self._held += data
            if self._link is not None and len(self._held) > HELD:
                self._held = None
        if self._link is None:
            return
        if self._head:
            data, self._head = self._head + data, b""
        self._link.write(data)

    async def drain(self) -> None:
        """Waits until the upstream has taken most of what was sent.

        Raises UpstreamBroken when it takes no more: then stop sending, and ask `response`.
        """
        while True:
            if self._error is not None or self._response.done or (self._link is not None and self._link.closed):
                raise UpstreamBroken("the upstream takes no more content")
            if self._link is not None and self._link.buffered <= HIGH_WATER:
                return
            await self._progress()

    async def _progress(self) -> None:
        """Waits until there is a link, or it has taken something, or there is nothing to wait for any more."""
        self._drainer = self._pool.loop.create_future()
        try:
            await self._drainer
        finally:
            self._drainer = None

    # The response

    async def response(self) -> ResponseHead:
        """The final head; earlier than the request's content ends if the upstream answers early.

        Raises Refused: upstream_invalid, upstream_timeout or upstream_unreachable. The exchange is over then.
        """
        if self._head:
            self._flush_head()
        while self._error is None:
            if (head := self._response.head) is not None:
                self._answered = True
                return head
            await self._news()
        raise self._error

    async def continued(self, timeout: float) -> bool:
        """Waits `timeout` seconds at most for the upstream's word to a request with `Expect: 100-continue`.

        True: send the content, because 100 (Continue) came or nothing did. False: `response` has the outcome.
        """
        self._flush_head()
        response = self._response
        deadline = self._pool.loop.call_later(timeout, self._wake)
        due = self._pool.time() + timeout
        try:
            while not response.continued and response.head is None and self._error is None and self._pool.time() < due:
                await self._news()
        finally:
            deadline.cancel()
        return response.head is None and self._error is None

    def read_nowait(self) -> bytes | None:
        """Content at hand; b"" at its complete end; None when there is nothing yet: await `read`."""
        response = self._response
        if response.buffered:
            self._since = self._pool.time()
            if response.buffered >= HIGH_WATER and self._link is not None:
                self._link.resume()
            return response.take()
        if response.done:
            return b""
        if self._error is not None:
            raise self._error
        return None

    async def read(self) -> bytes:
        """The next content, b"" at its complete end. Raises UpstreamBroken when the response broke off."""
        while (data := self.read_nowait()) is None:
            await self._news()
        return data

    def whole(self, most: int) -> ResponseHead | None:
        """The head of a response that is all there, with `most` octets of content; else None: await `response`."""
        response = self._response
        if not response.done or response.buffered > most:
            return None
        self._answered = True
        return response.head

    def notify(self, callback: Callable[[], None] | None) -> None:
        """Calls `callback` once there is news of the response, its failure included. One waits for it at a time."""
        self._waiter = callback

    def _news(self) -> "asyncio.Future[None]":
        """A future that is done once there is news."""
        future = self._pool.loop.create_future()
        self.notify(partial(_done, future))
        return future

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter()

    def _wake_drainer(self) -> None:
        if self._drainer is not None and not self._drainer.done():
            self._drainer.set_result(None)

    # The end

    def release(self) -> None:
        """Gives the connection back, if another request may follow on it; ends it if not."""
        link, response = self._link, self._response
        if link is None:
            self.abort()
            return
        if response.reusable and self._finished and not (link.buffered or link.closed):
            if response.buffered:
                link.resume()
            self._link = None
            self._pool.put_back(self, link)
        else:
            self._drop(link.close if response.done else link.abort)
        response.close()

    def abort(self, error: Exception | None = None) -> None:
        """Ends the connection at once; the upstream sees that the request was given up. `error`: what waiters get."""
        self._error = error or self._error or UpstreamBroken("the exchange was given up")
        self._drop(self._link.abort if self._link is not None else None)
        self._response.close()
        self._wake()
        self._wake_drainer()

    def _drop(self, end: Callable[[], None] | None) -> None:
        self._held = None
        self._pool.forget(self)
        if end is not None:
            end()

    # What the link and the pool call

    def received(self, link: Link, data: memoryview | bytes) -> None:
        """Octets of the response."""
        response = self._response
        try:
            response.feed(data)
        except InvalidResponse as invalid:
            self.abort(self._invalid(str(invalid)))
            return
        if response.head is not None or not self._finished:
            self._since = self._pool.time()
        if response.buffered >= HIGH_WATER:
            link.pause()
        if self._waiter is not None:
            self._wake()
        if response.done and self._drainer is not None:
            self._wake_drainer()

    def flushed(self, link: Link) -> None:
        """The link took what was to be sent, or most of it."""
        self._since = self._pool.time()
        if link.buffered <= LOW_WATER:
            self._wake_drainer()

    def ended(self, _link: Link, error: Exception | None) -> None:
        """The connection ended: the end of a close-delimited response, a stale connection, or a fault."""
        response = self._response
        if response.end(clean=error is None):
            self._wake()
            self._wake_drainer()
        elif not response.started and self._held is not None:
            # RFC 9110, 9.2.2: an idempotent "request can be repeated automatically if a communication failure occurs
            # before the client is able to read the server's response", here the death of a connection that was idle.
            self._link = None
            spawn(self._again(), name="upstream.retry")
        elif response.started and response.head is None:
            self.abort(self._invalid("it breaks off inside its head"))
        elif response.head is None:
            detail = "The upstream closed the connection without an answer."
            self.abort(Refused("upstream_unreachable", detail, hint=_AGAIN))
        elif not self._answered:
            self.abort(self._invalid("it breaks off after its head"))
        else:
            self.abort(UpstreamBroken("the upstream broke off"))

    async def _again(self) -> None:
        """The one retry, on a fresh connection."""
        try:
            link = await self._pool.connect()
        except Refused as refused:
            self.abort(refused)
            return
        if self._error is not None:  # given up meanwhile
            link.abort()
            return
        self._head, self._held = bytes(self._held or b""), None
        self.start(link)

    def check(self, now: float, response_timeout: float, idle_timeout: float) -> None:
        """Ends the exchange if its time is up. While content waits to be taken it is the caller's time that runs."""
        link, response = self._link, self._response
        if link is None or response.done or response.buffered:
            return
        untaken = link.untaken()
        if untaken < self._untaken:  # it takes content, however slowly
            self._since = now
        self._untaken = untaken
        waited = now - self._since
        if response.head is None and self._finished and not link.buffered:
            if waited > response_timeout:
                detail = f"The upstream did not answer within {response_timeout:g} seconds."
                self.abort(Refused("upstream_timeout", detail, hint=_AGAIN))
        elif waited > idle_timeout:
            detail = f"Nothing moved for {idle_timeout:g} seconds."
            early = not self._answered
            self.abort(Refused("upstream_timeout", detail, hint=_AGAIN) if early else UpstreamBroken(detail))

    def _invalid(self, rule: str) -> Exception:
        detail = f"The upstream's answer cannot be relayed: {rule}."
        if self._answered:
            return UpstreamBroken(detail)
        return Refused("upstream_invalid", detail, hint="This is a fault at Krebit. Try again later.")


def _done(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


_AGAIN: Final = "Try again. If it keeps failing, check Krebit's status page."
