"""Reads the content of a token response leniently: its text, and the objects in it.

RFC 6749 requires JSON. Servers also send form-encoded content (old GitHub), JSON after a PHP notice or an
anti-hijacking prefix such as `for(;;);`, JSONP, several documents in a row, JSON in a JSON string (API gateways), and
JSON that breaks off or has a comma too many. All of these are read as far as possible without guessing:

    >>> read_objects('<br />Notice: x<br /> {"data": {"refreshToken": "r"}}').values("refresh_token")
    ['r']

Names are compared without letter case and punctuation: `refresh_token`, `refreshToken`, `Refresh-Token` are the same.
"""

import json
import re
import zlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from html import unescape
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl

LONGEST_CONTENT: Final = 256 * 1024  # bytes after decoding; limits what a compressed response may grow to
_LONGEST_FAULTY: Final = 64 * 1024  # bytes that are read of compressed content with a fault in it
_MOST_STARTS: Final = 64  # opening braces that are tried as the start of a document, if the whole text is no document

_PAGE: Final = re.compile(r"<(?:!doctype\s+html|html|head|body|title)\b", re.IGNORECASE)
_TITLE: Final = re.compile(r"<title\b[^>]{0,200}>([^<]{0,1000})", re.IGNORECASE)
# A complete member of a JSON object anywhere in the text, or of an object as Python and PHP print it.
_MEMBER: Final = re.compile(
    r'"([A-Za-z_-]+)"\s*:\s*("(?:[^"\\]|\\.)*"|-?[0-9.]+)' + r"|'([A-Za-z_-]+)'\s*:\s*(?:'([^'\\]*)'|(-?[0-9.]+))"
)
_TOKEN_NAMES: Final = frozenset({"accesstoken", "refreshtoken", "tokentype", "expiresin"})
_LAST: Final = 1000  # the depth for members without an object around them

Members = dict[str, list[Any]]  # squashed name -> its values in order; a name may come twice


class Found(NamedTuple):
    """One object of the content. `depth` is the number of objects around it."""

    depth: int
    members: Members


@dataclass(frozen=True, slots=True)
class Objects:
    """All objects of a content, the outermost first. `shape` says in words what is unusual, or is empty."""

    found: tuple[Found, ...] = ()
    shape: str = ""

    def values(self, name: str) -> list[Any]:
        """The values of the member `name` in the outermost objects that have it, in order, each value once."""
        values: list[Any] = []
        for holder in self.holders(name):
            for value in holder.members[squash(name)]:
                values += [one for one in _plain(value) if one not in values]
        return values

    def holders(self, name: str) -> list[Found]:
        """The outermost objects with a member `name`. All of them have the same depth."""
        holders = [found for found in self.found if squash(name) in found.members]
        return [found for found in holders if found.depth == holders[0].depth]


def _plain(value: Any) -> list[Any]:
    """The value itself; of an object such as `{"token": "r", "expires_in": 60}`, its token."""
    return [*value.get("token", ()), *value.get("value", ())] if isinstance(value, dict) else [value]


def squash(name: str) -> str:
    """`name` without letter case and punctuation."""
    return "".join(filter(str.isalnum, name)).lower()


def decoded(content: bytes, encoding: str = "") -> bytes:
    """`content` without its gzip or deflate coding.

    We ask for `identity`, but some servers compress anyway, and some name a coding that they do not use. So the content
    decides, not Content-Encoding alone. Everything before a fault is kept, up to `LONGEST_CONTENT`.
    """
    # RFC 9110 8.4.1: gzip is RFC 1952, which begins with 1f 8b; deflate is "zlib", RFC 1950. Some send it raw.
    if content.startswith(b"\x1f\x8b"):
        windows = [zlib.MAX_WBITS + 16]
    elif "deflate" in encoding.lower():
        windows = [zlib.MAX_WBITS, -zlib.MAX_WBITS]
    else:
        return content
    for window in windows:
        if inflated := _inflated(content, window):
            return inflated
    return content


