"""One caller's connection. It reads requests, answers them in order, and always ends in time.

How a request travels, in the order in which it happens:

1. `data_received` gives the bytes to the `RequestReader`. It makes a `Call` of each request as soon as the head is
   complete. All further steps run in `Batches`, together with those of other connections.
2. `_proceed` takes the first waiting call and passes it to `Server.begin`, which admits it. There are four cases:
   - A plain API call, with a token at hand. `Api.begin` sends it, and the connection is SENT. It needs no task: the
     exchange calls `relay` once the response arrives or fails.
   - A call with an immediate answer. `_fail` answers refused calls, the server answers OPTIONS about the proxy.
   - A form for one of our pages. The connection is READING until the content is complete, then PAGE.
   - All others. A task runs `Server.answer`. The connection is WORKING for `Api.forward`, PAGE for a page. Such a page
     takes no content, so nobody waits for it.
3. `_relay` lets `Api.complete` write a response that has arrived completely. Otherwise the call becomes WORKING.
4. `_answered` logs and counts the call, and decides what follows: the next request (IDLE), the rest of this one's
   content to skip (SKIPPING, REFUSED), or the end (LINGERING, CLOSING).

All steps that may fail run within `_proceed`, `_relay` or `_answer`. Each exception there ends in `_fail`: in an error
response, or in a broken connection that the caller notices. If nothing happens at all, the deadline of the phase ends
it: `check` runs about once a second. `core.connection` defines the phases, their deadlines and their order.

A connection for which there is no seat gets an error. From this computer, it is STANDING first: if its request is a
probe, such as /healthz, it is answered nevertheless. So a busy proxy is not taken for a dead one.
"""

import asyncio
import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Final, cast

import structlog

from krebit_proxy.batches import ANSWER, RECORD, REPLY
from krebit_proxy.core import connection as phases
from krebit_proxy.core.connection import Event, Pace, step
from krebit_proxy.errors import ProxyError, Refused
from krebit_proxy.tasks import spawn
from krebit_proxy.upstream import UpstreamBroken
from krebit_proxy.web.admission import peer_of
from krebit_proxy.web.bridge import LONGEST_FORM, too_long
from krebit_proxy.web.call import NO_CONTENT, Call, late
from krebit_proxy.web.flow import HIGH_WATER, LOW_WATER, Flow
from krebit_proxy.web.request_reader import RequestReader

if TYPE_CHECKING:
    from krebit_proxy.core.access import Peer
    from krebit_proxy.web.server import Server

_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 seconds: closing sends RST
_FULL: Final = Refused(
    "overloaded", "All connections are busy.", hint="Retry later, or raise limits.connections.", retry_after=1
)
_LATE_HEAD: Final = Refused("request_timeout", "The request headers did not arrive in time.")
_LATE_ANSWER: Final = Refused("upstream_timeout", "The proxy could not answer the request in time.")
_SETTLED: Final = 1.0  # seconds that a TLS caller who has everything may take to say goodbye
_DELIVERY: Final = 2.0  # seconds for the caller to take what it got of a broken response, before the reset
_POLL: Final = 0.02  # seconds between two looks whether it has
_log = structlog.get_logger()


