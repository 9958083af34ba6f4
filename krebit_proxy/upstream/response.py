"""Reads one response strictly: its head, then its content by one of the four framings of RFC 9112, 6.3.

httptools parses heads and chunks. Other content bypasses it.
"""

import re
from dataclasses import dataclass
from typing import Final

import httptools

from krebit_proxy.core.fields import Names, connection_options, folded

# Octets of a head, with all 1xx responses before it. Krebit's heads are small, but 60 kB of Set-Cookie must pass.
HEAD_LIMIT: Final = 128 << 10

# RFC 9112, 7.1.1: "A server ought to limit the total length of chunk extensions received in a request". So should a
# client, and trailers too: together they may be as large as a head. The framing of small chunks does not count, up to
# so many octets for each octet of content.
_FRAMING: Final = 16
_PIECES: Final = 64  # pieces of content that are kept apart; each costs as much memory as 40 octets

# RFC 9112, 4: "reason-phrase = 1*( HTAB / SP / VCHAR / obs-text )". The parser does not check that.
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_H: Final = ord("H")
_MOST_DIGITS: Final = 18

Octets = bytes | bytearray | memoryview


class InvalidResponse(Exception):
    """The response is not valid HTTP/1.x. The text names the broken rule, and quotes nothing of the response."""


@dataclass(slots=True)
class ResponseHead:
    """The final head of a response. Reason and fields are raw, in their original order."""

    version: str  # "1.0" or "1.1"
    status: int
    reason: bytes
    names: Names  # of the fields, in lower case
    fields: list[tuple[bytes, bytes]]
    length: int | None  # Content-Length; None: chunked, close-delimited, or absent
    chunked: bool
    has_content: bool  # False for HEAD, 101, 204 and 304
    persistent: bool  # the connection may carry another request afterwards


