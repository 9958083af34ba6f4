"""The rules for header fields, in both directions (RFC 9110, 7.6).

Fields are pairs of bytes in the order of arrival. `folded` turns their names into lower case once. All other functions
take these names, so that no name is folded twice.
"""

import re
from collections.abc import Sequence
from functools import cached_property, lru_cache
from itertools import compress
from typing import Final

from krebit_proxy.errors import Refused

Fields = Sequence[tuple[bytes, bytes]]

_TOKEN: Final = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"  # RFC 9110, 5.6.2
_CONTROLS: Final = bytes(octet for octet in (*range(0x20), 0x7F) if octet != ord("\t"))

# RFC 9110, 7.6.1: "intermediaries SHOULD remove or replace fields that are known to require removal before forwarding,
# whether or not they appear as a connection-option".
_HOP_BY_HOP: Final = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authenticate",
        b"proxy-authentication-info",
        b"proxy-authorization",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"http2-settings",
    )
)
# Fields that we make ourselves, and claims about the caller or the target that only a trusted proxy may make.
_NEVER_SENT: Final = _HOP_BY_HOP | {
    b"authorization",
    b"content-length",
    b"expect",
    b"forwarded",
    b"host",
    b"x-original-url",
    b"x-real-ip",
    b"x-rewrite-url",
}
# Some servers treat `-` and `_` as equal. They would take X_Forwarded_For for X-Forwarded-For.
_CLAIMS: Final = re.compile(rb".*_|proxy-|x-forwarded-")
_CORS: Final = re.compile(rb"access-control-")
_MOST_DIGITS: Final = 18
_HAS_CONTENT: Final = frozenset((b"POST", b"PUT", b"PATCH"))

