"""Reads one HTTP/1.1 response as leniently as possible (RFC 9112).

Use it for token responses, which must not be lost. Usual clients discard a response for a field line without a colon,
two different lengths, a chunk that breaks off, or a head with too many lines. This reader keeps all it can:

-   The head ends at the first empty line. Invalid lines in it are skipped.
-   The content is everything after the head, without the framing of chunks as far as that is valid.

Never relay what it returns: another reader may understand the same bytes differently. For that, `upstream.response`
reads strictly.
"""

import re
from dataclasses import dataclass, field
from typing import Final

LONGEST_ANSWER: Final = 256 * 1024  # bytes, with the head; of a longer one so much is read, as the tokens may be in it

# RFC 9112 2.2: "a recipient MAY recognize a single LF as a line terminator".
_HEAD_END: Final = re.compile(rb"\r?\n\r?\n")
_STATUS_LINE: Final = re.compile(rb"\s*HTTP/[0-9](?:\.[0-9])?[ \t]+([1-5][0-9]{2})(?![0-9])")
_CHUNK_SIZE: Final = re.compile(rb"[ \t]*([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\n]*)?\r?\n")
_LINE_END: Final = re.compile(rb"\r?\n")


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """The final response. `status` is 0 if it is not HTTP. Field names are in lower case."""

    status: int
    fields: dict[str, str] = field(default_factory=dict)
    content: bytes = b""
    broken: str = ""  # how it broke off; empty if it is complete


class AnswerReader:
    """Takes the bytes as they arrive, until `done` says that it needs no more."""

    def __init__(self) -> None:
        self._octets = bytearray()
        self._searched = 0  # the end of a head is not before this place
        self._content_at = 0
        self._fields: dict[str, str] = {}
        self.status: int | None = None  # of the final response, once its head is complete
        self.done = False

    def feed(self, octets: bytes) -> None:
        self._octets += octets if self._octets else octets.lstrip(b"\r\n")
        while self.status is None and (end := _HEAD_END.search(self._octets, self._searched)):
            self._take_head(end.start(), end.end())
        if self.status is None:
            self._searched = max(self._searched, len(self._octets) - 3)
        self.done = self._is_complete() or len(self._octets) >= LONGEST_ANSWER

    def answer(self, *, ended: str = "") -> HttpAnswer:
        """The response as far as it came. `ended`: how the connection failed; empty if it was closed cleanly."""
        if self.status is None:
            return HttpAnswer(0, broken=ended or "the connection was closed")
        content = bytes(self._octets[self._content_at :])
        if self._is_chunked:
            content, _ = _unchunked(content)
        return HttpAnswer(self.status, self._fields, content, self._broken(ended))

    def _broken(self, ended: str) -> str:
        if self._is_complete():
            return ""
        if self.done:
            return "it is longer than 256 KiB"
        # RFC 9112 6.3: without a length, the content ends when the connection closes.
        if self._length is None and not self._is_chunked:
            return ended
        return ended or "the connection was closed before its end"

    def _take_head(self, end: int, after: int) -> None:
        lines = bytes(self._octets[self._content_at : end]).decode("latin-1").splitlines()
        status = _STATUS_LINE.match(self._octets, self._content_at)
        self._searched = self._content_at = after
        if status is None:
            self.status = 0
        # RFC 9110 15.2: a 1xx response is interim; the final one follows.
        elif status[1].startswith(b"1"):
            return
        else:
            self.status = int(status[1])
        for line in lines[1:]:
            name, colon, value = line.partition(":")
            if colon:
                name = name.strip().lower()
                # RFC 9110 5.3: several lines with one name are one list.
                self._fields[name] = f"{self._fields[name]}, {value.strip()}" if name in self._fields else value.strip()

    @property
    def _is_chunked(self) -> bool:
        return "chunked" in self._fields.get("transfer-encoding", "").lower()

    @property
    def _length(self) -> int | None:
        """The value of Content-Length. None: there is none, or there are different ones."""
        lengths = {length.strip() for length in self._fields.get("content-length", "").split(",")}
        length = lengths.pop()
        return int(length) if not lengths and re.fullmatch(r"[0-9]{1,15}", length) else None

    def _is_complete(self) -> bool:
        if self.status is None:
            return False
        if self.status in {204, 304}:
            return True
        if self._is_chunked:
            # Only bytes that can be the end cause a look at all chunks, which takes time.
            return self._octets.endswith(b"\n") and _unchunked(self._octets[self._content_at :])[1]
        return self._length is not None and len(self._octets) - self._content_at >= self._length


def _unchunked(octets: bytes | bytearray) -> tuple[bytes, bool]:
    """The content without chunk framing (RFC 9112, 7.1), and whether the last chunk came.

    Content without any valid chunk stays as it is.
    """
    content, at = bytearray(), 0
    while size := _CHUNK_SIZE.match(octets, at):
        length, start = int(size[1], 16), size.end()
        if length == 0:
            # The trailer section ends with an empty line.
            return bytes(content), octets.endswith((b"\n\r\n", b"\n\n"))
        content += octets[start : start + length]
        line_end = _LINE_END.match(octets, start + length)
        if line_end is None:
            return bytes(content), False
        at = line_end.end()
    return bytes(content if at else octets), False
