"""One caller's connection: aiohttp's protocol class, which reads its requests itself.

aiohttp keeps the connections and writes the answers of our own pages. What it makes of each request (`Request`, a task,
the router) costs more than forwarding does, and its parser lets pass what it should not. So requests are read by
`reading.RequestReader`, and those for the API never become aiohttp's. This is the only module that touches private
attributes of aiohttp; tests/web/test_connection.py fails when they change.
"""

import asyncio
import socket
import struct
from collections import deque
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, Any, Final, cast

import structlog
from aiohttp.web_protocol import RequestHandler

from krebit_proxy.batches import ANSWER, RECORD, REPLY
from krebit_proxy.errors import ProxyError, Refused
from krebit_proxy.upstream import UpstreamBroken
from krebit_proxy.web.call import HIGH_WATER, LOW_WATER, Call, Content
from krebit_proxy.web.request_reader import RequestReader
from krebit_proxy.web.stall import Stall

if TYPE_CHECKING:
    from collections.abc import Callable

    from krebit_proxy.web.server import Server

_PIPELINED: Final = 32  # requests read ahead of the one that is being answered
_LINGER: Final = 2.0  # seconds for a caller to take an answer that came before its request was read
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 seconds: closing sends RST
_log = structlog.get_logger()


class Connection(RequestHandler):
    """One caller's connection: reads its requests, has them answered in order, and watches the clock."""

    __slots__ = (
        "_batches",
        "_call",
        "_calls",
        "_deadline",
        "_expired",
        "_fresh",
        "_idle_timeout",
        "_limits",
        "_ready",
        "_requests",
        "_server",
        "_tunnel",
        "closing",
        "idle_since",
        "peer",
    )  # fmt: skip

    def __init__(self, server: "Server", *, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(server, loop=loop, keepalive_timeout=0, access_log=cast("Any", None))
        self._limits = limits = server.settings.limits
        self._idle_timeout = server.settings.upstream.idle_timeout
        self._server = server
        self._batches = server.batches
        calls: deque[Call] = deque()
        self._requests = RequestReader(
            self,
            limit=limits.header_bytes,
            patience=limits.body_timeout,
            withheld=server.withheld,
            arrived=calls.append,
        )
        self._calls = calls  # read, and not begun yet
        self._call: Call | None = None  # begun, and not taken by the task
        self._ready: asyncio.Future[None] | None = None  # while the task waits for a call
        self._tunnel: Content | None = None
        self.closing = False
        self._fresh = True  # it has not brought a request yet
        self._deadline = inf
        self._expired: Callable[[], None] = self._idle_too_long
        self.idle_since = loop.time()

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A caller connected."""
        self.peer = self._server.peer_of(transport)
        super().connection_made(transport)
        if not self._server.opened(self):
            self._requests.close()
            call = Call(self)
            call.refusal = Refused(
                "overloaded",
                "All connections are busy.",
                hint="Try again soon; limits.connections can be raised.",
                retry_after=1,
            )
            self._calls.append(call)
            self._batches.do(ANSWER, Connection._proceed, self)

    def connection_lost(self, exc: BaseException | None) -> None:
        """The caller left, or we closed: whatever was being done for it ends here, by cancelling its task."""
        self.closing = True
        self._deadline = inf
        self._requests.close()
        call, self._call = self._call, None
        if call is not None:
            if call.attempt is not None:
                call.attempt.abort()
            call.code = "caller_left"
            self._server.done(call)
        super().connection_lost(exc)
        self._server.closed(self)

    def data_received(self, data: bytes) -> None:
        """Bytes of the caller."""
        if self._tunnel is not None:
            self._tunnel.feed(data)
        else:
            self._requests.feed(data)
            self._batches.do(ANSWER, Connection._proceed, self)
        # One small request at a time is what nearly always arrives: there is nothing to add up.
        if len(self._calls) > 1 or self._requests.content.size or self._requests.held or self._tunnel:
            self._bound_what_waits()

    def resume_writing(self) -> None:
        """The caller has taken what was written."""
        super().resume_writing()
        self._batches.do(ANSWER, Connection._proceed, self)

    def _bound_what_waits(self) -> None:
        if not self._buffer_paused and self._waiting_bytes() >= HIGH_WATER:
            self._pause_reading_for_buffer()

    def _waiting_bytes(self) -> int:
        if self._tunnel is not None:
            return self._tunnel.size
        size = self._requests.content.size + len(self._requests.held or b"")
        if self._calls:
            size += sum([call.content.size for call in self._calls]) + len(self._calls) * (HIGH_WATER // _PIPELINED)
        return size

    # What calls use

    @property
    def draining(self) -> bool:
        """No further request is taken."""
        return self._server.draining or self.closing

    def write(self, data: bytes) -> None:
        """Sends to the caller, or keeps what cannot be sent yet."""
        if self.transport is not None:
            self.transport.write(data)

    def reply(self, data: bytes) -> None:
        """Sends a whole response, together with others that are ready by now."""
        if self.transport is not None:
            self._batches.do(REPLY, self.transport.write, data)

    async def drain(self) -> None:
        """Waits until the caller has taken enough. Raises ConnectionError when it left."""
        if self._paused:
            self._wait_for_taking(self._idle_timeout)
            try:
                await self._drain_helper()
            finally:
                self._deadline = inf

    def resume_content(self) -> None:
        """Reads on, after a pause."""
        if self._buffer_paused and self._waiting_bytes() <= LOW_WATER:
            self._resume_reading_for_buffer()

    def tunnel(self) -> Content:
        """From now on, everything that arrives is raw bytes, without a limit of time."""
        self._tunnel = Content(self, inf)
        if self._requests.held:
            self._tunnel.feed(self._requests.held)
        self._requests.close()
        return self._tunnel

    def cut(self, *, silent: bool) -> None:
        """Breaks off so that the caller sees it. `silent`: the framing of the response would not show it."""
        if self.transport is None:
            return
        if not silent:
            self._end()
            return
        # A FIN would look like the end of the content; a reset does not.
        sock = self.transport.get_extra_info("socket")
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()

    # The requests, one after the other. Most wait for nothing but their response: they need no task.

    def _proceed(self) -> None:
        """Has the next call answered, if none is under way."""
        ready = self._ready
        if ready is None or self._call is not None or self.closing:
            return
        if not self._calls:
            if self._requests.reading_head and self._expired != self._requests.time_out:
                self._wait_for_head()
            return
        if self._paused:  # it gets no further answers before it has taken those that it got
            self._wait_for_taking(self._idle_timeout)
            return
        self._deadline = inf
        self._fresh = False
        self._call = call = self._calls.popleft()
        if self._buffer_paused:
            self.resume_content()
        if not self._server.begin(call):
            self._hand_over(ready)

    def relay(self) -> None:
        """There is news of the response to the call that was sent without the task."""
        self._batches.do(ANSWER, Connection._relay, self)

    def _relay(self) -> None:
        call, ready = self._call, self._ready
        if call is None or ready is None:
            return
        if not self._server.complete(call):
            self._hand_over(ready)
            return
        self._call = None
        self._batches.do(RECORD, self._server.done, call)
        if call.persistent:
            self._wait()
            self._proceed()
        else:
            self._batches.do(RECORD, Connection._end, self)

    def _hand_over(self, ready: "asyncio.Future[None]") -> None:
        self._ready = None
        if not ready.done():
            ready.set_result(None)

    # Those that wait for more are answered in the one task of this connection.

    async def start(self) -> None:
        """Answers what cannot be answered without a task, in order."""
        persistent = True
        while persistent and not (self._server.draining and not self._calls):
            await self._next()
            call, self._call = cast("Call", self._call), None
            await self._answer(call)
            if call.persistent and not call.content.complete:
                await self._skip_content(call)
            self._requests.go_on()
            if self._buffer_paused:
                self.resume_content()
            persistent = call.persistent and not self.closing
        if persistent or (call.content.complete and call.refusal is None):
            self._end()
        else:
            self._linger()

    def _next(self) -> "asyncio.Future[None]":
        """What is done once a call needs the task."""
        self._ready = ready = self._loop.create_future()
        self._wait()
        self._proceed()
        return ready

    def _wait(self) -> None:
        """No call is under way: the clock runs until one is."""
        self.idle_since = now = self._loop.time()
        if self._requests.reading_head:
            self._wait_for_head()
        else:
            limits = self._limits
            patience = min(limits.keepalive, limits.header_timeout) if self._fresh else limits.keepalive
            self._deadline = now + patience
            self._expired = self._idle_too_long

    async def _answer(self, call: Call) -> None:
        """Has one call answered. Whatever happens on the way ends here, in an answer or in a visible break."""
        try:
            await self._server.answer(call)
        except ProxyError as error:
            self._fail(call, error)
        except UpstreamBroken as broken:
            self._fail(call, Refused("upstream_invalid", f"The answer broke off: {broken}."))
        except ConnectionError:
            call.code, call.persistent = "caller_left", False
        except asyncio.CancelledError:
            call.code = "caller_left"
            raise
        except Exception as error:  # a fault of ours ends one call, and shows nothing of its inside
            _log.exception("request.failed", request_id=call.id, error=type(error).__name__)
            self._break_off(call, "fault")
        finally:
            self._server.done(call)

    def _fail(self, call: Call, error: ProxyError) -> None:
        if call.status:
            # One response is under way, and a second one inside it would be taken for a part of it.
            self._break_off(call, error.code)
        else:
            call.code = error.code
            self._server.refuse(call, error)

    def _break_off(self, call: Call, code: str) -> None:
        call.code, call.persistent = code, False
        self.cut(silent=call.silent)

    async def _skip_content(self, call: Call) -> None:
        """Reads what is left of a request that was answered early, so that the next one can be read."""
        try:
            await call.content.discard()
        except ProxyError:
            call.persistent = False

    # The clock: `check` is called about once a second

    def check(self, now: float) -> None:
        """Ends what the caller has kept waiting for too long."""
        if now >= self._deadline:
            self._deadline = inf
            self._expired()
            if self._deadline == inf:
                self._proceed()  # a head that took too long is a call to be refused
        self._requests.content.expire(now)

    @property
    def is_idle(self) -> bool:
        """Whether no request is being answered, and none has begun to arrive."""
        return self._waits and not self._requests.reading_head

    @property
    def is_slow(self) -> bool:
        """Whether it has begun to send a head that is not complete, and nothing else is under way."""
        return self._waits and self._requests.reading_head

    @property
    def _waits(self) -> bool:
        return self._ready is not None and self._call is None and not self._calls and not self.closing

    def make_room(self) -> None:
        """Ends it for the sake of another caller: at once when idle, with a 408 when it takes its time for a head."""
        if self.is_slow:
            self._requests.time_out()
            self._proceed()
        else:
            self.close()

    @property
    def task(self) -> asyncio.Task[None] | None:
        """What answers the requests of this connection."""
        return self._task_handler

    def _idle_too_long(self) -> None:
        if self._fresh:
            _log.info("connection.timed_out", reason="no request came", peer=self.peer.address)
        else:
            _log.debug("connection.idle", seconds=self._limits.keepalive)
        self._end()

    def _wait_for_head(self) -> None:
        self._expired = self._requests.time_out
        self._deadline = self._loop.time() + self._limits.header_timeout

    def _wait_for_taking(self, patience: float) -> None:
        """Ends the connection unless the caller takes something within `patience` seconds, again and again."""
        transport = self.transport
        if transport is None:
            return
        taking = Stall(transport, patience, self._loop.time())

        def look() -> None:
            """Looks again later, or gives the caller up."""
            if taking.goes_on(self._loop.time()):
                self._deadline = taking.due
            else:
                transport.abort()

        self._expired = look
        self._deadline = taking.due

    # The end

    def close(self) -> None:
        """Closes the connection once it is idle."""
        if self.is_idle:
            self._end()

    def _end(self) -> None:
        """Closes in an orderly way, after what was written has been taken."""
        self.closing = True
        if self.transport is not None:
            self.transport.close()
            self._wait_for_taking(self._idle_timeout)

    def _linger(self) -> None:
        """Closes our half, and ignores what still comes for a while.

        RFC 9112, 9.6: closing at once would reset the connection, and the reset "might erase the client's
        unacknowledged input buffers before they can be read": it would never see the answer.
        """
        self.closing = True
        self._requests.close()
        if self.transport is not None:
            if self._buffer_paused:
                self._resume_reading_for_buffer()
            if self.transport.can_write_eof():
                with suppress(OSError, RuntimeError):
                    self.transport.write_eof()
            else:
                self.transport.close()  # TLS: says that this is the end, and takes what comes until the caller agrees
            self._wait_for_taking(_LINGER)
