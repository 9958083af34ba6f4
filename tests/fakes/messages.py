"""HTTP/1.1 messages by the letter of RFC 9112: what the scripted upstream accepts, and what a test may expect of bytes.

Strict on purpose, in one direction only: everything accepted here is a valid message. So the proxy must never write
anything else, and whatever it forwards must be read here as it was meant by the caller.
"""

import re
from dataclasses import dataclass, field

Fields = list[tuple[bytes, bytes]]

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_REQUEST_LINE = re.compile(rb"(%s) ([\x21-\x7e]+) (HTTP/1\.[01])" % _TOKEN)
_RAW_LETTER = re.compile(rb"[\x80-\xff]")
_STATUS_LINE = re.compile(rb"(HTTP/1\.[01]) ([1-5][0-9][0-9]) ([\t \x21-\x7e\x80-\xff]*)")
_FIELD = re.compile(rb"(%s):[ \t]*([\t \x21-\x7e\x80-\xff]*?)[ \t]*" % _TOKEN)
# Nobody reads extensions, so only where their line ends must be clear.
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\t \x21-\x7e\x80-\xff]*)?")


class Malformed(Exception):
    """The bytes are no valid message. The text says why."""


def values(fields: Fields, name: bytes) -> list[bytes]:
    """Every value of the field `name`, in order."""
    return [value for key, value in fields if key.lower() == name.lower()]


def parse_fields(lines: list[bytes]) -> Fields:
    fields = []
    for line in lines:
        if (match := _FIELD.fullmatch(line)) is None:
            raise Malformed(f"field line {line!r}")
        fields.append((match[1], match[2]))
    return fields


@dataclass(frozen=True, slots=True)
class RequestHead:
    method: bytes
    target: bytes
    version: bytes
    fields: Fields
    raw: bytes

    def values(self, name: bytes) -> list[bytes]:
        return values(self.fields, name)

    @property
    def length(self) -> int | None:
        """The content's length; None if it is chunked."""
        return content_length(self.fields, self.version, default=0)


@dataclass(frozen=True, slots=True)
class StatusLine:
    version: bytes
    status: int
    reason: bytes


def split_head(head: bytes) -> list[bytes]:
    """The lines of a head that ends with an empty line, without their ends."""
    lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    if any(b"\r" in line or b"\n" in line for line in lines):
        raise Malformed("a bare CR or LF")
    return lines


def parse_request_head(head: bytes) -> RequestHead:
    first, *rest = split_head(head)
    if (match := _REQUEST_LINE.fullmatch(first)) is None:
        raise Malformed(f"request line {first!r}")
    fields = parse_fields(rest)
    if (hosts := len(values(fields, b"host"))) > 1 or (not hosts and match[3] == b"HTTP/1.1"):
        raise Malformed("not exactly one Host")
    parsed = RequestHead(match[1], match[2], match[3], fields, head)
    parsed.length  # noqa: B018 - raises when the framing is not valid
    return parsed


def parse_response_head(head: bytes) -> tuple[StatusLine, Fields]:
    first, *rest = split_head(head)
    if (match := _STATUS_LINE.fullmatch(first)) is None:
        raise Malformed(f"status line {first!r}")
    return StatusLine(match[1], int(match[2]), match[3]), parse_fields(rest)


def content_length(fields: Fields, version: bytes, *, default: int | None) -> int | None:
    """The length that the fields announce; None if chunked. `default` if they announce nothing."""
    lengths, codings = values(fields, b"content-length"), values(fields, b"transfer-encoding")
    if codings:
        if lengths or version == b"HTTP/1.0" or [coding.lower() for coding in codings] != [b"chunked"]:
            raise Malformed(f"framing {lengths} {codings}")
        return None
    if not lengths:
        return default
    if len(lengths) != 1 or not lengths[0].isdigit():
        raise Malformed(f"framing {lengths}")
    return int(lengths[0])


def chunk_size(line: bytes) -> int:
    """The size in a chunk's first line, which has no line end here."""
    if (match := _CHUNK_SIZE.fullmatch(line)) is None:
        raise Malformed(f"chunk line {line[:80]!r}")
    return int(match[1], 16)


@dataclass(slots=True)
class Reading:
    """What a strict reader makes of a connection's bytes: the complete requests, and how it ended."""

    requests: list[tuple[RequestHead, bytes]] = field(default_factory=list)
    incomplete: RequestHead | None = None  # a valid head whose content is missing or malformed
    malformed: bool = False


def read_requests(data: bytes) -> Reading:
    """Reads pipelined requests until the bytes end or stop being valid."""
    reading = Reading()
    while data:
        # RFC 9112 2.2: a server "SHOULD ignore at least one empty line (CRLF) received prior to the request-line".
        while data.startswith(b"\r\n"):
            data = data[2:]
        head, blank, rest = data.partition(b"\r\n\r\n")
        if not blank:
            break
        try:
            parsed = parse_request_head(_with_encoded_letters(head) + blank)
        except Malformed:
            reading.malformed = True
            break
        reading.incomplete = parsed
        try:
            content, data = _take_content(parsed.length, rest)
        except Malformed:
            reading.malformed = True
            break
        except IndexError:
            break
        reading.incomplete = None
        reading.requests.append((parsed, content))
    return reading


def _with_encoded_letters(head: bytes) -> bytes:
    """`head` as it goes upstream: many clients do not encode letters such as å in a target."""
    line, end, fields = head.partition(b"\r\n")
    method, space, rest = line.partition(b" ")
    return method + space + _RAW_LETTER.sub(lambda raw: b"%%%02X" % raw[0][0], rest) + end + fields


def _take_content(length: int | None, data: bytes) -> tuple[bytes, bytes]:
    """Content and what follows it. Raises IndexError when the bytes end before the content does."""
    if length is not None:
        if len(data) < length:
            raise IndexError
        return data[:length], data[length:]
    content = b""
    while True:
        line, data = _take_line(data)
        if (size := chunk_size(line)) == 0:
            break
        if len(data) < size + 2:
            raise IndexError
        if data[size : size + 2] != b"\r\n":
            raise Malformed("chunk end")
        content, data = content + data[:size], data[size + 2 :]
    while (taken := _take_line(data))[0]:
        parse_fields([taken[0]])
        data = taken[1]
    return content, taken[1]


def _take_line(data: bytes) -> tuple[bytes, bytes]:
    line, end, rest = data.partition(b"\r\n")
    if b"\n" in line or b"\r" in line.removesuffix(b"\r"):
        raise Malformed("a bare CR or LF")
    if not end:
        raise IndexError
    return line, rest