def _inflated(content: bytes, window: int) -> bytes:
    try:
        return zlib.decompressobj(window).decompress(content, LONGEST_CONTENT)
    except zlib.error:
        pass
    # Byte by byte, so that nothing before the fault is lost. Often only the checksum at the end is wrong.
    inflater, inflated = zlib.decompressobj(window), bytearray()
    for octet in content[:_LONGEST_FAULTY]:
        try:
            inflated += inflater.decompress(bytes([octet]), LONGEST_CONTENT)
        except zlib.error:
            break
    return bytes(inflated)


def text_of(content: bytes, charset: str = "") -> str:
    """`content` as text. The first that fits: byte order mark or NUL bytes, UTF-8, `charset`, Latin-1.

    RFC 8259 8.1: JSON "MUST be encoded using UTF-8". So UTF-8 comes before the charset of Content-Type.
    """
    for encoding in (json.detect_encoding(content), charset):
        try:
            return content.decode(encoding)
        except (UnicodeError, LookupError):
            continue
    return content.decode("latin-1")


def page_title(text: str) -> str | None:
    """The title of an HTML page, empty if it has none. None: `text` is no HTML page."""
    if not _PAGE.search(text):
        return None
    title = _TITLE.search(text)
    return " ".join(unescape(title[1]).split()) if title else ""


def read_objects(text: str, *, cut: bool = False) -> Objects:
    """The objects in `text`. `cut`: its end is missing."""
    text = text.strip().lstrip("\ufeff")
    whole, documents = _documents(text)
    if whole:
        return Objects(tuple(_walk(documents)), "a list instead of an object" if isinstance(documents[0], list) else "")
    if not documents and "=" in text and not text.startswith(("<", "{", "[", '"')):
        # A form has no end mark, so the last value of a cut one may be incomplete.
        pairs = parse_qsl(text)[: -1 if cut else None]
        return Objects((Found(0, _members(pairs)),), "form-encoded content instead of JSON")
    found = [*_walk(documents), Found(_LAST, _members(_pairs(text)))]
    if _PAGE.search(text):
        # A script in an HTML page may contain one of these names. Two in one object are a token response.
        found = [one for one in found if len(_TOKEN_NAMES & one.members.keys()) > 1]
    return Objects(tuple(found), "JSON that is broken, or has other text around it")


def _members(pairs: list[tuple[str, Any]]) -> Members:
    members: Members = {}
    for name, value in pairs:
        if value not in (None, ""):  # both mean that there is no value
            values = members.setdefault(squash(name), [])
            if value not in values:
                values.append(value)
    return members


# strict=False allows control characters in strings.
_DECODER: Final = json.JSONDecoder(object_pairs_hook=_members, strict=False)


def _documents(text: str) -> tuple[bool, list[Any]]:
    """Whether the whole `text` is one JSON document, and the documents in it."""
    start = 0
    documents: list[Any] = []
    for attempt in range(_MOST_STARTS):
        if attempt or not text.startswith(("{", "[", '"')):
            start = text.find("{", start)
        if start < 0:
            break
        try:
            document, end = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            start += 1
            continue
        if start == 0 and end == len(text):
            return True, [document]
        documents.append(document)
        start = end
    return False, documents


def _walk(documents: list[Any]) -> Iterator[Found]:
    """Every object in `documents`, breadth first."""
    ahead = deque((0, document) for document in documents)
    while ahead:
        depth, value = ahead.popleft()
        if isinstance(value, dict):
            yield Found(depth, value)
            ahead.extend((depth + 1, inner) for values in value.values() for inner in values)
        elif isinstance(value, list):
            ahead.extend((depth, inner) for inner in value)
        elif isinstance(value, str) and value.lstrip().startswith("{"):
            ahead.extend((depth, inner) for inner in _documents(value.strip())[1])


def _pairs(text: str) -> list[tuple[str, Any]]:
    """The complete members in `text`, for text that is not JSON as a whole."""
    pairs: list[tuple[str, Any]] = []
    for name, quoted, other_name, other_quoted, number in _MEMBER.findall(text):
        pairs.append((name or other_name, _unquoted(quoted) if name else other_quoted or number))
    return pairs


def _unquoted(quoted: str) -> str | None:
    """The text of a JSON string. A number stays as it is."""
    try:
        return str(json.loads(quoted, strict=False))
    except ValueError:
        return None
