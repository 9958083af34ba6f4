"""The request target: what goes upstream for it, and what the upstream may understand by it.

A target travels byte for byte or not at all. Nobody knows how often the upstream decodes a path, or whether it cuts
off `;…` before it does or after, so a path is judged by all its *readings*: every text that decoding and cutting can
make of it. One bad reading is enough for a refusal.
"""

import re
from typing import Final
from urllib.parse import unquote_to_bytes

from krebit_proxy.errors import Refused

API: Final = b"/api/"

# What nearly all targets look like: nothing to decode or cut, no segment that starts with a dot, no /api/oauth.
_PLAIN: Final = re.compile(
    rb"/api/(?!(?i:oauth))(?:[A-Za-z0-9_~-][A-Za-z0-9_.~-]*/)*(?:[A-Za-z0-9_~-][A-Za-z0-9_.~-]*)?(?:\?[!\"$-~]*)?"
)
# RFC 9112, 3.2.2: "a server MUST accept the absolute-form in requests even though most HTTP/1.1 clients will only send
# the absolute-form to a proxy." RFC 9110, 4.2.4: userinfo is to be treated as an error, so no `@` in the authority.
_ABSOLUTE: Final = re.compile(rb"https?://([^/?#@\\]+)([/?].*)?", re.IGNORECASE | re.DOTALL)
# RFC 3986 knows no control character, no space, no byte beyond ASCII; a fragment is never sent (RFC 9110, 7.1).
_NOT_A_TARGET: Final = re.compile(rb"[^!\"$-~]")
_PARAMETERS: Final = re.compile(rb";[^/\\]*")
_LEAVES: Final = re.compile(rb"[\x00\r\n#\\]|(?:^|/)\.\.?(?:/|\Z)")
_OAUTH: Final = re.compile(rb"/+api/+oauth(?:/|\Z)", re.IGNORECASE)
_SPELT: Final = re.compile(rb"%(?!2f|5c)[0-9a-f]{2}", re.IGNORECASE)
_MOST_READINGS: Final = 16


def upstream_target(raw: bytes) -> bytes:
    """The origin-form that is sent upstream for the request target `raw`, byte for byte.

    Raises Refused: `bad_request` for what is not a target, `not_forwarded` outside /api/, `forbidden_path` for a path
    that leaves /api/ in any reading, or that leads to the token endpoint.
    """
    if _PLAIN.fullmatch(raw):
        return raw
    target, _ = origin_form(raw)
    path = target.partition(b"?")[0]
    if not path.startswith(API):
        raise Refused("not_forwarded", "Only paths under /api/ are forwarded.", hint="Check the base URL of the tool.")
    for reading in readings(path):
        if _LEAVES.search(reading):
            raise Refused("forbidden_path", "The path holds a dot segment, a backslash or a control character.")
        if _OAUTH.match(reading):
            raise Refused("forbidden_path", "/api/oauth is not forwarded: the proxy speaks to it itself.")
    return target


def origin_form(raw: bytes) -> tuple[bytes, bytes | None]:
    """Path and query of `raw`, and the authority that an absolute-form names (None for an origin-form).

    Raises Refused(bad_request) for any other form, and for bytes that no target may hold.
    """
    target, authority = raw, None
    if not raw.startswith(b"/"):
        match = _ABSOLUTE.fullmatch(raw)
        if match is None:
            raise Refused("bad_request", "The request target is neither a path nor an http URL.")
        authority, target = match[1], match[2] or b"/"
        if target.startswith(b"?"):
            target = b"/" + target
    if _NOT_A_TARGET.search(target):
        raise Refused("bad_request", "The request target holds a character that must be percent-encoded.")
    return target, authority


def own_path(raw: bytes) -> str:
    """The path of `raw` as spelt, without its query: the key of one of our own pages. Raises Refused(bad_request)."""
    return origin_form(raw)[0].partition(b"?")[0].decode("ascii")


def decoded(path: bytes) -> bytes:
    """`path` with everything decoded, again and again until nothing is left to decode."""
    while b"%" in path and (less := unquote_to_bytes(path)) != path:
        path = less
    return path


def readings(path: bytes) -> set[bytes]:
    """Every text that a server may make of `path` by decoding and by cutting off `;…`, again and again, in any order.

    Raises Refused(forbidden_path) when there are too many: nobody who means well encodes that often.
    """
    found = {path}
    if b"%" not in path and b";" not in path:
        return found
    unread = [path]
    while unread:
        text = unread.pop()
        for other in (unquote_to_bytes(text), _PARAMETERS.sub(b"", text)):
            if other not in found:
                found.add(other)
                unread.append(other)
        if len(found) > _MOST_READINGS:
            raise Refused("forbidden_path", "The path is percent-encoded too many times.")
    return found


def meanings(path: bytes) -> set[bytes]:
    """The readings of `path` to hold against a path template, each with everything decoded but `%2F` and `%5C`.

    So a segment may be spelt in any way, and a `%2F` is seen both as a part of its segment and as the end of it.
    """
    return {_SPELT.sub(lambda escape: unquote_to_bytes(escape[0]), reading) for reading in readings(path)}
