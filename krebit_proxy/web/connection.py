"""One caller's connection: it reads requests, has them answered in order, and ends in time.

How a request travels, in the order in which it happens:

1. `data_received` gives the bytes to the `RequestReader`, which makes a `Call` of each request as soon as its head is
   complete. Everything after that happens in `Batches`, together with what other connections have to do by then.
2. `_proceed` takes the first call that waits and asks `Server.begin`, which admits it. Then there are four ways:
   - It is a plain call of the API with a token at hand: `Api.begin` has sent it, and the connection is SENT. There is
     no task; `relay` is called once there is news of the response.
   - It is answered at once: by `_fail` when it is refused, by the server when it is an OPTIONS about the proxy.
   - It is for one of our pages and has content: READING. `_proceed` goes on when more of it has come; then as below.
   - For everything else a task of its own runs `Server.answer`: WORKING for `Api.forward`, PAGE for one of our pages.
3. `_relay` has `Api.complete` write a response that has come whole. If it has not, the call becomes WORKING, too.
4. `_answered` has the call logged and counted, and decides what comes next: the next request (IDLE), throwing away
   what is left of this one's content (SKIPPING, REFUSED), or the end (LINGERING, CLOSING).

Every step that can go wrong is taken within `_proceed`, `_relay` or `_answer`, and whatever goes wrong there ends in
`_fail`: in an answer, or in a break that the caller sees. Whatever does not happen meets the deadline of its phase:
`check` looks about once a second. The phases, and what leads from one to the next, are those of `core.connection`.
"""

import asyncio
import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Final, cast

import structlog

from krebit_proxy.batches import ANSWER, RECORD, REPLY
from krebit_proxy.core import connection as phases
from krebit_proxy.core.connection import Event, step
from krebit_proxy.errors import ProxyError, Refused
from krebit_proxy.tasks import spawn
from krebit_proxy.upstream import UpstreamBroken
from krebit_proxy.web.admission import peer_of
from krebit_proxy.web.bridge import LONGEST_FORM
from krebit_proxy.web.call import NO_CONTENT, Call, late
from krebit_proxy.web.flow import HIGH_WATER, LOW_WATER, Flow
from krebit_proxy.web.request_reader import RequestReader

if TYPE_CHECKING:
    from krebit_proxy.core.access import Peer
    from krebit_proxy.web.server import Server

_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 seconds: closing sends RST
_FULL: Final = Refused("overloaded", "All connections are busy.", hint="Raise limits.connections.", retry_after=1)
_LATE_HEAD: Final = Refused("request_timeout", "The headers of the request did not arrive in time.")
_LATE_ANSWER: Final = Refused("upstream_timeout", "The request was not answered in time.")
_log = structlog.get_logger()