class Connection(asyncio.Protocol):
    """One caller's connection, in `phase` since `since` (by `Server.time`). It answers one call at a time."""

    __slots__ = ("_batches", "_call", "_flow", "_pace", "_paced", "_reader", "_reading_on", "_rest", "_server",
                 "keep_alive", "peer", "phase", "since", "task", "transport")  # fmt: skip

    peer: "Peer"
    _flow: Flow

    def __init__(self, server: "Server") -> None:
        self._server = server
        self._batches = server.batches
        self._reader = RequestReader(self, server.reader_settings)
        self._call: Call | None = None  # being answered
        self._rest: Call | None = None  # answered early; the rest of its content is skipped
        self._paced = NO_CONTENT  # that must arrive at the least rate, and its pace
        self._pace: Pace | None = None
        self._reading_on = False  # `_read_on` is scheduled
        self.keep_alive = server.keep_alive  # the header line for the next answer; empty after the first one
        self.task: asyncio.Task[None] | None = None  # answers the call, if it needs a task
        self.transport: asyncio.Transport | None = None
        self.phase = phases.FRESH
        self.since = server.time()

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._flow = Flow(self.transport)
        try:
            self.peer = peer_of(transport, self._server.rules)
            with suppress(OSError):  # the caller has left already
                transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            self._sit_down()
        except Exception as error:  # the loop would leave the connection open, without a deadline
            self._break_off(None, error)

    def _sit_down(self) -> None:
        seats = self._server.seats
        if seats.take(self):
            return
        if self.peer.here:
            self._enter("stand")
            seats.squeeze()
        else:
            self._reader.fail(_FULL)
            self._batches.do(ANSWER, Connection._proceed, self)

    def connection_lost(self, _exc: BaseException | None) -> None:
        """The caller left, or we closed: ends all work for it."""
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
        flow, reader = self._flow, self._reader
        flow.moved += len(data)
        if self.phase.over:
            return
        reader.feed(data)
        self._batches.do(ANSWER, Connection._proceed, self)
        # Nearly always one small request arrives. Skip the sum of `backlog` then.
        busy = reader.receiving is not None or reader.held is not None or len(reader.calls) > 1
        if busy or reader.later:
            self._read_less()

    def _read_less(self) -> None:
        """Stops reading from the caller while too much waits, or while bytes wait for another turn to be parsed."""
        if self._reader.backlog >= HIGH_WATER:
            self._flow.hold()
        elif self._reader.later:
            self._flow.hold()
            self._read_on_soon()

    def _read_on_soon(self) -> None:
        if not self._reading_on:
            self._reading_on = True
            self._batches.do(ANSWER, Connection._read_on, self)

    def _read_on(self) -> None:
        self._reading_on = False
        self._reader.read_on()
        self._proceed()
        self._read_less()
        self.resume_content()

    def pause_writing(self) -> None:
        self._flow.full = True

    def resume_writing(self) -> None:
        self._flow.resume()
        self._batches.do(ANSWER, Connection._proceed, self)

    # What calls use

    @property
    def draining(self) -> bool:
        """Whether no further request is accepted."""
        return self._server.draining or self.phase.over

    def write(self, data: bytes) -> None:
        """Sends now. The transport buffers the rest, without a limit: call `drain` after it."""
        if self.transport is not None:
            self._flow.moved += len(data)
            self.transport.write(data)

    def reply(self, data: bytes) -> None:
        """Sends a whole response in one batch with those of other connections, in order."""
        if self.transport is not None:
            self._batches.do(REPLY, self.transport.write, data)

    async def drain(self) -> None:
        """Waits until the caller has taken enough. If it never does, its deadline cancels the call."""
        if self._flow.full:
            self._enter("block")
            await self._flow.taken()
            if not self.phase.over:
                self._enter("take")

    def port(self) -> int | None:
        """Our TCP port. None for a unix socket."""
        name = self.transport.get_extra_info("sockname") if self.transport is not None else None
        return name[1] if isinstance(name, tuple) else None

    def resume_content(self) -> None:
        if self._flow.held and self._reader.backlog <= LOW_WATER:
            if self._reader.later:
                self._read_on_soon()
            else:
                self._flow.release()

    def relay(self) -> None:
        """The response to a SENT call has begun to arrive, or failed."""
        self._batches.do(ANSWER, Connection._relay, self)

    def tunnel(self, call: Call) -> None:
        """From now on, all bytes that arrive become content of `call`."""
        self._enter("switch")
        self._reader.tunnel(call)

    # The requests, one after the other

    def _enter(self, event: Event) -> None:
        self.phase = phase = step(self.phase, event)
        self.since = self._server.time()
        if phase.progress is not None:
            self._flow.begin()

    def _proceed(self) -> None:
        """Takes the next step. Called after bytes arrived, the caller took data, or a call ended."""
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
            elif phase is phases.STANDING and self._reader.calls:
                self._stand()
        except Exception as error:  # `_fail` handles every kind
            self._fail(self._call, error)

    def _begin(self) -> None:
        """Begins the next call, if there is one."""
        server, reader = self._server, self._reader
        if not reader.calls:
            if not reader.reading_head:
                if server.closing:
                    self._end()
            elif self.phase is not phases.HEAD:
                self._enter("begin")
            return
        if self._flow.full:  # the caller must take earlier responses before it gets more
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

    def _stand(self) -> None:
        """Answers the only call of a connection without a seat."""
        call = self._reader.calls[0]
        call.persistent = False
        if call.fault is None and not self._server.is_probe(call):
            call.fault = _FULL
        self._begin()

    def _lead(self, call: Call, event: Event) -> None:
        """Continues in the way that `Server.begin` chose."""
        if self.phase.over:
            return  # it was cut meanwhile
        if event == "next":
            self._answered(call, "refuse")  # nobody needs its content
            return
        self._enter(event)
        if event == "read":
            call.go_on()
            self._read_form()
        else:
            self.task = spawn(self._answer(call), name="call")

    def _read_form(self) -> None:
        """Starts the page once the content is complete. A page never sees a part of it."""
        call = self._call
        assert call is not None  # the phase says so
        if call.content.error is not None:
            self._fail(call, call.content.error)
        elif call.content.received > LONGEST_FORM:
            self._fail(call, too_long())
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
        except Exception as error:  # as in `_proceed`
            self._fail(call, error)

    async def _answer(self, call: Call) -> None:
        try:
            await self._server.answer(call)
            if self._call is call:
                self._answered(call, "refuse" if call.request.page else "skip")
        except asyncio.CancelledError as error:
            if self._call is call:  # not by us, so nobody else ends the connection
                self._break_off(call, RuntimeError(repr(error)))
            raise
        except Exception as error:  # as in `_proceed`
            if self._call is call:
                self._fail(call, error)

    def _fail(self, call: Call | None, error: Exception) -> None:
        """Ends a call after any exception: with an error response, or by a cut if the response has begun."""
        if isinstance(error, UpstreamBroken):
            error = Refused("upstream_invalid", f"The response broke off. {error}")
        try:
            if call is not None:
                self._give_up(call)
                # Inside a response that has begun, a second one would look like content.
                if isinstance(error, ProxyError) and not call.outcome.status:
                    call.outcome.code = error.code
                    self._server.refuse(call, error)
                    self._answered(call, "refuse")
                    return
        except Exception as fault:  # a fault in the error response must end the connection, too
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
        if call is None or call.outcome.status:
            self._break()
        else:
            self._end()

    def _give_up(self, call: Call) -> None:
        if call.attempt is not None:
            call.attempt.abort()
        task, self.task = self.task, None
        if task is not None and task is not asyncio.current_task():
            task.cancel()

    def _answered(self, call: Call, early: Event = "skip") -> None:
        """Finishes a call that has its response. `early`: the event if content of the request is still to come.

        "skip" if the upstream answered. "refuse" if we did: then there is less patience.
        """
        content = call.content
        if content.complete:
            if call.persistent:
                self._next()
            elif call.fault is None and not self._halves:
                self._end()
            else:
                self._linger()
        elif content.error is not None or content.expected or not self.phase.seated:
            self._linger()  # nobody knows whether content still comes, or where it ends, or nobody may wait for it
        else:
            self._rest = call
            self._enter(early)
            self._skip()
            if not call.persistent:
                self._batches.do(RECORD, Connection._close_half, self)
        self._call = self.task = None
        self._batches.do(RECORD, self._server.done, call)

    def _next(self) -> None:
        self._enter("next")
        reader = self._reader
        if reader.held is not None:
            reader.go_on()
            if reader.later:
                self._read_less()
        if reader.calls or reader.reading_head or self._server.closing:
            self._batches.do(ANSWER, Connection._proceed, self)

    def _skip(self) -> None:
        """Drops the remaining content of a call that was answered early. Then the next request can be read."""
        call = self._rest
        assert call is not None  # the phase says so
        call.content.drop()
        if call.content.error is None and not call.content.complete:
            return
        self._rest = None
        if call.persistent and call.content.complete:
            self._next()
            self._batches.do(ANSWER, Connection._proceed, self)
        else:
            self._linger()

    # The end

    def check(self, now: float) -> None:
        """Ends the call or the connection if the deadline of the phase has passed. Called about once a second."""
        phase, waited = self.phase, now - self.since
        if phase is phases.LINGERING and self._flow.untaken:
            phase = phases.CLOSING  # its rules hold until the caller has read the last response
        if phase.progress is not None and self._flow.progress(waited, phase.progress):
            self.since = now
        elif waited >= self._server.deadlines[phase]:
            if phase is phases.FRESH:
                _log.info("connection.timed_out", reason="no request arrived", peer=self.peer.address)
            elif phase is phases.IDLE:
                _log.debug("connection.idle", seconds=self._server.deadlines[phase])
            self._end_early()
        elif phase is phases.CLOSING and waited >= _SETTLED and self.transport is not None and not self._flow.untaken:
            self.transport.abort()  # a TLS caller that does not answer our close_notify
        receiving = self._reader.receiving
        if receiving is not None:
            receiving.content.expire(now)
            if receiving is self._call:
                self._check_pace(receiving, now)

    def _check_pace(self, call: Call, now: float) -> None:
        """Ends a call whose content arrives too slowly, even if each piece comes in time."""
        content = call.content
        if self._pace is None or self._paced is not content:
            self._paced, self._pace = content, Pace(now)
        if not self.phase.paced or self._flow.held or content.expected:
            self._pace.pause(content.received, now)  # we do not want more at the moment
        elif not self._pace.kept(content.received, now, self._server.patience):
            call.persistent = False
            self._fail(call, late())

    def make_room(self) -> None:
        """Ends the connection to make room for another caller."""
        self._end_early()
        if self.phase.ending == "linger":  # it has its response, and does not get the time to send the rest
            self._linger()
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
                if call is None:  # the head is incomplete
                    self._reader.fail(_LATE_HEAD)
                    self._proceed()
                else:
                    call.persistent = False  # its content may still arrive
                    self._fail(call, late())
            case "503":
                self._reader.fail(_FULL)
                self._proceed()
            case "504":
                self._fail(call, _LATE_ANSWER)
            case "reset":
                self.cut(silent=True)
            case "drop" if self.phase is phases.LINGERING and not self._halves:
                self._end()
            case "drop" if self.transport is not None:
                self.transport.abort()

    def close(self) -> None:
        """Closes the connection if it is idle. A request that has just arrived is answered first."""
        reader, flow = self._reader, self._flow
        if self.phase is phases.LINGERING and not (flow.untaken or flow.unread):
            self._close()  # the caller has everything, and does not close its half
        if self.phase in {phases.FRESH, phases.IDLE} and not (reader.calls or reader.reading_head or flow.unread):
            self._end()

    def cut(self, *, silent: bool) -> None:
        """Ends at once. `silent`: with a reset, because a close would look like the end of a response."""
        if self.transport is None:
            return
        if silent:
            self._enter("end")
            self._reset(self._server.time())
        else:
            self._end()

    def _break(self) -> None:
        """Breaks off a response that has begun. First the caller gets what there is of it, if it takes that soon.

        Then comes a reset, however the response is framed: many callers take half a response for a whole one if the
        connection is closed in the orderly way, even if its Content-Length says otherwise.
        """
        self._reader.close()
        self._enter("end")
        self._reset(self._server.time() + _DELIVERY)

    def _reset(self, latest: float) -> None:
        transport = self.transport
        if transport is None:
            return
        if self._flow.untaken and self._server.time() < latest:
            asyncio.get_running_loop().call_later(_POLL, self._reset, latest)
            return
        sock = transport.get_extra_info("socket")
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        transport.abort()

    def _end(self) -> None:
        """Closes in an orderly way, once all written data is sent."""
        self._batches.do(RECORD, Connection._close, self)
        self._enter("end")

    def _linger(self) -> None:
        """Closes our half, and drops what still arrives until the caller closes the other half, or for a while.

        RFC 9112, 9.6: closing at once would reset the connection, and the reset "might erase the client's
        unacknowledged input buffers before they can be read". The caller would never see the response.
        """
        self._batches.do(RECORD, Connection._close_half, self)
        self._enter("linger")
        self._reader.close()
        self._flow.release()

    @property
    def _halves(self) -> bool:
        """Whether our half can be closed. TLS cannot do that: after its close_notify it reads nothing."""
        return self.transport is not None and self.transport.can_write_eof()

    def _close_half(self) -> None:
        if self.transport is not None and self.transport.can_write_eof():
            with suppress(OSError, RuntimeError):
                self.transport.write_eof()

    def _close(self) -> None:
        if self.transport is not None:
            self.transport.close()
