"""One request and its response on a link.

The user of an exchange calls `send`, `finish`, `drain`, `response`, `read` and, at last, `release` or `abort`. The
link calls `received`, `flushed` and `ended`. At most two waiters connect the two sides: one for progress of the
response, one until more content of the request can be sent.
"""

from collections.abc import Callable, Generator
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self

from krebit_proxy.batches import SEND
from krebit_proxy.errors import Refused
from krebit_proxy.upstream.clock import elapsed
from krebit_proxy.upstream.connect import Link
from krebit_proxy.upstream.link import LOW_WATER, READ, READ_DENSE
from krebit_proxy.upstream.response import InvalidResponse, Response, ResponseHead
from krebit_proxy.upstream.retry import Retry

if TYPE_CHECKING:
    import asyncio

    from krebit_proxy.upstream.pool import Upstream

HIGH_WATER: Final = 256 << 10  # octets in a buffer, in each direction, above which the faster side waits
HELD: Final = 64 << 10  # octets of a request that are kept for the one retry
# Seconds without any acknowledgement of octets under way after which a connection counts as dead.
_LOST: Final = 20.0

# RFC 9110, 9.2.2: "PUT, DELETE, and safe request methods are idempotent", and "A proxy MUST NOT automatically retry
# non-idempotent requests".
IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})


class UpstreamBroken(Exception):
    """The transfer broke off after the response head was returned. The text is a sentence for people."""