class Connection(asyncio.Protocol):
    """One caller's connection, in one of the phases of `core.connection` since `since`, by the loop's clock."""

    __slots__ = ("_batches", "_call", "_flow", "_reader", "_rest", "_server", "peer", "phase", "since", "task",
                 "transport")  # fmt: skip

    peer: "Peer"
    _flow: Flow

    def __init__(self, server: "Server") -> None:
        self._server = server
        self._batches = server.batches
        self._reader = RequestReader(self, server.reader_settings)
        self._call: Call | None = None  # being answered
        self._rest = NO_CONTENT  # of a call that has been answered, to be thrown away
        self.task: asyncio.Task[None] | None = None  # what answers a call that needs one
        self.transport: asyncio.Transport | None = None
        self.phase = phases.FRESH
        self.since = server.time()

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A caller connected."""
        self.transport = cast("asyncio.Transport", transport)
        self._flow = Flow(self.transport)
        self.peer = peer_of(transport, self._server.rules)
        with suppress(OSError):  # it is gone already
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if not self._server.seats.take(self):
            self._reader.fail(_FULL)
            self._batches.do(ANSWER, Connection._proceed, self)

    def connection_lost(self, _exc: BaseException | None) -> None:
        """The caller left, or we closed: whatever was being done for it ends here."""
        self._server.seats.leave(self)
        self.transport = None
        self._reader.close()
        call, self._call = self._call, None
        if call is not None:
            call.outcome.code = call.outcome.code or "caller_left"
            self._give_up(call)
            self._batches.do(RECORD, self._server.done, call)
        self._enter("end")

    def data_received(self, data: bytes) -> None:
        """Bytes of the caller."""
        flow, reader = self._flow, self._reader
        flow.moved += len(data)
        if self.phase.over:
            return
        reader.feed(data)
        self._batches.do(ANSWER, Connection._proceed, self)
        # One small request at a time is what nearly always arrives: there is nothing to add up.
        busy = reader.receiving is not None or reader.held is not None or len(reader.calls) > 1
        if busy and reader.backlog >= HIGH_WATER:
            flow.hold()

    def pause_writing(self) -> None:
        """The caller does not take what is written."""
        self._flow.full = True

    def resume_writing(self) -> None:
        """The caller has taken what was written."""
        self._flow.resume()
        self._batches.do(ANSWER, Connection._proceed, self)

    # What calls use

    @property
    def draining(self) -> bool:
        """No further request is taken."""
        return self._server.draining or self.phase.over

    def write(self, data: bytes) -> None:
        """Sends to the caller, or keeps what cannot be sent yet."""
        if self.transport is not None:
            self._flow.moved += len(data)
            self.transport.write(data)

    def reply(self, data: bytes) -> None:
        """Sends a whole response, together with others that are ready by now, and after those before it."""
        if self.transport is not None:
            self._batches.do(REPLY, self.transport.write, data)

    async def drain(self) -> None:
        """Waits until the caller has taken enough. One that takes nothing ends the call, by cancelling it."""
        if self._flow.full:
            self._enter("block")
            await self._flow.taken()
            if not self.phase.over:
                self._enter("take")

    def resume_content(self) -> None:
        """Reads on, after a pause."""
        if self._flow.held and self._reader.backlog <= LOW_WATER:
            self._flow.release()

    def relay(self) -> None:
        """There is news of the response to the call that was sent without a task."""
        self._batches.do(ANSWER, Connection._relay, self)

    def tunnel(self, call: Call) -> None:
        """From now on, everything that arrives is raw bytes: the content of `call`."""
        self._enter("switch")
        self._reader.tunnel(call)

    # The requests, one after the other

    def _enter(self, event: Event) -> None:
        self.phase = phase = step(self.phase, event)
        self.since = self._server.time()
        if phase.progress is not None:
            self._flow.begin()

    def _proceed(self) -> None:
        """Does what can be done now, after bytes have come, room to write, or the end of a call."""
        try:
            phase = self.phase
            if phase.ready:
                self._begin()
            elif phase is phases.UNREAD and not self._flow.full:
                self._enter("take")
                self._begin()
            elif phase is phases.READING:
                self._read_form()
            elif phase in {phases.SKIPPING, phases.REFUSED}:
                self._skip()
        except Exception as error:  # `_fail` is for all of them
            self._fail(self._call, error)

    def _begin(self) -> None:
        """Has the next call begun, if there is one."""
        server, reader = self._server, self._reader
        if not reader.calls:
            if not reader.reading_head:
                if server.draining:
                    self._end()
            elif self.phase is not phases.HEAD:
                self._enter("begin")
            return
        if self._flow.full:  # it gets no further answers before it has taken those that it got
            self._enter("block")
            return
        self._call = call = reader.calls.popleft()
        if self._flow.held:
            self.resume_content()
        call.outcome.id = next(server.ids)
        call.outcome.started = server.time()
        if call.fault is not None:
            self._fail(call, call.fault)
        elif (event := server.begin(call)) != "send":
            self._lead(call, event)
        elif not self.phase.over:
            self._enter("send")

    def _lead(self, call: Call, event: Event) -> None:
        """Goes one of the rarer ways that `Server.begin` chooses."""
        if self.phase.over:
            return  # it was broken off meanwhile
        if event == "next":
            self._answered(call)
            return
        self._enter(event)
        if event == "read":
            call.go_on()
            self._read_form()
        else:
            self.task = spawn(self._answer(call), name="call")

    def _read_form(self) -> None:
        """Waits for the content of a request for a page: a page gets all of it, or is not asked at all."""
        call = self._call
        assert call is not None  # the phase says so
        if call.content.error is not None:
            self._fail(call, call.content.error)
        elif call.content.received > LONGEST_FORM:
            self._fail(call, Refused("bad_request", "The body is larger than any form of this page."))
        elif call.content.complete:
            self._lead(call, "page")

    def _relay(self) -> None:
        call = self._call
        if call is None or self.phase is not phases.SENT:
            return
        try:
            if self._server.complete(call):
                self._answered(call)
            else:
                self._lead(call, "work")
        except Exception as error:  # as above
            self._fail(call, error)

    async def _answer(self, call: Call) -> None:
        try:
            await self._server.answer(call)
            if self._call is call:
                self._answered(call)
        except Exception as error:  # as above
            if self._call is call:
                self._fail(call, error)

    def _fail(self, call: Call | None, error: Exception) -> None:
        """Whatever kept a call from being answered ends here: in one of our errors, or in a break that shows."""
        if isinstance(error, UpstreamBroken):
            error = Refused("upstream_invalid", f"The answer broke off: {error}.")
        try:
            if call is not None:
                self._give_up(call)
                # Once a response is under way, a second one inside it would be taken for a part of it.
                if isinstance(error, ProxyError) and not call.outcome.status:
                    call.outcome.code = error.code
                    self._server.refuse(call, error)
                    self._answered(call, "refuse")
                    return
        except Exception as fault:  # what fails while a failure is answered must end the connection, too
            error = fault
        self._break_off(call, error)

    def _break_off(self, call: Call | None, error: Exception) -> None:
        code = error.code if isinstance(error, ProxyError) else "fault"
        if isinstance(error, ConnectionError):
            code = "caller_left"
        if code == "fault":
            number = call.outcome.id if call else ""
            with suppress(Exception):
                _log.error("request.failed", request_id=number, error=type(error).__name__, exc_info=error)
        if call is not None and self._call is call:
            self._call = None
            call.outcome.code = code
            self._batches.do(RECORD, self._server.done, call)
        self.cut(silent=call is None or call.outcome.silent)

    def _give_up(self, call: Call) -> None:
        """Ends what is being done for a call."""
        if call.attempt is not None:
            call.attempt.abort()
        task, self.task = self.task, None
        if task is not None and task is not asyncio.current_task():
            task.cancel()

    def _answered(self, call: Call, early: Event = "skip") -> None:
        """A call has its answer. `early`: what happens when there is content left after that."""
        reader = self._reader
        if not call.persistent:
            if call.content.complete and call.fault is None:
                self._end()
            else:
                self._linger()
        elif call.content.complete:
            self._enter("next")
            if reader.held is not None:
                reader.go_on()
            if reader.calls or reader.reading_head or self._server.draining:
                self._batches.do(ANSWER, Connection._proceed, self)
        else:
            self._rest = call.content
            self._enter(early)
            self._skip()
        self._call = self.task = None
        self._batches.do(RECORD, self._server.done, call)

    def _skip(self) -> None:
        """Throws away what is left of a request that was answered early, so that the next one can be read."""
        rest = self._rest
        rest.take_all()
        if rest.complete:
            self._rest = NO_CONTENT
            self._enter("next")
            self._batches.do(ANSWER, Connection._proceed, self)

    # The end

    def check(self, now: float) -> None:
        """Ends what has taken too long. Called about once a second."""
        phase, waited = self.phase, now - self.since
        if phase.progress is not None and self._flow.progress(waited, phase.progress):
            self.since = now
        elif waited >= self._server.deadlines[phase]:
            if phase is phases.FRESH:
                _log.info("connection.timed_out", reason="no request came", peer=self.peer.address)
            elif phase is phases.IDLE:
                _log.debug("connection.idle", seconds=self._server.deadlines[phase])
            self._end_early()
        if self._reader.receiving is not None:
            self._reader.receiving.content.expire(now)

    def make_room(self) -> None:
        """Ends the connection for the sake of another caller."""
        self._end_early()
        if not self.phase.over:
            self.cut(silent=True)

    def _end_early(self) -> None:
        call = self._call
        match self.phase.ending:
            case "close":
                self._end()
            case "linger":
                self._linger()
            case "408":
                if call is None:  # but a part of a head
                    self._reader.fail(_LATE_HEAD)
                    self._proceed()
                else:
                    call.persistent = False  # the rest of it may come, or not
                    self._fail(call, late())
            case "504":
                self._fail(call, _LATE_ANSWER)
            case "reset":
                self.cut(silent=True)
            case "drop" if self.transport is not None:
                self.transport.abort()

    def close(self) -> None:
        """Closes the connection if it is idle. Others close when they are through, once the server is draining."""
        if self.phase in {phases.FRESH, phases.IDLE} and not (self._reader.calls or self._reader.reading_head):
            self._end()

    def cut(self, *, silent: bool) -> None:
        """Breaks off so that the caller sees it. `silent`: the framing of the response would not show it."""
        if self.transport is None:
            return
        if silent:
            # A FIN would look like the end of the content; a reset does not.
            sock = self.transport.get_extra_info("socket")
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.transport.abort()
            self._enter("end")
        else:
            self._end()

    def _end(self) -> None:
        """Closes in an orderly way, after what was written has been taken."""
        self._batches.do(RECORD, Connection._close, self)
        self._enter("end")

    def _linger(self) -> None:
        """Closes our half, and throws away what still comes for a while.

        RFC 9112, 9.6: closing at once would reset the connection, and the reset "might erase the client's
        unacknowledged input buffers before they can be read": it would never see the answer.
        """
        self._batches.do(RECORD, Connection._close, self)
        self._enter("linger")
        self._reader.close()
        self._flow.release()

    def _close(self) -> None:
        if self.transport is None:
            return
        # TLS has no half: it says that this is the end, and takes what comes until the caller agrees.
        if self.phase is phases.LINGERING and self.transport.can_write_eof():
            with suppress(OSError, RuntimeError):
                self.transport.write_eof()
        else:
            self.transport.close()
