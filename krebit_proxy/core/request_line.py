"""The first line of a request, read strictly (RFC 9112, 3), and the names of other protocols that begin differently.

Parsers are lenient here: they take several spaces for one, or the name of another protocol for `HTTP`. So we read this
line ourselves. Only bytes from 0x80 are changed: a target may not contain them, but many clients send them anyway, for
example for `å`. Each becomes `%XX`.
"""

import re
from typing import Final, NamedTuple

from krebit_proxy.core.target import encoded_letters, not_encoded
from krebit_proxy.errors import Refused

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"  # RFC 9110, 5.6.2
# RFC 9112, 3: request-line = method SP request-target SP HTTP-version. RFC 9112, 2.2: a server "SHOULD ignore at least
# one empty line (CRLF) received prior to the request-line".
_VALID: Final = re.compile(rb"(?:\r\n)*+(%b) ([!-~]+) HTTP/1\.([01])\r\n" % _TOKEN)
_EMPTY_LINES: Final = re.compile(rb"(?:\r\n)++")
_PARTS: Final = re.compile(rb"(?:\r\n)*+(?:%b) (.*) HTTP/([0-9]\.[0-9])\r\n" % _TOKEN, re.DOTALL)
_WITHOUT_VERSION: Final = re.compile(rb"(?:\r\n)*+%b [!-~\x80-\xff]+\r\n" % _TOKEN)  # as in HTTP/0.9
_BEGINNING: Final = re.compile(rb"(?:\r\n)*+(?:\r|%b(?: [^\x00-\x08\x0a-\x1f]*+)?\r?)?" % _TOKEN)
_LOOKED_AT: Final = 64  # bytes of an incomplete line that are checked

# The first bytes of other protocols, after empty lines. Nothing of HTTP begins like that.
_STRANGERS: Final = (
    (re.compile(rb"\x16"), "TLS"),
    (re.compile(rb"[\x04\x05]"), "SOCKS"),
    (re.compile(rb"PRI \* HTTP/2\.0\r\n"), "HTTP/2"),
    (re.compile(rb"SSH-"), "SSH"),
    (re.compile(rb"PROXY (?:TCP4|TCP6|UNKNOWN)|\x00\r\nQUIT\n"), "the PROXY protocol"),
    (re.compile(rb"[^\r\n]* RTSP/[0-9.]+\r?\n"), "RTSP"),
    (re.compile(rb"[^\r\n]* ICE/[0-9.]+\r?\n"), "Icecast"),
    (re.compile(rb"[^\r\n]* SIP/[0-9.]+\r?\n"), "SIP"),
)
_HINTS: Final = {
    "TLS": "Use http:// instead of https://.",
    "SOCKS": "Configure an HTTP proxy instead of a SOCKS proxy.",
    "HTTP/2": "Use HTTP/1.1.",
    "the PROXY protocol": "Turn it off in the load balancer in front.",
}
# What a log may show of an invalid line: a method, and a path without its query.
_SEEN: Final = re.compile(rb"(?:\r\n)*+[ \t]*+([A-Za-z][A-Za-z_-]{0,19})[ \t]+((?:/|[A-Za-z]{1,5}://)[^?#\s]{0,500})?")


class WrongProtocol(Refused):
    """The caller speaks `protocol` instead of HTTP/1.1."""

    def __init__(self, protocol: str) -> None:
        code = "version_not_supported" if protocol == "HTTP/2" else "bad_request"
        detail = f"The client speaks {protocol}, but this port expects plain HTTP/1.1."
        super().__init__(code, detail, hint=_HINTS.get(protocol, ""))
        self.protocol = protocol


class RequestLine(NamedTuple):
    """A valid request line, as it goes on.

    Attributes:
        method: As sent.
        target: As sent, with bytes from 0x80 encoded.
        http10: Whether the version is HTTP/1.0. Otherwise it is HTTP/1.1.
        end: Where the line ends in the bytes that were read.
        grown: By how many bytes encoding made the target longer.
    """

    method: bytes
    target: bytes
    http10: bool
    end: int
    grown: int = 0

    def encoded(self) -> bytes:
        """The line with its end."""
        return b"%b %b HTTP/1.%d\r\n" % (self.method, self.target, not self.http10)


def read_line(data: bytes, at: int = 0) -> RequestLine | None:
    """The line that starts at `at`, after empty lines. None if it is incomplete.

    Raises Refused if it is invalid, or can only become so.
    """
    match = _VALID.match(data, at)
    if match is not None:
        return RequestLine(match[1], match[2], match[3] == b"0", match.end())
    start = after_empty_lines(data, at)
    end = data.find(b"\n", start) + 1
    for beginning, protocol in _STRANGERS:
        if beginning.match(data, start):
            raise WrongProtocol(protocol)
    if not end:
        if not _BEGINNING.fullmatch(data, start, start + _LOOKED_AT):
            raise Refused("bad_request", "The request does not begin with a valid HTTP/1.1 request line.")
        return None
    line = data[start:end]
    encoded = _encoded(line)
    match = _VALID.fullmatch(encoded)
    if match is None:
        raise _problem(line)
    return RequestLine(match[1], match[2], match[3] == b"0", end, len(encoded) - len(line))


def after_empty_lines(data: bytes, at: int) -> int:
    """Where the empty lines that start at `at` end."""
    match = _EMPTY_LINES.match(data, at)
    return match.end() if match is not None else at


def _encoded(line: bytes) -> bytes:
    method, space, rest = line.partition(b" ")
    return method + space + encoded_letters(rest)


def _problem(line: bytes) -> Refused:
    """What is wrong with a complete line. It quotes nothing of it, which may contain a secret."""
    parts = _PARTS.fullmatch(line)
    if parts is None:
        if _WITHOUT_VERSION.fullmatch(line):
            return Refused("version_not_supported", "The request line has no HTTP version. Use HTTP/1.1.")
        return Refused("bad_request", "The first line of the request is not a valid HTTP/1.1 request line.")
    target, version = parts[1], parts[2]
    if version not in {b"1.0", b"1.1"}:
        return Refused("version_not_supported", "The proxy supports only HTTP/1.1 and HTTP/1.0.")
    if not target or target != target.strip(b" \t"):
        return Refused("bad_request", "In the request line, the URL must have exactly one space on each side.")
    return not_encoded(target)


def seen(line: bytes) -> tuple[bytes, bytes]:
    """Method and target without query, for the log, as far as an invalid or incomplete line shows them."""
    match = _SEEN.match(line)
    if match is None or not match[2]:
        return b"", b""
    return match[1], match[2]
