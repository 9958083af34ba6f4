"""Reads the requests of one connection: strictly, and by a parser that is not ours."""

import re
from collections.abc import Callable
from typing import Final

import httptools

from krebit_proxy.core.admission import check_method
from krebit_proxy.core.head import NO_FIELDS, Head
from krebit_proxy.errors import Refused
from krebit_proxy.web.call import NO_CONTENT, Call, Connection, Content

# A request line whose method is the only thing wrong with it; before it, another request may have come.
_UNKNOWN_METHOD: Final = re.compile(
    rb"(?:\A|\r\n\r\n)(?!(?:GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) )"
    rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}) [^ \r\n]+ HTTP/"
)
_ON_LINE: Final = 4  # ": " and CRLF
_MEMORABLE: Final = 4096  # bytes; the fields of a larger head are not kept for the next request


class _Stop(Exception):
    """Tells the parser to stop: what follows on this connection is not read."""


class RequestReader:
    """Turns what arrives into calls, in order. Content goes to the call's `content`.

    `reading_head` is true while a head has begun and is not complete. `finished` means that no more is read, because
    the last request said so or what followed it makes no sense. `held` are bytes after a request that may turn the
    connection into a tunnel: `go_on` reads them as requests when it did not.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        limit: int,
        patience: float,
        withheld: frozenset[bytes],
        arrived: Callable[[Call], None],
    ) -> None:
        """`limit`: bytes of a head; `patience`: seconds between two pieces of content; `withheld`: for `Head`."""
        self._connection = connection
        self._limit = limit
        self._patience = patience
        self._withheld = withheld
        self._head = NO_FIELDS  # of the last request: the next one may well have the same fields
        self._arrived = arrived
        self._http: httptools.HttpRequestParser | None = httptools.HttpRequestParser(self)
        self._target = b""
        self._fields: list[tuple[bytes, bytes]] = []
        self._call: Call | None = None  # whose content is being read
        self._fed = self._feeding = 0  # bytes since the last message ended, at most; bytes of this round
        self._progress: tuple[int, int, int] | None = None  # of the message that is being read
        self._without_progress = 0
        self.content = NO_CONTENT
        self._left = 0  # bytes of content that go past the parser
        self._tunnel = False  # the last head offers a switch that goes upstream
        self.reading_head = False
        self.finished = False
        self.held: bytes | None = None

    def feed(self, data: bytes) -> None:
        """Takes what arrived."""
        if self.held is not None:
            self.held += data
            return
        http = self._http
        if self.finished or http is None:
            return
        if self._left:
            data = self._pass(data)
            if not data or self.finished:
                return
        self._feeding = len(data)
        self._fed += len(data)
        try:
            http.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._after_offer(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            self._fail(_diagnosis(error, data))
        else:
            if self._call is not None and self._call.length is not None:
                self._count_content(self._call.length)
            elif self._fed > self._limit and (self.reading_head or self._call is not None):
                self._measure_unfinished(len(data))

    def _count_content(self, length: int) -> None:
        """From now on, content whose end is known by counting needs no parser; the next request gets a new one."""
        self._left = length - self.content.received
        self._http = httptools.HttpRequestParser(self)

    def _pass(self, data: bytes) -> bytes:
        """Takes what is content, and gives back what comes after it."""
        left = self._left
        piece = data[:left]
        self._left -= len(piece)
        self.content.feed(piece)
        if not self._left:
            self._feeding = 0
            self.on_message_complete()
        return data[left:]

    def go_on(self) -> None:
        """The switch to another protocol did not come about: reads on."""
        held, self.held = self.held, None
        if held is None:
            return
        if self._call is None:
            self._http = httptools.HttpRequestParser(self)
        if held:
            self.feed(held)

    def time_out(self) -> None:
        """The head took too long."""
        self._fail(Refused("request_timeout", "The head of the request did not arrive in time."))

    def close(self) -> None:
        """Ends reading; frees the parser, which holds this object and is held by it."""
        self.finished = True
        self._http = None

    def _after_offer(self, rest: bytes) -> None:
        # The parser stops at every offer to switch protocols. Only one that goes upstream holds up what follows.
        if self._call is not None:
            self._read_content(self._call)
        self.held = rest
        if not self._tunnel:
            self.go_on()

    def _read_content(self, call: Call) -> None:
        """Reads the content of a request with an offer, which the parser takes for the other protocol: by a new one."""
        framed = b"Transfer-Encoding: chunked" if call.length is None else b"Content-Length: %d" % call.length
        self._http = httptools.HttpRequestParser(self)
        self._http.feed_data(b"POST / HTTP/1.1\r\n%b\r\n\r\n" % framed)

    def _fail(self, error: Refused) -> None:
        """What came cannot be a request, so nothing after it can be trusted to be one."""
        if self.finished:  # bytes after the last request are nobody's
            return
        self.finished = True
        if self._call is not None:
            self._call.content.fail(error)
        else:
            call = Call(self._connection)
            call.refusal = error
            self._arrived(call)

    def _measure_unfinished(self, size: int) -> None:
        """Bounds what the parser and we hold of a head, a chunk extension or trailers that do not end."""
        progress = (len(self._target), len(self._fields), self.content.received)
        self._without_progress = self._without_progress + size if progress == self._progress else 0
        self._progress = progress
        if self._head_size() + self._without_progress > self._limit:
            self._fail(self._too_large())

    def _head_size(self) -> int:
        return len(self._target) + sum([len(name) + len(value) + _ON_LINE for name, value in self._fields])

    def _too_large(self) -> Refused:
        if len(self._target) > self._limit or (self.reading_head and not self._fields):
            return Refused("uri_too_long", f"The request target is longer than {self._limit} bytes.")
        return Refused(
            "header_too_large",
            f"The head of the request is larger than {self._limit} bytes.",
            hint="limits.header_bytes can be raised.",
        )

    # What httptools calls.

    def on_message_begin(self) -> None:
        """A request begins."""
        self._target, self._fields = b"", []  # with the trailers of the last request, which are dropped here
        self.reading_head = True

    def on_url(self, part: bytes) -> None:
        """A part of the request target."""
        self._target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field of the head, or a trailer."""
        self._fields.append((name, value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        """The head is complete."""
        http = self._http
        assert http is not None  # it is calling
        self.reading_head = False
        if self._call is not None:  # the head is our own: see _read_content
            return
        method, version = http.get_method(), http.get_http_version()
        call = Call(
            self._connection,
            method=method,
            target=self._target,
            fields=self._fields,
            http10=version == "1.0",
            # What follows a CONNECT is meant for a tunnel that there will not be.
            persistent=http.should_keep_alive() and method != b"CONNECT",
        )
        self._tunnel = False
        try:
            self._examine(call, version)
            # RFC 9110, 7.8: "A server MUST ignore an Upgrade header field that is received in an HTTP/1.0 request."
            if http.should_upgrade() and call.length == 0 and not call.http10:
                call.upgrade = _offer(call.field(b"upgrade"))
                self._tunnel = call.upgrade is not None
        except Refused as error:
            call.refusal = error
            call.persistent = False
            self.finished = True
            self._arrived(call)
            raise _Stop from None
        self._target, self._fields = b"", []
        self._call = call
        self._arrived(call)

    def _examine(self, call: Call, version: str) -> None:
        """Raises Refused for what is not a valid message, as `Head.examined` does."""
        if version not in {"1.1", "1.0"}:
            raise Refused("version_not_supported", "Only HTTP/1.1 and HTTP/1.0 are served.")
        if self._fed > self._limit and self._head_size() > self._limit:
            raise self._too_large()
        head = self._head
        if head.fields != call.fields or head.http10 != call.http10 or head is NO_FIELDS:
            head = Head.examined(call.fields, http10=call.http10, withheld=self._withheld)
            self._head = head if self._fed <= _MEMORABLE else NO_FIELDS
        call.head = head
        call.names, call.fields, call.length = head.names, head.fields, head.length
        if call.length != 0:
            call.content = self.content = Content(self._connection, self._patience)
            call.expects = head.expects

    def on_body(self, piece: bytes) -> None:
        """Content, without its framing."""
        self.content.feed(piece)

    def on_message_complete(self) -> None:
        """A request is complete."""
        http = self._http
        if http is not None and http.should_upgrade() and self.content is not NO_CONTENT:
            return  # its content is not read yet: see _read_content
        call, self._call = self._call, None
        self._fed = self._feeding
        self._progress = None
        if call is None:
            return
        if call.length != 0:
            call.content.end()
        if call.length is None and http is not None and not http.should_keep_alive():
            call.persistent = False  # a trailer `Connection: close`, after which the parser takes nothing more
        self.content = NO_CONTENT
        self.finished = not call.persistent


def _offer(value: bytes | None) -> bytes | None:
    # RFC 9113, 3.1: the h2c token is obsolete, and "a server can ignore" any offer (RFC 9110, 7.8). Java's client makes
    # it with every first request.
    protocols = [part.strip(b" \t") for part in (value or b"").split(b",")]
    return b", ".join([part for part in protocols if part and part.lower() != b"h2c"]) or None


def _diagnosis(error: httptools.HttpParserError, data: bytes) -> Refused:
    """The parser's finding in our words. What was sent is not repeated: it may hold a secret."""
    if isinstance(error, httptools.HttpParserInvalidMethodError) and (unknown := _UNKNOWN_METHOD.search(data)):
        try:
            check_method(unknown[1])  # the parser knows nothing of TRACK
        except Refused as never:
            return never
        return Refused("not_implemented", "This method is not known here.")
    if str(error) in {"Invalid HTTP version", "Pause on PRI/Upgrade"}:
        return Refused("version_not_supported", "Only HTTP/1.1 and HTTP/1.0 are served.")
    return Refused("bad_request", "What was sent is not a valid HTTP/1.1 request.")
