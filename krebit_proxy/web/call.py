"""One request of a caller and its response: head, content as it arrives, how to answer, what to log.

`Connection` makes a `Call` as soon as the head of a request is complete. `Api` or a page answers it.
"""

import asyncio
import re
from collections import deque
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Final

from krebit_proxy.core.admission import Request
from krebit_proxy.errors import ProxyError, Refused
from krebit_proxy.log import request_done
from krebit_proxy.web.flow import LOW_WATER

if TYPE_CHECKING:
    from krebit_proxy.core.access import Caller
    from krebit_proxy.web.api import SentRequest
    from krebit_proxy.web.connection import Connection

_AUTHORITY: Final = re.compile(rb"^(?:[^/]*//[^/]*|[^/]*@)")  # of an absolute target; may contain a password
_SOON_OVER: Final = 64 << 10  # bytes of remaining content that we read in order to keep the connection
_SMALL: Final = 4096  # bytes; smaller pieces are joined, so that content in single bytes costs little memory and time


class Content:
    """The content of a request, without its framing, in the pieces in which it arrived. It has one reader at a time.

        while await content.ready():
            piece = content.take()

    Attributes:
        complete: All of it has arrived.
        error: Why the rest cannot be had. The reader gets it as an exception.
        expected: The caller waits for 100 (Continue) before it sends anything.
        deadline: When a waiting reader gives up, by `monotonic`. Infinite while no reader waits.
        received: Bytes so far.
        size: Bytes that can be taken now.
    """

    __slots__ = ("_connection", "_dropped", "_patience", "_pieces", "_waiter", "complete", "deadline", "error",
                 "expected", "received", "size")  # fmt: skip

    def __init__(self, connection: "Connection | None", patience: float, *, expected: bool = False) -> None:
        """`patience`: seconds that the caller may take for the next piece."""
        self._connection = connection
        self._patience = patience
        self._pieces: deque[bytes] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._dropped = False
        self.complete = False
        self.error: ProxyError | None = None
        self.expected = expected
        self.deadline = inf
        self.received = self.size = 0

    # The connection's side

    def feed(self, piece: bytes) -> None:
        self.received += len(piece)
        if self._dropped:
            return
        pieces = self._pieces
        if pieces and len(pieces[-1]) < _SMALL:
            pieces[-1] += piece
        else:
            pieces.append(piece)
        self.size += len(piece)
        self._wake()

    def end(self) -> None:
        self.complete = True
        self._wake()

    def fail(self, error: ProxyError) -> None:
        self.error = error
        self._wake()

    def expire(self, now: float) -> None:
        """Fails if the reader has waited past the deadline."""
        if now >= self.deadline:
            self.deadline = inf
            self.fail(late())

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # The reader's side

    async def ready(self) -> bool:
        """Waits for the next piece. False: the content is complete. Raises Refused if it is malformed or late."""
        while True:
            if self.error is not None:
                raise self.error
            if self._pieces:
                return True
            if self.complete:
                return False
            await self._wait()

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        self.deadline = monotonic() + self._patience
        try:
            await self._waiter
        finally:
            self._waiter = None
            self.deadline = inf

    @property
    def next_size(self) -> int:
        return len(self._pieces[0])

    def take(self) -> bytes:
        piece = self._pieces.popleft()
        self.size -= len(piece)
        self._make_room()
        return piece

    def take_all(self) -> bytes:
        """Everything that is there, without waiting."""
        pieces = b"".join(self._pieces)
        self._pieces.clear()
        self.size = 0
        self._make_room()
        return pieces

    def drop(self) -> None:
        """Drops what is there and what still arrives. There is no reader any more."""
        self._dropped = True
        self.take_all()

    def _make_room(self) -> None:
        if self._connection is not None and self.size <= LOW_WATER:
            self._connection.resume_content()


NO_CONTENT: Final = Content(None, inf)
NO_CONTENT.complete = True


def late() -> Refused:
    """The error for content that stops arriving."""
    return Refused("request_timeout", "The request body did not arrive in time.")


