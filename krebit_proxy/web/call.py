"""One request of a caller as the edge sees it: its head, its content as it arrives, and the way back."""

import asyncio
import re
from collections import deque
from collections.abc import Sequence
from math import inf
from typing import Final, Protocol

from krebit_proxy.core import admission
from krebit_proxy.core.access import Caller, Peer
from krebit_proxy.core.fields import NO_NAMES
from krebit_proxy.core.head import NO_FIELDS
from krebit_proxy.errors import ProxyError, Refused
from krebit_proxy.log import request_done

HIGH_WATER: Final = 256 << 10  # bytes of content waiting to be taken at which reading from the caller stops
LOW_WATER: Final = 64 << 10  # and at which it goes on
_AUTHORITY: Final = re.compile(rb"^(?:[^/]*//[^/]*|[^/]*@)")  # of a target that is no path; it may hold a password
_SOON_OVER: Final = 64 << 10  # content that we rather read to its end than close the connection


class Connection(Protocol):
    """The caller's connection, as a call needs it."""

    peer: Peer

    @property
    def draining(self) -> bool:
        """No further request is taken."""

    def write(self, data: bytes) -> None:
        """Sends to the caller, or keeps what cannot be sent yet."""

    def reply(self, data: bytes) -> None:
        """Sends a whole response, together with others that are ready by now."""

    async def drain(self) -> None:
        """Waits until the caller has taken enough. A caller that takes nothing ends the call."""

    def resume_content(self) -> None:
        """Reads on, after a pause at HIGH_WATER."""

    def relay(self) -> None:
        """There is news of the response to the call that was sent without a task."""

    def tunnel(self) -> "Content":
        """From now on, everything that arrives is raw bytes."""

    def cut(self, *, silent: bool) -> None:
        """Breaks off so that the caller sees it. `silent`: the framing of the response would not show it."""


class Attempt(Protocol):
    """The request as it was sent upstream."""

    def abort(self) -> None:
        """Gives it up."""


class Content:
    """The content of a request, without its framing, in the pieces that it came in. One reader at a time."""

    __slots__ = (
        "_connection",
        "_patience",
        "_pieces",
        "_waiter",
        "complete",
        "deadline",
        "error",
        "received",
        "size",
    )

    def __init__(self, connection: Connection | None, patience: float) -> None:
        """`patience`: seconds that the caller may take for the next piece."""
        self._connection = connection
        self._patience = patience
        self._pieces: deque[bytes] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self.complete = False  # all of it has arrived
        self.error: ProxyError | None = None
        self.deadline = inf  # by the loop's clock; passed while somebody waits, the content has failed
        self.received = 0
        self.size = 0  # bytes that can be taken now

    # The connection's side

    def feed(self, piece: bytes) -> None:
        """A piece arrived."""
        self._pieces.append(piece)
        self.size += len(piece)
        self.received += len(piece)
        self._wake()

    def end(self) -> None:
        """It is complete."""
        self.complete = True
        self._wake()

    def fail(self, error: ProxyError) -> None:
        """Nothing good comes any more: what is left is worthless, and the reader gets `error`."""
        self.error = error
        self._wake()

    def expire(self, now: float) -> None:
        """Fails when the caller has kept the reader waiting for too long."""
        if now >= self.deadline:
            self.deadline = inf
            self.fail(Refused("request_timeout", "The content of the request did not arrive in time."))

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # The reader's side

    async def ready(self) -> bool:
        """Waits for the next piece; False at the complete end. Raises Refused when the content is malformed or late."""
        while True:
            if self.error is not None:
                raise self.error
            if self._pieces:
                return True
            if self.complete:
                return False
            await self._wait()

    async def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        self.deadline = loop.time() + self._patience
        try:
            await self._waiter
        finally:
            self._waiter = None
            self.deadline = inf

    @property
    def next_size(self) -> int:
        """The size of the piece that `take` gives next."""
        return len(self._pieces[0])

    def take(self) -> bytes:
        """The next piece, after `ready`."""
        piece = self._pieces.popleft()
        self.size -= len(piece)
        if self._connection is not None and self.size <= LOW_WATER:
            self._connection.resume_content()
        return piece

    async def discard(self) -> None:
        """Reads to the end and keeps nothing. Raises Refused as `ready` does."""
        while await self.ready():
            self.take()