# Fields that are true for the upstream's origin but not for the caller's, and fields that only we may send. Browsers
# remember many of them for the whole origin, so one response could change what they do on ours.
_NEVER_RETURNED: Final = _HOP_BY_HOP | {
    b"accept-ch",  # RFC 8942, 3.1: the browser sends Client Hints to this origin from now on
    b"alt-svc",
    b"clear-site-data",
    b"content-length",
    b"critical-ch",
    b"cross-origin-resource-policy",
    b"expect-ct",  # RFC 9163: for the whole host, like the two kinds of pins
    b"nel",  # Network Error Logging: reports about requests to this origin go elsewhere
    b"origin-agent-cluster",
    b"public-key-pins",
    b"public-key-pins-report-only",
    b"report-to",
    b"reporting-endpoints",
    b"sec-session-registration",  # Device Bound Session Credentials: the browser signs in to this origin
    b"secure-session-registration",
    b"service-worker-allowed",  # Service Workers: a script of /api/ may answer for all of this origin
    b"set-login",  # FedCM: whether somebody is logged in to this origin
    b"speculation-rules",  # the browser fetches more of this origin, ahead of time
    b"strict-transport-security",
    b"timing-allow-origin",
    b"x-content-type-options",
    b"x-krebit-proxy-error",
}
_NOT_RETURNED: Final = {True: _NEVER_RETURNED, False: _NEVER_RETURNED | {b"set-cookie", b"set-cookie2"}}
_URL: Final = re.compile(rb"(https?:)?//([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)
_NOSNIFF: Final = b"X-Content-Type-Options: nosniff\r\n"
# An uploaded document must not act as the company: on our origin, its scripts could call the API. So we send `sandbox`
# (CSP 3, 6.3.2) with all content but these types, which no browser takes for a document with scripts. We do not ask how
# the browser will use the response: it leaves Fetch metadata out on plain http. Policies add up (CSP 3, 8.1), so one of
# the upstream's stays in force beside ours. PDF viewers do not run a file on our origin, and refuse sandboxed ones.
_HARMLESS: Final = frozenset(
    b"""
    application/json application/octet-stream application/pdf
    text/plain text/csv
    image/png image/jpeg image/gif image/webp image/avif
    audio/aac audio/flac audio/mp4 audio/mpeg audio/ogg audio/wav audio/webm video/mp4 video/mpeg video/ogg video/webm
    font/otf font/ttf font/woff font/woff2
    application/gzip application/zip
    application/msword application/vnd.ms-excel application/vnd.ms-powerpoint
    application/vnd.openxmlformats-officedocument.wordprocessingml.document
    application/vnd.openxmlformats-officedocument.spreadsheetml.sheet
    application/vnd.openxmlformats-officedocument.presentationml.presentation
    """.split()
)
_JSON: Final = re.compile(rb"application/[a-z0-9.-]+\+json")  # RFC 6839, 3.1
# Browsers disagree about more than one type, in one field or in two: some take the first, others the last. So a value
# with a comma is never harmless, nor is one that is no media type.
_MEDIA_TYPE: Final = re.compile(rb"[ \t]*([a-z0-9+./-]+)[ \t]*(?:;[^,]*)?", re.IGNORECASE)
# As most servers write them. These need no parsing.
_USUAL: Final = _HARMLESS | {kind + b"; charset=" + name for kind in _HARMLESS for name in (b"utf-8", b"UTF-8")}
_SANDBOX: Final = b"Content-Security-Policy: sandbox"
_GUARDS: Final = _NOSNIFF + b"Cross-Origin-Resource-Policy: same-origin\r\n"


_MEMORABLE: Final = 512  # bytes of names; results for more are not cached
_FEW: Final = 64  # names in a head, or bytes of `Connection`, likewise


class Names(tuple[bytes, ...]):  # noqa: SLOT001 -- `at` is cached on the instance
    """The names of a message's fields, in lower case and in their order."""

    @cached_property
    def at(self) -> dict[bytes, list[int]]:
        """The positions of each name."""
        places: dict[bytes, list[int]] = {}
        for place, name in enumerate(self):
            places.setdefault(name, []).append(place)
        return places


NO_NAMES: Final = Names()


def checked(fields: Fields) -> Names:
    """The names of a request's fields in lower case. Raises Refused(bad_request) for an invalid name or value."""
    names = folded([name for name, _ in fields])
    content = b"".join([value for _, value in fields])
    if names is None or len(content.translate(None, _CONTROLS)) != len(content):
        raise Refused("bad_request", "A header has an invalid name, or a control character in its value.")
    return names


def folded(names: Sequence[bytes]) -> Names | None:
    """The names in lower case, or None if one is not a token."""
    if not names:
        return NO_NAMES
    lines = b"\n".join(names)
    known = _folded(lines) if len(lines) <= _MEMORABLE else _folded.__wrapped__(lines)
    return known if len(known) == len(names) else None


# Callers and the upstream send the same few sets of names again and again, so results that need only names are cached.
# But only for small sets: what strangers make up must not fill the memory.
@lru_cache(maxsize=256)
def _folded(names: bytes) -> Names:
    """Splits the names, one on each line. Returns none of them if one is not a token."""
    lines = Names(names.lower().split(b"\n"))
    return NO_NAMES if b"" in lines or names.translate(None, _TOKEN + b"\n") else lines


def _kept(names: Names, connection: bytes, dropped: frozenset[bytes], also_dropped: re.Pattern[bytes]) -> list[bool]:
    """For each name, whether its field passes. `connection` is the value of the message's `Connection` fields.

    RFC 9110, 7.6.1: "Intermediaries MUST parse a received Connection header field before a message is forwarded and,
    for each connection-option in this field, remove any header or trailer field(s) from the message with the same name
    as the connection-option". We add our own fields afterwards, so no option can remove them.
    """
    dropped |= _options_of(connection)
    return [name not in dropped and not also_dropped.match(name) for name in names]


@lru_cache(maxsize=256)
def _returned(names: Names, connection: bytes, cookies: bool) -> tuple[list[bool], int | None]:
    """For each name, whether the caller gets that field of the upstream. And the place of the one Content-Type."""
    kinds = names.at.get(b"content-type", [])
    return _kept(names, connection, _NOT_RETURNED[cookies], _CORS), kinds[0] if len(kinds) == 1 else None


def _connection(names: Names, fields: Fields) -> bytes:
    """The value of all `Connection` fields as one list (RFC 9110, 5.3)."""
    places = names.at.get(b"connection")
    if places is None:
        return b""
    if len(places) == 1:
        return fields[places[0]][1]
    return b",".join([fields[place][1] for place in places])


@lru_cache(maxsize=256)
def _options(connection: bytes) -> frozenset[bytes]:
    return frozenset(option.strip(b" \t") for option in connection.lower().split(b","))


def connection_options(names: Names, fields: Fields) -> frozenset[bytes]:
    """The options in all `Connection` fields, in lower case. One of them may be empty."""
    return _options_of(_connection(names, fields))


def _options_of(connection: bytes) -> frozenset[bytes]:
    return _options(connection) if len(connection) <= _FEW else _options.__wrapped__(connection)


def framing(names: Names, fields: Fields, *, http10: bool = False) -> int | None:
    """The length of a request's content: 0 if there is none, None if it is chunked.

    Raises Refused(bad_request) if two readers could disagree about it, Refused(not_implemented) for other codings.
    """
    lengths, codings = names.count(b"content-length"), names.count(b"transfer-encoding")
    if not codings:
        if not lengths:
            return 0
        value = fields[names.index(b"content-length")][1]
        if lengths > 1 or not value.isdigit() or len(value) > _MOST_DIGITS:
            raise Refused("bad_request", "Content-Length must be one number.")
        return int(value)
    # RFC 9112, 6.1: "A server MAY reject a request that contains both Content-Length and Transfer-Encoding". We do.
    if lengths or codings > 1:
        raise Refused("bad_request", "Send either one Content-Length or one Transfer-Encoding, not both.")
    if http10:
        raise Refused("bad_request", "HTTP/1.0 does not allow Transfer-Encoding.")
    if fields[names.index(b"transfer-encoding")][1].lower() != b"chunked":
        raise Refused("not_implemented", "The only supported Transfer-Encoding is chunked.")
    return None


def withheld(*, cookies: bool = False, keys: bool = False) -> frozenset[bytes]:
    """The names of request fields that are not forwarded.

    Args:
        cookies: Whether `Cookie` is forwarded.
        keys: Whether callers have client keys. Then no field that may hold a key is forwarded.
    """
    names = _NEVER_SENT if cookies else _NEVER_SENT | {b"cookie", b"cookie2"}
    return names | {b"x-api-key"} if keys else names


def forwarded(names: Names, fields: Fields, withheld: frozenset[bytes]) -> bytes:
    """The header lines that go upstream, each with its line end. `names` comes from `checked`."""
    kept = _kept(names, _connection(names, fields), withheld, _CLAIMS)
    return b"".join([b"%b: %b\r\n" % field for field in compress(fields, kept)])


def request_head(
    method: bytes,
    target: bytes,
    lines: bytes,
    *,
    authority: bytes,
    authorization: bytes,
    content: int | None,
    expect: bool = False,
    upgrade: bytes | None = None,
) -> bytes:
    """The whole head of the request to the upstream, with the blank line.

    Args:
        method: As the caller sent it.
        target: From `target.upstream_target`.
        lines: From `forwarded`.
        authority: The upstream's, for `Host`.
        authorization: The value of our `Authorization`.
        content: How many bytes follow. 0: none. None: chunked.
        expect: Whether to ask for 100 (Continue).
        upgrade: The protocols that the caller offers, if we offer them to the upstream too.
    """
    if content is None:
        lines += b"Transfer-Encoding: chunked\r\n"
    elif content or method in _HAS_CONTENT:
        lines += b"Content-Length: %d\r\n" % content
    if expect:
        lines += b"Expect: 100-continue\r\n"
    if upgrade is not None:
        lines += b"Connection: Upgrade\r\nUpgrade: %b\r\n" % upgrade
    return b"%b %b HTTP/1.1\r\nHost: %b\r\n%bVia: 1.1 krebit-proxy\r\nAuthorization: %b\r\n\r\n" % (
        method,
        target,
        authority,
        lines,
        authorization,
    )


def one_forward_less(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    """A field of an OPTIONS request, with Max-Forwards decremented."""
    # RFC 9110, 7.6.2: "If the received Max-Forwards value is greater than zero, the intermediary MUST generate an
    # updated Max-Forwards field in the forwarded message" with the value decremented by one.
    counts = name.lower() == b"max-forwards" and value.isdigit() and len(value) <= _MOST_DIGITS
    return name, b"%d" % max(int(value) - 1, 0) if counts else value


def response_fields(
    names: Names,
    fields: Fields,
    *,
    length: int | None,
    upstream_origin: bytes,
    caller_origin: bytes,
    cookies: bool = False,
    allowed_origin: bytes | None = None,
    shown: bool = True,
) -> bytes:
    """The header lines of the response to the caller, each with its line end, without the blank line.

    Args:
        names: From `folded`.
        fields: The upstream's, without control characters.
        length: For `Content-Length`. None: no such field.
        upstream_origin: A `Location` on this origin is moved to the caller's origin.
        caller_origin: Our origin as the caller knows it, for example http://localhost:8321. May be empty.
        cookies: Whether `Set-Cookie` is forwarded.
        allowed_origin: The web origin that may read the response, from `Caller.origin`.
        shown: Whether a browser can show the response. False for a 101, a 204, and a 304: it has no type of its own,
            and its fields replace those of the response in the cache.
    """
    connection = _connection(names, fields)
    small = len(names) <= _FEW and len(connection) <= _FEW
    kept, place = (_returned if small else _returned.__wrapped__)(names, connection, cookies)
    if b"location" in names:
        fields = [
            (name, _caller_location(value, upstream_origin, caller_origin) if lower == b"location" else value)
            for lower, (name, value) in zip(names, fields, strict=True)
        ]
    lines = list(map(b": ".join, compress(fields, kept)))
    if length is not None:
        lines.append(b"Content-Length: %d" % length)
    if (
        shown
        and length != 0
        and (place is None or ((kind := fields[place][1]) not in _USUAL and not _is_harmless(kind)))
    ):
        lines.append(_SANDBOX)
    lines.append(_GUARDS if allowed_origin is None else _NOSNIFF + readable_by(allowed_origin))
    return b"\r\n".join(lines)


def _is_harmless(kind: bytes) -> bool:
    """Whether a content type cannot run scripts in any browser."""
    match = _MEDIA_TYPE.fullmatch(kind)
    essence = match[1].lower() if match else b""
    return essence in _HARMLESS or _JSON.fullmatch(essence) is not None


def readable_by(allowed_origin: bytes) -> bytes:
    """The header lines that let the pages of a web origin read a response."""
    return b"Access-Control-Allow-Origin: %b\r\nAccess-Control-Expose-Headers: *\r\nVary: Origin\r\n" % allowed_origin


def _caller_location(location: bytes, upstream_origin: bytes, caller_origin: bytes) -> bytes:
    """`location`, moved to the caller's origin if it is on the upstream's."""
    match = _URL.fullmatch(location)
    scheme = upstream_origin.partition(b"//")[0]
    if match is None or origin((match[1] or scheme) + b"//" + match[2]) != origin(upstream_origin):
        return location
    path: bytes = match[3]
    if not caller_origin and path.startswith(b"//"):
        return location  # on its own, this path would name another host
    return caller_origin + (path if path.startswith(b"/") else b"/" + path)


def origin(url: bytes) -> bytes:
    """`url`, which has no path, in a form to compare: lower case, without a default port."""
    url = url.lower()
    return url.removesuffix(b":443" if url.startswith(b"https:") else b":80")
