"""Reads the requests of one connection, strictly. `RequestParser` parses them. We add limits and further checks.

`feed` takes bytes. `calls` gets a `Call` for each complete head, and later bytes become the content of that call. A
request that is not valid HTTP becomes a call with a `fault`, and ends the reading.
"""

import sys
from collections import deque
from contextlib import suppress
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, Final, NamedTuple

import httptools

from krebit_proxy.core.admission import Request, check_method
from krebit_proxy.core.fields import Names
from krebit_proxy.core.head import NO_FIELDS, Head
from krebit_proxy.core.upgrade import offered
from krebit_proxy.errors import Refused
from krebit_proxy.web.call import NO_CONTENT, Call, Content
from krebit_proxy.web.flow import HIGH_WATER
from krebit_proxy.web.request_parser import RequestParser

if TYPE_CHECKING:
    from krebit_proxy.web.connection import Connection

_ON_LINE: Final = 4  # ": " and CRLF
_A_CALL: Final = 8 << 10  # bytes that a waiting call adds to the backlog, apart from its content
_MEMORABLE: Final = 4096  # bytes; a larger head is not kept for comparison with the next one
# The parser stops only at the end of its input. So more than a little is passed to it in slices that end where a head
# or chunked content may end: then no slice completes two requests.
_LITTLE: Final = 1024  # bytes
_SLICE: Final = 16 << 10  # bytes
_ENDS: Final = b"\r\n\r\n"
_MOST_CALLS: Final = HIGH_WATER // _A_CALL  # calls that may wait before reading stops
# What one turn of the event loop may spend on parsing for one connection, so that others get their turn. A slice costs
# its bytes plus _A_SLICE. All of it takes some milliseconds at worst.
_A_TURN: Final = 64 << 10
_A_SLICE: Final = 256
# Browsers send the cookies of all programs on localhost. Where we drop cookies, they need not fit in the limit, but
# in so many times the limit.
_COOKIES: Final = 4


class _Stop(Exception):
    """Stops the parser. The rest of the connection is not read."""


class ReaderSettings(NamedTuple):
    """Settings shared by the readers of all connections."""

    limit: int  # bytes of a head
    patience: float  # seconds between two pieces of content
    withheld: frozenset[bytes]  # names of fields that are not forwarded, for `Head`


class _Unfinished:
    """The message that is being read, and how many bytes of it we and the parser hold."""

    __slots__ = ("fed", "feeding", "fields", "progress", "stuck")

    def __init__(self) -> None:
        self.fields: list[tuple[bytes, bytes]] = []
        self.fed = self.feeding = 0  # bytes since the last message ended (an upper bound); bytes of this `feed`
        self.progress: tuple[int, int] | None = None
        self.stuck = 0  # bytes without progress

    def size(self) -> int:
        """Bytes of all fields."""
        return sum([len(name) + len(value) + _ON_LINE for name, value in self.fields])

    def cookies(self) -> int:
        """Bytes of Cookie fields."""
        return sum([len(name) + len(value) + _ON_LINE for name, value in self.fields if name.lower() == b"cookie"])


