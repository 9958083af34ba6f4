"""Parses the requests of one connection for a `RequestReader`: httptools, made strict.

httptools parses the fields of each head. Around it, this module knows where each message begins and ends:

- The request line is read by `core.request_line` before httptools sees it.
- A head ends at its first empty line. So httptools never gets bytes of two messages at once.
- Content of a known length ends by its length. Chunked content is read by `core.chunks`.
"""

from typing import TYPE_CHECKING, Final

import httptools

from krebit_proxy.core.chunks import Chunks
from krebit_proxy.core.request_line import RequestLine, after_empty_lines, read_line, seen
from krebit_proxy.errors import Refused

if TYPE_CHECKING:
    from krebit_proxy.web.request_reader import RequestReader

_EMPTY_LINE: Final = b"\r\n\r\n"
_COOKIE: Final = b"cookie:"
_LONGEST_SEEN: Final = 1024  # bytes of an invalid line that are kept


class RequestParser:
    """Calls `on_message_begin`, `on_header`, `on_headers_complete`, `on_body` and `on_message_complete` of its reader.

    Attributes:
        http: The parser of the head.
        line: The request line of the head that is being read. None: there is none yet.
        pending: How many bytes of an incomplete field have come.
    """

    __slots__ = ("_before", "_begun", "_chunks", "_field", "_reader", "http", "line", "pending")

    def __init__(self, reader: "RequestReader", *, chunked: bool = False) -> None:
        """`chunked`: the content of a message comes first."""
        self._reader = reader
        self.http = httptools.HttpRequestParser(reader)
        self.line: RequestLine | None = None
        self._begun = b""  # the request line, if it is incomplete or invalid
        self._before = b""  # the end of the bytes so far, if they end within a head
        self._field = b""  # the beginning of the field in which they end
        self.pending = 0
        self._chunks = Chunks() if chunked else None

    def feed_data(self, data: bytes | memoryview) -> None:
        """Parses `data`. It stops when the reader has finished.

        Raises:
            Refused: the request line or chunked content is invalid.
            HttpParserError: a field is invalid, or a callback raised an exception.
            HttpParserUpgrade: a head has an Upgrade field. The argument is where the head ends in `data`.
        """
        if not isinstance(data, bytes):
            data = bytes(data)
        reader, at, earlier = self._reader, 0, len(self._begun)
        if earlier:
            data, self._begun = self._begun + data, b""
        size = len(data)
        while at < size and not reader.finished:
            call = reader.receiving
            if call is None:
                try:
                    at = self._feed_head(data, at)
                except httptools.HttpParserUpgrade as upgrade:
                    raise httptools.HttpParserUpgrade(upgrade.args[0] - earlier) from None
            elif self._chunks is not None:
                at = self._feed_chunks(self._chunks, data, at)
            else:
                end = at + (call.length or 0) - call.content.received
                self.http.feed_data(data[at:end])
                at = end

    def _feed_head(self, data: bytes, at: int) -> int:
        """Parses a head, or a part of it, from `data[at:]`. Returns where it ends."""
        line = self.line
        if line is None:
            line = self._feed_line(data, at)
            if line is None:
                return len(data)
            found = data.find(_EMPTY_LINE, line.end - 2)
            end = found + len(_EMPTY_LINE)
            at = line.end if line.grown else at
        else:  # the empty line may have begun in the bytes before
            found = (self._before + data[at:]).find(_EMPTY_LINE)
            end = at + found + len(_EMPTY_LINE) - len(self._before)
        if found < 0:
            self._note_end(data, at)
            self.http.feed_data(data[at:])
            return len(data)
        try:
            self.http.feed_data(data[at:end])
        except httptools.HttpParserUpgrade:
            raise httptools.HttpParserUpgrade(end) from None
        if not self._reader.reading_head:
            self.line, self._before, self._field, self.pending = None, b"", b"", 0
            call = self._reader.receiving
            self._chunks = Chunks() if call is not None and call.length is None else None
        return end

    def _feed_line(self, data: bytes, at: int) -> RequestLine | None:
        """Reads the request line. httptools gets it only if it was changed. None: it is incomplete."""
        try:
            self.line = line = read_line(data, at)
        except Refused:
            self._begun = data[at : at + _LONGEST_SEEN]  # for the log
            raise
        if line is None:
            self._begun = data[after_empty_lines(data, at) :]
            if self._begun and not self._reader.reading_head:
                self._reader.on_message_begin()
        elif line.grown:
            self.http.feed_data(line.encoded())
        return line

    def _note_end(self, data: bytes, at: int) -> None:
        """Notes how the bytes end within a head."""
        self._before = (self._before + data[at:][-3:])[-3:]
        start = data.rfind(b"\n", at) + 1
        self.pending = len(data) - start if start else self.pending + len(data) - at
        self._field = (data[start:] if start else self._field + data[at:])[: len(_COOKIE)]

    def line_size(self) -> int:
        """Bytes of the target as it was sent, or of the request line as long as that is incomplete."""
        return len(self.line.target) - self.line.grown if self.line is not None else len(self._begun)

    @property
    def in_cookie(self) -> bool:
        """Whether the bytes so far end within a Cookie field."""
        return self._field.lower() == _COOKIE

    def _feed_chunks(self, chunks: Chunks, data: bytes, at: int) -> int:
        """Parses chunked content from `data[at:]`. Returns where it ends."""
        reader = self._reader
        pieces, end = chunks.feed(data, at)
        if pieces:
            reader.on_body(b"".join(pieces))
        while chunks.trailers:
            reader.on_header(*chunks.trailers.pop())
        if chunks.done:
            self._chunks = None
            self.http = httptools.HttpRequestParser(reader)  # the old one waits for chunks
            reader.on_message_complete()
        return end

    def seen(self) -> tuple[bytes, bytes]:
        """Method and target of the head that is being read, for the log, as far as they were read."""
        return (self.line.method, self.line.target) if self.line is not None else seen(self._begun)
