"""Token responses that are wrong in one way each, and in which a refresh token can be read all the same."""

import gzip
import json
from typing import Any, Final

from tests.fakes.token_answers import token_document, whole, written

_JSON: Final = "Content-Type: application/json"


def _json(status: int = 200, **changes: Any) -> bytes:
    """As RFC 6749 has it, but for what is changed."""
    return whole(status, written(token_document(2, **changes)), _JSON)


def _content(content: bytes, *fields: str) -> bytes:
    return whole(200, content, *(fields or (_JSON,)))


_PLAIN: Final = written(token_document(2))
_CHUNKED: Final = b"%x\r\n%b\r\n0\r\n\r\n" % (len(_PLAIN), _PLAIN)

# The access token in these can be used: it serves calls, and the refresh token is kept.
USABLE: Final[dict[str, bytes]] = {
    "status 201": _json(201),
    "status 202": _json(202),
    "status 203": _json(203),
    "status 206": _json(206),
    "status 299": _json(299),
    "token_type BearerToken": _json(token_type="BearerToken"),
    "token_type jwt-bearer": _json(token_type="jwt-bearer"),
    "token_type empty": _json(token_type=""),
    "token_type with a space": _json(token_type="Bearer "),
    "token_type mac": _json(token_type="mac"),
    "token_type a number": _json(token_type=7),
    "token_type a list": _json(token_type=["Bearer"]),
    "no token_type": _json(token_type=None),
    "status 201 and token_type jwt": _json(201, token_type="jwt"),
    "no content type": _content(_PLAIN, "X-Of: the-server"),
    "content type text/html": _content(_PLAIN, "Content-Type: text/html; charset=utf-8"),
    "content type malformed": _content(_PLAIN, "Content-Type: ;;="),
    "charset unknown": _content(_PLAIN, "Content-Type: application/json; charset=klingon"),
    "charset latin-1": _content(
        json.dumps(token_document(2, scope="läs"), ensure_ascii=False).encode("latin-1"),
        "Content-Type: application/json; charset=iso-8859-1",
    ),
    "a byte that is no utf-8": _content(_PLAIN.replace(b"{", b'{"scope": "l\xe4s", ', 1)),
    "utf-16": _content(_PLAIN.decode().encode("utf-16"), "Content-Type: application/json; charset=utf-16"),
    "byte order mark": _content(written(token_document(2), "bom")),
    "compressed": _content(gzip.compress(_PLAIN), _JSON, "Content-Encoding: gzip"),
    "space around it": _content(b" \r\n\t" + _PLAIN + b"\n\n"),
    "a notice before it": _content(written(token_document(2), "notice"), "Content-Type: text/html"),
    "a comment behind it": _content(written(token_document(2), "trailing")),
    "form-encoded": _content(written(token_document(2), "form"), "Content-Type: application/x-www-form-urlencoded"),
    "form-encoded as text": _content(written(token_document(2), "form"), "Content-Type: text/plain"),
    "150 head lines": _content(_PLAIN, _JSON, *[f"X-Number-{number}: x" for number in range(150)]),
    "a head line of 20 kB": _content(_PLAIN, _JSON, f"Set-Cookie: session={'x' * 20_000}; Path=/"),
    "chunked": b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n" + _CHUNKED,
    "no expires_in": _json(expires_in=None),
    "expires_in nonsense": _json(expires_in="soon"),
    "expires_in in words of its own": _json(expires_in={"seconds": 3600}),
    "scope a list": _json(scope=["a", "b"]),
    "a member that is not a number": _content(_PLAIN.replace(b"{", b'{"quota": NaN, ', 1)),
    "much beside it": _json(profile={"notes": "x" * 40_000}),
}

# The access token in these is of no use; the refresh token has rotated all the same.
UNUSABLE: Final[dict[str, bytes]] = {
    "no access token": _json(access_token=None),
    "access token empty": _json(access_token=""),
    "access token a number": _json(access_token=7),
    "access token an object": _json(access_token={"value": "token-2"}),
    "access token that ends its line": _json(access_token="token-2\r\nX-Evil: 1"),
    "access token with a space": _json(access_token="token 2"),
    "access token that is not ascii": _json(access_token="tøken-2"),
    "access token of 40 kB": _json(access_token="t" * 40_000),
    "status 201 and no access token": _json(201, access_token=None),
    "form-encoded, no access token": _content(
        b"refresh_token=refresh-2&token_type=bearer", "Content-Type: application/x-www-form-urlencoded"
    ),
}

# Whether the access token in these can be used is the reader's to say; the refresh token is kept.
OTHER_SHAPES: Final[dict[str, bytes]] = {
    "under data": _content(written(token_document(2), "data")),
    "under authed_user": _content(written(token_document(2), "authed_user")),
    "in a list": _content(written(token_document(2), "list")),
    "two levels down": _content(json.dumps({"result": {"tokens": token_document(2)}}).encode()),
}