class RequestReader:
    """Turns bytes into calls, in order.

    Attributes:
        calls: Calls that nobody has begun to answer yet. If bytes are not valid HTTP, the last call has a `fault`.
        reading_head: A head has begun and is not complete.
        receiving: The call whose content is being read.
        finished: Nothing more is read, because the last request said so or its successor was invalid.
        held: Bytes after a request with an Upgrade. `tunnel` passes them on raw, `go_on` reads them as requests.
        later: Bytes that were more than one turn or the calls that wait allow to parse. `read_on` parses them.
    """

    __slots__ = ("_connection", "_head", "_http", "_left", "_pieces", "_settings", "_unfinished", "calls", "finished",
                 "held", "later", "reading_head", "receiving")  # fmt: skip

    def __init__(self, connection: "Connection", settings: ReaderSettings) -> None:
        self._connection = connection
        self._settings = settings
        self._http = RequestParser(self)
        self._unfinished = _Unfinished()
        self._head = NO_FIELDS  # of the last request: the next one often has the same fields
        self.receiving: Call | None = None
        self._left = 0  # bytes of content that bypass the parser
        self.calls: deque[Call] = deque()
        self.reading_head = self.finished = False
        self.held: bytes | None = None
        self.later = b""
        self._pieces: list[bytes] = []  # of chunked content, from the slice that is being parsed

    @property
    def backlog(self) -> int:
        """Bytes that wait to be taken, without `later`. Each waiting call counts for some."""
        size = len(self.held or b"") + sum([call.content.size + _A_CALL for call in self.calls])
        return size + (self.receiving.content.size if self.receiving is not None else 0)

    def feed(self, data: bytes) -> None:
        """Parses bytes from the caller. Raises nothing: invalid bytes become a `fault`.

        It may leave bytes in `later`. Then stop reading from the caller, and call `read_on` in another turn.
        """
        if self.held is not None:
            self.held += data
        elif self.later:
            self.later += data
        elif len(data) > _LITTLE:
            self._parse_in_slices(data)
        elif not self.finished:
            if self._left:
                data = self._pass(data)
            if data and not self.finished:
                self._parse(data)

    def read_on(self) -> None:
        """Parses what `feed` has left for later."""
        later, self.later = self.later, b""
        if later:
            self._parse_in_slices(later)

    def _parse_in_slices(self, data: bytes) -> None:
        at, size, spent = 0, len(data), 0
        view = memoryview(data)
        while at < size and not self.finished:
            if self._left:
                content = data[at : at + self._left]
                at += len(content)
                self._pass(content)
            elif self.held is not None:
                self.held += data[at:]
                return
            elif spent > _A_TURN or len(self.calls) >= _MOST_CALLS:
                self.later = data[at:]
                return
            else:
                end = data.find(_ENDS, at, at + _SLICE)
                piece = view[at : end + len(_ENDS) if end >= 0 else at + _SLICE]
                at += len(piece)
                spent += len(piece) + _A_SLICE
                self._parse(piece)

    def _parse(self, data: bytes | memoryview) -> None:
        unfinished = self._unfinished
        unfinished.feeding = len(data)
        unfinished.fed += len(data)
        try:
            self._http.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._after_offer(bytes(data[upgrade.args[0] :]))
        except Refused as error:
            self.fail(error)
        except httptools.HttpParserError as error:
            self.fail(self._diagnosis(error))
        else:
            call = self.receiving
            if call is None:
                if unfinished.fed > self._settings.limit and self.reading_head:
                    self._measure_unfinished(len(data))
                return
            if self._pieces:
                self._gather(call)
            if call.length is not None:
                # Content of a known length bypasses the parser. The next request gets a new one.
                self._left = call.length - call.content.received
                self._http = RequestParser(self)
            elif unfinished.fed > self._settings.limit:
                self._measure_unfinished(len(data))

    def _gather(self, call: Call) -> None:
        """Passes on the chunked content of a slice in one piece, however small its chunks are."""
        pieces, self._pieces = self._pieces, []
        call.content.feed(pieces[0] if len(pieces) == 1 else b"".join(pieces))

    def _pass(self, data: bytes) -> bytes:
        """Takes the content from `data`, and returns the rest."""
        left = self._left
        self._left -= min(left, len(data))
        assert self.receiving is not None  # it has `_left` bytes of content to come
        self.receiving.content.feed(data[:left])
        if not self._left:
            self._unfinished.feeding = 0
            self.on_message_complete()
        return data[left:]

    def go_on(self) -> None:
        """Reads on as HTTP, because no protocol was switched."""
        held, self.held = self.held, None
        if held is None or self.finished:
            return
        if self.receiving is None:
            self._http = RequestParser(self)
        if held:
            self.feed(held)

    def tunnel(self, call: Call) -> None:
        """From now on, all bytes are content of `call`, which never completes."""
        call.content = Content(self._connection, inf)
        self.receiving, self._left = call, sys.maxsize
        held, self.held, self.finished = self.held, None, False
        if held:
            self.feed(held)

    def close(self) -> None:
        """Ends reading and frees everything, also the parser, which is in a reference cycle with this object."""
        self.finished = True
        self.calls.clear()
        self.receiving = self.held = None
        self.later = b""
        self._unfinished = _Unfinished()
        with suppress(AttributeError):  # closed already
            del self._http

    def _after_offer(self, rest: bytes) -> None:
        # The parser stops after each Upgrade field. We hold the following bytes only if we forward that field.
        if (call := self.receiving) is not None:
            # It would take the content of this request for the other protocol. So a new parser reads the content.
            self._http = RequestParser(self, chunked=call.length is None)
            self._left = call.length or 0
        self.held = rest
        if self.calls[-1].request.upgrade is None:
            self.go_on()

    def fail(self, error: Refused) -> None:
        """Ends reading with a faulty call: after invalid bytes, nobody knows where the next request starts."""
        if self.finished:  # bytes after the last request do not matter
            return
        self.finished = True
        if self.receiving is not None:
            self.receiving.content.fail(error)
        else:
            # Accept is known, so that a browser gets a page.
            fields = [(name, value) for name, value in self._unfinished.fields if name.lower() == b"accept"]
            head = replace(NO_FIELDS, fields=fields, names=Names([b"accept"] * len(fields)))
            request = Request(self._connection.peer, *self._http.seen(), head)
            self.calls.append(Call(self._connection, request, fault=error))

    def _measure_unfinished(self, size: int) -> None:
        """Fails if a head, a chunk extension or the trailers grow beyond the limit without an end."""
        unfinished = self._unfinished
        received = self.receiving.content.received if self.receiving is not None else 0
        progress = (len(unfinished.fields), received)
        unfinished.stuck = unfinished.stuck + size if progress == unfinished.progress else 0
        unfinished.progress = progress
        if self._is_too_large(self._http.pending if self.reading_head else unfinished.stuck):
            self.fail(self._too_large())

    def _is_too_large(self, pending: int = 0) -> bool:
        """Whether the fields are too large, with `pending` bytes of the next one."""
        settings, unfinished, http = self._settings, self._unfinished, self._http
        size = http.line_size() + unfinished.size() + pending
        if size <= settings.limit:
            return False
        free = 0
        if b"cookie" in settings.withheld:
            free = unfinished.cookies() + (pending if http.in_cookie else 0)
        return size - min(free, _COOKIES * settings.limit) > settings.limit

    def _too_large(self) -> Refused:
        limit, unfinished = self._settings.limit, self._unfinished
        if self._http.line_size() > limit or (self.reading_head and not unfinished.fields):
            return Refused(
                "uri_too_long",
                f"The URL of the request is longer than {limit} bytes.",
                hint="You can raise limits.header_bytes.",
            )
        if self._http.in_cookie or unfinished.cookies() > limit // 2:
            return Refused(
                "header_too_large",
                f"The request headers are larger than {limit} bytes. Most of that are cookies, "
                "probably those of other programs on localhost.",
                hint="Delete the cookies of localhost in your browser, or use 127.0.0.1 instead of localhost.",
            )
        return Refused(
            "header_too_large",
            f"The request headers are larger than {limit} bytes.",
            hint="You can raise limits.header_bytes.",
        )

    # Callbacks of httptools

    def on_message_begin(self) -> None:
        self._unfinished.fields = []  # with the trailers of the last request, which are dropped here
        self.reading_head = True

    def on_header(self, name: bytes, value: bytes) -> None:
        self._unfinished.fields.append((name, value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        """Makes a call of the head. Its content follows."""
        self.reading_head = False
        http, unfinished = self._http, self._unfinished
        line = http.line
        assert line is not None  # it comes before the fields
        try:
            head = self._examined(unfinished.fields, http10=line.http10)
        except Refused as error:
            self.fail(error)
            raise _Stop from None
        unfinished.fields = []
        method = line.method
        # We refuse CONNECT, and the bytes after it are meant for the tunnel.
        persistent = http.http.should_keep_alive() and method != b"CONNECT"
        request = Request(self._connection.peer, method, line.target, head)
        self.receiving = call = Call(self._connection, request, persistent=persistent)
        if head.length != 0:
            call.content = Content(self._connection, self._settings.patience, expected=head.expects)
        elif http.http.should_upgrade():
            request.upgrade = offered(method, head)
        self.calls.append(call)

    def _examined(self, fields: list[tuple[bytes, bytes]], *, http10: bool) -> Head:
        """The head, checked. Raises Refused if it is too large or not valid HTTP."""
        settings, unfinished = self._settings, self._unfinished
        if unfinished.fed > settings.limit and self._is_too_large():
            raise self._too_large()
        head = self._head
        if head.fields != fields or head.http10 != http10 or head is NO_FIELDS:
            head = Head.examined(fields, http10=http10, withheld=settings.withheld)
            self._head = head if unfinished.fed <= _MEMORABLE else NO_FIELDS
        return head

    def on_body(self, piece: bytes) -> None:
        self._pieces.append(piece)

    def on_message_complete(self) -> None:
        """Completes the content. After the last request, also ends reading."""
        call = self.receiving
        if call is not None and call.content is not NO_CONTENT and self._http.http.should_upgrade():
            return  # its content is still to be read: see _after_offer
        self.receiving = None
        if self._pieces and call is not None:
            self._gather(call)
        unfinished = self._unfinished
        unfinished.fed = unfinished.feeding
        unfinished.progress = None
        if call is None:
            return
        if call.request.head.length != 0:
            call.content.end()
        self.finished = not call.persistent

    def _diagnosis(self, error: httptools.HttpParserError) -> Refused:
        """The parser's error in our words. It quotes nothing of the request, which may contain a secret."""
        line = self._http.line
        if line is not None:
            if "Invalid method" in str(error):
                try:
                    check_method(line.method)  # a better error for TRACK, which the parser does not know
                except Refused as refused:
                    return refused
                return Refused("not_implemented", "The proxy does not know this method.")
            if isinstance(error, httptools.HttpParserInvalidURLError):
                return Refused("bad_request", "The request target is neither a path nor an http URL.")
        return Refused("bad_request", "A header line is not valid HTTP/1.1.")
