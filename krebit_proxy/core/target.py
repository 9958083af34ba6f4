"""The request target: which bytes go upstream, and what the upstream may read in them.

A target goes upstream byte for byte, or not at all. We do not know how often the upstream decodes a path, or whether it
cuts off `;…` before or after that. So we check all *readings* of a path: every text that decoding and cutting can make
of it. One bad reading is enough to refuse it. For example, /api/%252e%252e/x has the reading /api/../x.
"""

import re
import unicodedata
from typing import Final
from urllib.parse import unquote_to_bytes

from krebit_proxy.errors import Refused

API: Final = b"/api/"

# Most targets: nothing to decode or cut, no segment that starts with a dot, no /api/oauth.
_PLAIN: Final = re.compile(
    rb"/api/(?!(?i:oauth))(?:[A-Za-z0-9_~-][A-Za-z0-9_.~-]*/)*(?:[A-Za-z0-9_~-][A-Za-z0-9_.~-]*)?(?:\?[!\"$-~]*)?"
)
# RFC 9112, 3.2.2: "a server MUST accept the absolute-form in requests even though most HTTP/1.1 clients will only send
# the absolute-form to a proxy." RFC 9110, 4.2.4: userinfo is an error, so no `@` in the authority.
_ABSOLUTE: Final = re.compile(rb"https?://([^/?#@\\]+)([/?].*)?", re.IGNORECASE | re.DOTALL)
# RFC 3986 allows no control character, no space and no byte beyond ASCII. RFC 9110, 7.1: no fragment is sent.
_NOT_A_TARGET: Final = re.compile(rb"[^!\"$-~]")
_PARAMETERS: Final = re.compile(rb";[^/\\]*")
_LEAVES: Final = re.compile(rb"[\x00\r\n#\\]|(?:^|/)\.\.?(?:/|\Z)")
# The name may end in anything that a server may cut off: `/`, `;`, `?`, `.json`, a space, a NUL.
_OAUTH: Final = re.compile(rb"/+api/+oauth(?![a-z0-9_-])", re.IGNORECASE)
# Some servers read UTF-8 too leniently: overlong forms (RFC 3629, 3), or letters that look like ASCII.
_OVERLONG: Final = re.compile(rb"(?:[\xc0\xc1]|\xe0[\x80\x81]|\xf0\x80[\x80\x81])[\x80-\xbf]")
_DOTS: Final = re.compile(r"(?:^|[/\\])\.\.?(?:[/\\]|\Z)")
_HIGH: Final = re.compile(rb"[\x80-\xff]")
_CONTROL: Final = re.compile(rb"[\x00-\x1f\x7f]")
_SPELT: Final = re.compile(rb"%(?!2f|5c)[0-9a-f]{2}", re.IGNORECASE)
_MOST_READINGS: Final = 16


def upstream_target(raw: bytes) -> bytes:
    """The origin-form to send upstream for the request target `raw`.

    Raises Refused: `bad_request` if `raw` is not a target, `not_forwarded` if it is outside /api/, `forbidden_path` if
    one of its readings leaves /api/ or leads to the token endpoint.
    """
    if _PLAIN.fullmatch(raw):
        return raw
    target, _ = origin_form(raw)
    path = target.partition(b"?")[0]
    if not path.startswith(API):
        raise Refused("not_forwarded", "The proxy forwards only paths under /api/.", hint="Check your tool's base URL.")
    for reading in readings(path):
        if _LEAVES.search(reading):
            raise Refused("forbidden_path", "The path contains a dot segment, a backslash or a control character.")
        alike = _in_ascii(reading)
        if _DOTS.search(alike):
            raise Refused("forbidden_path", "The path contains characters that may be taken for a dot segment.")
        if _OAUTH.match(alike.encode("ascii", "replace")):
            raise Refused("forbidden_path", "The proxy does not forward /api/oauth, because it gets the tokens itself.")
    return target


def origin_form(raw: bytes) -> tuple[bytes, bytes | None]:
    """Path and query of `raw`, and the authority of an absolute-form (None for an origin-form).

    Raises Refused(bad_request) for any other form, and for bytes that a target must not contain.
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
        raise not_encoded(target)
    return target, authority


def encoded_letters(text: bytes) -> bytes:
    """`text` with each byte from 0x80 percent-encoded."""
    return _HIGH.sub(lambda high: b"%%%02X" % high[0][0], text)


def not_encoded(target: bytes) -> Refused:
    """The error for a target that contains a character which must be percent-encoded. It names the character."""
    if _CONTROL.search(target):
        what, code = "a control character", "for example %09 for a tab"
    elif b" " in target:
        what, code = "a space", "as %20"
    elif b"#" in target:
        what, code = "a `#`", "as %23"
    else:
        what, code = "a character beyond ASCII", "each byte as %XX"
    return Refused("bad_request", f"The URL contains {what}. It must be percent-encoded ({code}).")


def own_path(raw: bytes) -> str:
    """The path of `raw` as written, without the query, to find one of our own pages. Raises Refused(bad_request)."""
    return origin_form(raw)[0].partition(b"?")[0].decode("ascii")


def decoded(path: bytes) -> bytes:
    """`path` with everything decoded, again and again until nothing is left to decode."""
    while b"%" in path and (less := unquote_to_bytes(path)) != path:
        path = less
    return path


def readings(path: bytes) -> set[bytes]:
    """Every text that a server can make of `path` by decoding and by cutting off `;…`, repeatedly and in any order.

    Raises Refused(forbidden_path) if there are too many: no honest client encodes a path that often.
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


def _in_ascii(reading: bytes) -> str:
    """`reading` as a server may take it that accepts overlong UTF-8 and characters that look like ASCII."""
    if reading.isascii():
        return reading.decode("ascii")
    plain = _OVERLONG.sub(lambda match: bytes([(match[0][-2] & 3) << 6 | match[0][-1] & 63]), reading)
    return unicodedata.normalize("NFKC", plain.decode("utf-8", "replace"))


def meanings(path: bytes) -> set[bytes]:
    """The readings of `path` to compare with a path template, with everything decoded except `%2F` and `%5C`.

    So encoding does not hide a segment, and `%2F` counts both as part of a segment and as its end.
    """
    return {_SPELT.sub(lambda escape: unquote_to_bytes(escape[0]), reading) for reading in readings(path)}