class Exchange:
    """One request and its response. `Upstream.open` makes it. It must end with `release` or `abort`.

    Await it for a connection. Raises Refused(upstream_unreachable), which ends the exchange.
    """

    __slots__ = ("_answered", "_drainer", "_error", "_finished", "_head", "_held", "_left", "_link", "_pool",
                 "_response", "_retry", "_since", "_untaken", "_waiter")  # fmt: skip

    def __init__(
        self, pool: "Upstream", head: bytes, method: str, content: int | None, *, upgrade: bool, retry: bool
    ) -> None:
        self._pool = pool
        self._link: Link | None = None  # None while it waits for a connection
        self._left = content  # octets of content still to be sent; None: chunked
        self._finished = content == 0
        self._head = head  # not sent yet: one write carries it with the first content
        # Everything sent so far, for the one retry. None: no retry.
        self._held: bytes | bytearray | None = b"" if retry else None
        self._retry: Retry | None = None  # while it is under way
        self._response = Response(method, upgrade=upgrade)
        self._error: Exception | None = None
        self._answered = False  # whether the head has been returned
        self._waiter: Callable[[], None] | None = None
        self._drainer: asyncio.Future[None] | None = None
        self._since = 0.0  # when data moved last. Without a response yet: when the request was complete
        self._untaken = 0  # octets that the upstream had not taken at the last `check`

    def start(self, link: Link) -> None:
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
        """Sends content, and adds the chunked framing. Buffers without a limit: call `drain` after it.

        Raises ValueError if the content is longer than the Content-Length.
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
        """Completes the content. Raises ValueError if it is shorter than the Content-Length."""
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
        """Waits until the upstream has taken most of the content.

        Raises UpstreamBroken if it takes no more. Then stop sending, and call `response`.
        """
        while True:
            if self._error is not None or self._response.done or (self._link is not None and self._link.closed):
                raise UpstreamBroken("Krebit takes no more of the body.")
            if self._link is not None and self._link.buffered <= HIGH_WATER:
                return
            await self._progress()

    async def _progress(self) -> None:
        """Waits until the exchange gets a link, the link takes data, or the exchange ends."""
        self._drainer = self._pool.loop.create_future()
        try:
            await self._drainer
        finally:
            self._drainer = None

    # The response

    async def response(self) -> ResponseHead:
        """The final head. It may come before the request is complete.

        Raises Refused: upstream_invalid, upstream_timeout or upstream_unreachable. That ends the exchange.
        """
        if self._head:
            self._flush_head()
        while self._error is None:
            if (head := self._response.head) is not None:
                self._answered = True
                if self._link is not None:
                    self._link.most = READ
                return head
            await self._news()
        raise self._error

    async def continued(self, timeout: float) -> bool:
        """Waits for 100 (Continue) after a head with `Expect: 100-continue`, `timeout` seconds at most.

        True: send the content, because 100 or nothing came. False: call `response`, which has the head or the error.
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
        """Content at hand. b"": it is complete. None: nothing has arrived, so await `read`."""
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
        """The next content. b"": it is complete. Raises UpstreamBroken if the response breaks off."""
        while (data := self.read_nowait()) is None:
            if self._response.dense and self._link is not None:
                self._link.most = READ_DENSE  # a turn of the loop must not take long
            await self._news()
        return data

    def whole(self, most: int) -> ResponseHead | None:
        """The head of a response that has arrived completely, with at most `most` octets. None: await `response`."""
        response = self._response
        if not response.done or response.buffered > most:
            return None
        self._answered = True
        return response.head

    def notify(self, callback: Callable[[], None] | None) -> None:
        """Calls `callback` once, when more of the response arrives or it fails. Replaces an earlier callback."""
        self._waiter = callback

    def _news(self) -> "asyncio.Future[None]":
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
        """Gives the connection back to the pool, or closes it if no other request may follow on it."""
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
        """Cuts the connection, so that the upstream notices. Waiters get `error`."""
        self._error = error or self._error or UpstreamBroken("The request was cancelled.")
        self._drop(self._link.abort if self._link is not None else None)
        self._response.close()
        self._wake()
        self._wake_drainer()

    def _drop(self, end: Callable[[], None] | None) -> None:
        self._held = None
        self._pool.forget(self)
        if end is not None:
            end()
        if self._retry is not None:
            self._retry.cut()
            self._retry = None
            self._pool.metrics.retried("failed" if isinstance(self._error, Refused) else "cancelled")

    # Called by the link and the pool

    def received(self, link: Link, data: memoryview | bytes) -> None:
        """Parses octets of the response. Pauses the link if its reader is too slow, aborts it if they are invalid."""
        response = self._response
        try:
            response.feed(data)
        except InvalidResponse as invalid:
            self.abort(self._invalid(str(invalid)))
            return
        if not response.done and (response.head is not None or not self._finished):
            self._since = self._pool.time()
        if response.buffered >= HIGH_WATER:
            link.pause()
        if self._waiter is not None:
            self._wake()
        if response.done and self._drainer is not None:
            self._wake_drainer()

    def flushed(self, link: Link) -> None:
        self._since = self._pool.time()
        if link.buffered <= LOW_WATER:
            self._wake_drainer()

    def ended(self, _link: Link, error: Exception | None) -> None:
        """The connection ended. Either it completes the response, or the connection was stale, or it is an error."""
        response = self._response
        if isinstance(error, TimeoutError):
            self._pool.distrust(elapsed() - self._pool.patience)
        if response.end(clean=error is None):
            self._wake()
            self._wake_drainer()
        elif not response.started and self._held is not None:
            # RFC 9110, 9.2.2: an idempotent "request can be repeated automatically if a communication failure occurs
            # before the client is able to read the server's response", here the end of a connection that had been idle.
            self._link = None
            self._pool.retry(self)
        elif response.started and response.head is None:
            self.abort(self._invalid("it ends inside its head"))
        elif response.head is None:
            detail = (
                "The connection to Krebit is dead: nothing comes back."
                if isinstance(error, TimeoutError)
                else "Krebit closed the connection without a response."
            )
            self.abort(Refused("upstream_unreachable", detail, hint=_AGAIN))
        elif not self._answered:
            self.abort(self._invalid("it ends after its head"))
        else:
            self.abort(UpstreamBroken("Krebit closed the connection too early."))

    # The one retry, on a fresh link

    def start_again(self, link: Link) -> bool:
        """Sends the request once more. False: the first link has brought a response meanwhile."""
        if self._response.started or self._held is None:
            return False
        request, self._held, self._head = bytes(self._held), None, b""
        self._retry = Retry(self, self._link, link)
        self._link = link
        link.uses += 1
        self._since = self._pool.time()
        link.write(request)
        self._wake_drainer()
        return True

    def cannot_retry(self, refused: Refused) -> None:
        """There is no fresh link. The first one may still answer."""
        self._held = None
        self._pool.metrics.retried("failed")
        if self._link is None:
            self.abort(refused)

    def settle(self, link: Link, outcome: str, *, silent_since: float | None = None) -> None:
        """Goes on with this link alone. `silent_since`: the other one has been silent, by `clock.elapsed`."""
        if silent_since is not None:
            self._pool.distrust(silent_since)
        self._retry = None
        self._link = link
        link.owner = self
        self._pool.metrics.retried(outcome)

    def check(self, now: float, response_timeout: float, idle_timeout: float) -> None:
        """Aborts the exchange after a time-out. None runs while response content waits for its reader."""
        link, response = self._link, self._response
        if link is None or response.done or response.buffered:
            return
        untaken = link.untaken()
        if untaken < self._untaken:  # the upstream takes content, however slowly
            self._since = now
        self._untaken = untaken
        waited = now - self._since
        if untaken and waited > _LOST and link.silence() > _LOST:
            link.abort()
            link.owner.ended(link, TimeoutError())
        elif response.head is None and self._finished and not link.buffered:
            if self._held is not None and not response.started and waited > self._pool.patience and link.maybe_dead():
                self._pool.retry(self)
            if waited > response_timeout:
                detail = f"Krebit did not respond within {response_timeout:g} seconds."
                self.abort(Refused("upstream_timeout", detail, hint=_AGAIN))
        elif waited > idle_timeout:
            detail = f"Krebit sent and took nothing for {idle_timeout:g} seconds."
            early = not self._answered
            self.abort(Refused("upstream_timeout", detail, hint=_AGAIN) if early else UpstreamBroken(detail))

    def _invalid(self, rule: str) -> Exception:
        detail = f"Krebit's response is not valid HTTP: {rule}."
        if self._answered:
            return UpstreamBroken(detail)
        return Refused("upstream_invalid", detail, hint="This is a fault at Krebit. Retry later.")


def _done(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


_AGAIN: Final = "Try again. If it keeps failing, check Krebit's status page."