class Response:
    """The response to one request, fed with octets as they arrive.

    Attributes:
        head: The final head. None until it is complete.
        chunks: Content that was not taken yet, without framing and trailers.
        buffered: Octets in `chunks`.
        continued: A 100 (Continue) has arrived.
        done: The content is complete.
        dense: The chunks are so small that they take long to parse. Set with the head.
        surplus: Octets arrived after the end of the content, so the connection cannot be reused.
    """

    __slots__ = ("_bodiless", "_excess", "_http", "_left", "_reason", "_seen", "_sent", "_upgrade", "_values",
                 "buffered", "chunks", "continued", "dense", "done", "head", "surplus")  # fmt: skip

    def __init__(self, method: str, *, upgrade: bool = False) -> None:
        self.head: ResponseHead | None = None
        self._sent: list[bytes] = []  # names of the fields, as sent
        self._values: list[bytes] = []
        self.chunks: list[bytes] = []
        self.buffered = 0
        self.continued = False
        self.done = False
        self.surplus = False
        self._bodiless = method == "HEAD"
        self._upgrade = upgrade
        self._reason = b""
        self._seen = 0  # octets before the end of the final head
        self._excess: int  # octets of trailers and chunk extensions, about; set with the final head
        self.dense: bool
        self._left: int | None = 0  # octets of content to come; None: chunked, or until the connection closes
        # A new parser for each response, so that no state leaks into the next one.
        self._http: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)

    @property
    def started(self) -> bool:
        """An octet has arrived, so the request must not be sent again."""
        return self._seen > 0

    @property
    def reusable(self) -> bool:
        """Whether another response may follow on the connection."""
        return self.done and not self.surplus and self.head is not None and self.head.persistent

    @property
    def open_ended(self) -> bool:
        """Whether the content ends with the connection."""
        head = self.head
        if head is None or head.chunked or head.length is not None:
            return False
        return head.has_content or head.status == 101

    def feed(self, data: Octets) -> None:
        """Takes the next octets of the connection. Raises InvalidResponse."""
        head = self.head
        if head is None:
            self._parse(data)
        elif self.done:
            self.surplus = True
        elif head.chunked:
            self._read_chunks(data)
        else:
            self._pass(data)

    def take(self) -> bytes:
        """All content at hand, b"" if there is none."""
        chunks, self.buffered = self.chunks, 0
        if len(chunks) == 1:
            return chunks.pop()
        data = b"".join(chunks)
        chunks.clear()
        return data

    def _pass(self, data: Octets) -> None:
        """Takes content that ends after a known length, or with the connection. It needs no parser."""
        if self._left is not None:
            self.surplus = len(data) > self._left
            data = data[: self._left]
            self._left -= len(data)
            self.done = not self._left
        self.chunks.append(bytes(data))
        self.buffered += len(data)

    def _read_chunks(self, data: Octets) -> None:
        content = self.buffered
        self._parse(data)
        self._excess = max(0, self._excess + len(data) - _FRAMING * (self.buffered - content))
        if self._excess > HEAD_LIMIT and not self.done:
            raise InvalidResponse("its trailers or chunk extensions are too large")
        if len(self.chunks) > _PIECES:
            self.chunks = [b"".join(self.chunks)]
            self.dense = True

    def _parse(self, data: Octets) -> None:
        http = self._http
        assert http is not None
        if self.head is None:
            # The parser would accept RTSP, ICE and empty lines, too.
            if not self._seen and data[0] != _H:
                raise InvalidResponse("it does not begin with HTTP/")
            self._seen += len(data)
        try:
            http.feed_data(data)
        except httptools.HttpParserUpgrade as upgraded:
            if rest := data[upgraded.args[0] :]:
                self._pass(rest)
        except httptools.HttpParserError as error:
            # Octets after a complete response do not invalidate it. They only prevent reuse of the connection.
            if not self.done:
                raise _reason_of(error) from None
            self.surplus = True
        if self.head is None and self._seen > HEAD_LIMIT:
            raise InvalidResponse("its head is too large")

    def end(self, *, clean: bool) -> bool:
        """The connection ended. Returns whether the response is complete."""
        # RFC 9112, 8: "A response that has neither chunked transfer coding nor Content-Length is terminated by closure
        # of the connection and, if the header section was received intact, is considered complete unless an error was
        # indicated by the underlying connection": by a reset, or over TLS by an end without close_notify (9.8).
        if clean and self.open_ended:
            self.done = True
        return self.done

    def close(self) -> None:
        """Frees the parser, which is in a reference cycle with this object."""
        self._http = None

    # Callbacks of httptools

    def on_message_begin(self) -> None:
        """A message begins. After a 1xx it is the next response, after the final one it is surplus."""
        if self.done:
            self.surplus = True
        else:
            self._sent, self._values, self._reason = [], [], b""

    def on_status(self, reason: bytes) -> None:
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field of the head, or a trailer. RFC 9110, 6.5.1 allows us to drop trailers."""
        if self.head is None:
            self._sent.append(name)
            self._values.append(value)

    def on_headers_complete(self) -> None:
        """Checks a complete head: of a 1xx response, or the final one."""
        http = self._http
        if self.done or http is None:
            return
        status = http.get_status_code()
        version = http.get_http_version()
        if version not in {"1.1", "1.0"}:
            raise InvalidResponse("its HTTP version is neither 1.0 nor 1.1")
        if self._reason != b"OK" and _CONTROL.search(self._reason):
            raise InvalidResponse("its reason phrase holds a control character")
        if 200 <= status < 600:
            self._final(version, status, self._names())
        elif status == 101:
            self._switch(version, self._names())
        elif not 100 <= status < 200:
            raise InvalidResponse("its status is outside 200 to 599")
        elif status == 100:
            self.continued = True

    def _names(self) -> Names:
        # The parser refuses control characters in values.
        names = folded(self._sent)
        if names is None:
            raise InvalidResponse("it has a bad header field")
        return names

    def _final(self, version: str, status: int, names: Names) -> None:
        fields = list(zip(self._sent, self._values, strict=True))
        length, chunked, persistent = _framing(names, fields, version)
        if self._bodiless or status in {204, 304}:
            # RFC 9112, 6.3: "is always terminated by the first empty line after the header fields, regardless of the
            # header fields present in the message".
            has_content, self.done = False, True
            persistent = persistent and not (status == 204 and (length or chunked))
        else:
            has_content = True
            self._left = None if chunked else length
            persistent = persistent and (chunked or length is not None)
        self._excess, self.dense = 0, False
        self.head = ResponseHead(version, status, self._reason, names, fields, length, chunked, has_content, persistent)

    def _switch(self, version: str, names: Names) -> None:
        # RFC 9110, 15.2.2: the server "is willing to comply with the client's request, via the Upgrade header field,
        # for a change in the application protocol".
        if not self._upgrade:
            raise InvalidResponse("it switches protocols without a request for that")
        self._left, self.dense = None, False
        fields = list(zip(self._sent, self._values, strict=True))
        self.head = ResponseHead(version, 101, self._reason, names, fields, None, False, False, False)

    def on_body(self, data: bytes) -> None:
        if self.done:
            self.surplus = True
            return
        self.chunks.append(data)
        self.buffered += len(data)
        if self._left is not None:
            self._left -= len(data)

    def on_message_complete(self) -> None:
        """A message is complete. A 1xx response is one too, but does not count."""
        if self.head is not None and self.head.status != 101:
            self.done = True


def _framing(names: Names, fields: list[tuple[bytes, bytes]], version: str) -> tuple[int | None, bool, bool]:
    """Content-Length, whether it is chunked, and whether the connection persists. Raises InvalidResponse."""
    persistent = version == "1.1" and b"close" not in connection_options(names, fields)  # RFC 9112, 9.3
    lengths, codings = names.at.get(b"content-length"), names.at.get(b"transfer-encoding")
    if codings is not None:
        if lengths is not None:
            raise InvalidResponse("it has both Content-Length and Transfer-Encoding")
        # RFC 9112, 6.1: who "receives an HTTP/1.0 message containing a Transfer-Encoding header field MUST treat the
        # message as if the framing is faulty". Our requests accept no coding other than chunked.
        coding = fields[codings[0]][1]
        if len(codings) > 1 or version != "1.1" or coding.strip(b" \t").lower() != b"chunked":
            raise InvalidResponse("its Transfer-Encoding is not exactly chunked")
        return None, True, persistent
    if lengths is None:
        return None, False, persistent
    # The parser already refuses repeated lengths and anything but digits. Check again: all framing depends on it.
    length = fields[lengths[0]][1].strip(b" \t")
    if len(lengths) > 1 or not length.isdigit() or len(length) > _MOST_DIGITS:
        raise InvalidResponse("its Content-Length is not one number")
    return int(length), False, persistent


def _reason_of(error: httptools.HttpParserError) -> InvalidResponse:
    cause = error.__context__
    return cause if isinstance(cause, InvalidResponse) else InvalidResponse(f"the HTTP parser reports: {error}")
