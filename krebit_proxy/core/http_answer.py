"""One HTTP/1.1 answer, read as leniently as can be (RFC 9112).

For answers that must not be lost. Usual clients throw an answer away for a field line without a colon, two different
lengths, a chunk that breaks off, or a head with too many lines. Here each of these costs as little as possible: the
head ends at the first empty line, unknown lines in it are skipped, and the content is all that came after it, less the
framing of chunks as far as that holds. Only relay to others what a strict reader has read: see `upstream.response`.
"""

import re
from dataclasses import dataclass, field
from typing import Final

LONGEST_ANSWER: Final = 256 * 1024  # octets, head and all; a longer one is read so far, for the tokens may be there

# RFC 9112 2.2: "a recipient MAY recognize a single LF as a line terminator".
_HEAD_END: Final = re.compile(rb"\r?\n\r?\n")
_STATUS_LINE: Final = re.compile(rb"\s*HTTP/[0-9](?:\.[0-9])?[ \t]+([1-5][0-9]{2})(?![0-9])")
_CHUNK_SIZE: Final = re.compile(rb"[ \t]*([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\n]*)?\r?\n")
_LINE_END: Final = re.compile(rb"\r?\n")


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """The final answer. `status` is 0 where what came is no HTTP; names of fields are in lower case."""

    status: int
    fields: dict[str, str] = field(default_factory=dict)
    content: bytes = b""
    broken: str = ""  # how it broke off, if it did


class AnswerReader:
    """Fed with octets as they arrive. `done` says that no more are needed."""

    def __init__(self) -> None:
        self._octets = bytearray()
        self._searched = 0  # octets in which no head has ended
        self._content_at = 0
        self._fields: dict[str, str] = {}
        self.status: int | None = None  # of the final answer, once its head is complete
        self.done = False

    def feed(self, octets: bytes) -> None:
        """Takes what arrived."""
        self._octets += octets if self._octets else octets.lstrip(b"\r\n")
        while self.status is None and (end := _HEAD_END.search(self._octets, self._searched)):
            self._take_head(end.start(), end.end())
        if self.status is None:
            self._searched = max(self._searched, len(self._octets) - 3)
        self.done = self._is_complete() or len(self._octets) >= LONGEST_ANSWER

    def answer(self, *, ended: str = "") -> HttpAnswer:
        """What came. `ended` says why no more is to come, if that is not a clean end of the connection."""
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
        # RFC 9112 6.3: without a length the content ends where the connection ends.
        if self._length is None and not self._is_chunked:
            return ended
        return ended or "the connection was closed before its end"

    def _take_head(self, end: int, after: int) -> None:
        lines = bytes(self._octets[self._content_at : end]).decode("latin-1").splitlines()
        status = _STATUS_LINE.match(self._octets, self._content_at)
        self._searched = self._content_at = after
        if status is None:
            self.status = 0
        # RFC 9110 15.2: a 1xx is an interim answer; the final one follows.
        elif status[1].startswith(b"1"):
            return
        else:
            self.status = int(status[1])
        for line in lines[1:]:
            name, colon, value = line.partition(":")
            if colon:
                name = name.strip().lower()
                # RFC 9110 5.3: several lines of one name are one list.
                self._fields[name] = f"{self._fields[name]}, {value.strip()}" if name in self._fields else value.strip()

    @property
    def _is_chunked(self) -> bool:
        return "chunked" in self._fields.get("transfer-encoding", "").lower()

    @property
    def _length(self) -> int | None:
        """The content's length if it is said, and said in one way only."""
        lengths = {length.strip() for length in self._fields.get("content-length", "").split(",")}
        length = lengths.pop()
        return int(length) if not lengths and re.fullmatch(r"[0-9]{1,15}", length) else None

    def _is_complete(self) -> bool:
        if self.status is None:
            return False
        if self.status in {204, 304}:
            return True
        if self._is_chunked:
            # The whole is looked at only where it may have ended.
            return self._octets.endswith(b"\n") and _unchunked(self._octets[self._content_at :])[1]
        return self._length is not None and len(self._octets) - self._content_at >= self._length


def _unchunked(octets: bytes | bytearray) -> tuple[bytes, bool]:
    """The content in chunks (RFC 9112, 7.1), and whether the last one came. What was never chunked stays as it is."""
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