class Outcome:
    """How a call went: for the log, the metrics and the end of the connection.

    Attributes:
        id: The call's id in the log, and in errors.
        started: When it began, by `Server.time`.
        status: Of the response; 0 until its head is written.
        sent: Bytes of the response, its head included.
        code: Of the error that ended it; empty if none did.
        reason: Why it was refused, in our own words.
        replayed: It was sent to Krebit again after a 401.
    """

    __slots__ = ("code", "id", "reason", "replayed", "sent", "started", "status")

    def __init__(self) -> None:
        self.id = self.code = self.reason = ""
        self.started = 0.0
        self.status = self.sent = 0
        self.replayed = False


class Call:
    """One request of a caller, and the way to answer it.

    Attributes:
        request: Method, target and headers.
        content: Its body; bytes appear as they arrive.
        fault: The error, if it is not valid HTTP. It gets its answer after the calls before it.
        caller: Who sent it, once it is admitted.
        attempt: The upstream request, if `Api.begin` sent one.
        persistent: The connection may stay open after this call. `connection_field` makes it final.
    """

    __slots__ = ("attempt", "caller", "connection", "content", "fault", "outcome", "persistent", "request")

    def __init__(
        self,
        connection: "Connection",
        request: Request,
        *,
        persistent: bool = False,
        fault: Refused | None = None,
    ) -> None:
        self.connection = connection
        self.request = request
        self.content = NO_CONTENT
        self.fault = fault
        self.caller: Caller | None = None
        self.attempt: SentRequest | None = None
        self.persistent = persistent
        self.outcome = Outcome()

    @property
    def length(self) -> int | None:
        """Bytes of content. None: chunked."""
        return self.request.head.length

    def connection_field(self) -> bytes:
        """Decides, with the head of the response, whether the connection stays open. Returns the line that says so."""
        if self.persistent and (self.connection.draining or not (self.content.complete or self._content_ends_soon())):
            self.persistent = False
        if not self.persistent:
            return b"Connection: close\r\n"
        if self.connection.keep_alive:
            line, self.connection.keep_alive = self.connection.keep_alive, b""
            return line
        return b"Connection: keep-alive\r\n" if self.request.head.http10 else b""

    def _content_ends_soon(self) -> bool:
        content, length = self.content, self.length
        # A caller that waits for 100 (Continue) may or may not send its content, so the next bytes are ambiguous.
        if content.expected or content.error is not None or length is None:
            return False
        return length - content.received <= _SOON_OVER

    def write(self, data: bytes, *, status: int = 0) -> None:
        """Sends a part of the response. The part with the head names its `status`."""
        outcome = self.outcome
        if status:
            outcome.status = status
        outcome.sent += len(data)
        self.connection.write(data)

    def reply(self, data: bytes, *, status: int) -> None:
        """Sends the whole response in one batch with those of other calls."""
        outcome = self.outcome
        outcome.status = status
        outcome.sent = len(data)
        self.connection.reply(data)

    async def drain(self) -> None:
        await self.connection.drain()

    def go_on(self) -> None:
        """Sends 100 (Continue) if the caller waits for it."""
        # RFC 9110, 10.1.1: a server "MAY omit sending a 100 (Continue) response if it has already received some or all
        # of the content for the corresponding request". It is never sent to HTTP/1.0.
        if self.content.expected:
            self.content.expected = False
            if not self.content.received:
                self.connection.reply(b"HTTP/1.1 100 Continue\r\n\r\n")

    @property
    def caller_name(self) -> str:
        """Who sent it. If admission refused it: who the connection says."""
        return (self.caller or self.request.peer.caller).name

    def log(self, seconds: float, caller: str) -> None:
        """Writes request.done. No query and no header gets into the log. `seconds`: its duration."""
        request, outcome = self.request, self.outcome
        path = request.target.partition(b"?")[0]
        if not path.startswith(b"/"):
            path = _AUTHORITY.sub(b"", path)
        more: dict[str, object] | None = None
        if outcome.code or outcome.replayed:
            more = {"code": outcome.code, "peer": request.peer.address} if outcome.code else {}
            if outcome.reason:
                more["reason"] = outcome.reason
            if outcome.replayed:
                more["replayed"] = True
        request_done(
            request_id=outcome.id,
            method=request.method.decode("ascii", "replace"),
            path=path.decode("ascii", "backslashreplace"),
            status=outcome.status,
            sent=outcome.sent,
            received=self.content.received,
            caller=caller,
            seconds=int(seconds * 10_000) / 10_000,
            more=more,
        )