NO_CONTENT: Final = Content(None, inf)
NO_CONTENT.complete = True


class Call(admission.Call):
    """One request, and what became of it. `status`, `code` and `replayed` are for the log."""

    __slots__ = (
        "attempt",
        "caller",
        "code",
        "connection",
        "content",
        "denial",
        "expects",
        "head",
        "id",
        "length",
        "persistent",
        "refusal",
        "replayed",
        "sent",
        "silent",
        "started",
        "status",
        "upgrade",
    )  # fmt: skip

    def __init__(
        self,
        connection: Connection,
        *,
        method: bytes = b"",
        target: bytes = b"",
        fields: Sequence[tuple[bytes, bytes]] = (),
        http10: bool = False,
        persistent: bool = False,
    ) -> None:
        self.connection = connection
        self.peer = connection.peer
        self.method = method
        self.target = target  # as it was sent
        self.names = NO_NAMES  # of the fields, in lower case, once they are checked
        self.fields = fields
        self.http10 = http10
        self.page = False
        self.persistent = persistent  # the connection stays open after this call
        self.length: int | None = 0  # of the content; None: chunked
        self.content = NO_CONTENT
        self.expects = False  # the caller waits for 100 (Continue) before it sends content
        self.upgrade: bytes | None = None  # the protocols that it offers to switch to
        self.head = NO_FIELDS  # its fields, once they are examined
        self.refusal: ProxyError | None = None  # found while reading the head
        self.denial: Exception | None = None  # found while admitting or sending it
        self.caller: Caller | None = None
        self.attempt: Attempt | None = None  # when it was sent without a task
        self.id = ""
        self.started = 0.0
        self.status = 0
        self.code = ""
        self.replayed = False
        self.silent = False  # the end of the response is the end of the connection: a cut would look like it
        self.sent = 0

    def field(self, name: bytes) -> bytes | None:
        """The value of the first field called `name` (lower case)."""
        names = self.names
        return self.fields[names.index(name)][1] if name in names else None

    def connection_field(self) -> bytes:
        """Decides, with the head of the response, whether the connection stays open, and says so in a line."""
        if self.persistent and (self.connection.draining or not (self.content.complete or self._content_ends_soon())):
            self.persistent = False
        if not self.persistent:
            return b"Connection: close\r\n"
        return b"Connection: keep-alive\r\n" if self.http10 else b""

    def _content_ends_soon(self) -> bool:
        content = self.content
        # A caller that still waits for 100 (Continue) may send its content or not: nobody can tell what comes next.
        if self.expects or content.error is not None or self.length is None:
            return False
        return self.length - content.received <= _SOON_OVER

    def write(self, data: bytes, *, status: int = 0) -> None:
        """Sends a part of the response; `status` comes with its head."""
        if status:
            self.status = status
        self.sent += len(data)
        self.connection.write(data)

    def reply(self, data: bytes, *, status: int) -> None:
        """Sends the whole response."""
        self.status = status
        self.sent = len(data)
        self.connection.reply(data)

    async def drain(self) -> None:
        """Waits until the caller has taken enough of what was written."""
        await self.connection.drain()

    def go_on(self) -> None:
        """Asks for the content of a caller that waits for that."""
        # RFC 9110, 10.1.1: a server "MAY omit sending a 100 (Continue) response if it has already received some or all
        # of the content for the corresponding request". It is never sent to HTTP/1.0.
        if self.expects and not self.content.received:
            self.connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.expects = False

    @property
    def caller_name(self) -> str:
        """Who sent it; as far as the connection tells, when it was refused."""
        return (self.caller or self.peer.caller).name

    def log(self, seconds: float) -> None:
        """Writes what the log says of it: no query, no field. `seconds`: how long it took."""
        path = self.target.partition(b"?")[0]
        if not path.startswith(b"/"):
            path = _AUTHORITY.sub(b"", path)
        more: dict[str, object] | None = None
        if self.code or self.replayed:
            more = {"code": self.code, "peer": self.peer.address} if self.code else {}
            if self.replayed:
                more["replayed"] = True
        request_done(
            request_id=self.id,
            method=self.method.decode("ascii", "replace"),
            path=path.decode("ascii", "backslashreplace"),
            status=self.status,
            sent=self.sent,
            received=self.content.received,
            caller=self.caller_name,
            seconds=int(seconds * 10_000) / 10_000,
            more=more,
        )
