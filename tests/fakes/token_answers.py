"""What token endpoints of real servers answer: dead refresh tokens in other words, token responses of other shapes."""

import json
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

WORDS: Final = "This token is of no use any more."  # what the servers below say of it for people


@dataclass(frozen=True)
class Said:
    """A refusal."""

    status: int
    document: dict[str, Any]
    shows: str = WORDS  # what of it a person must be able to read

    @property
    def content(self) -> bytes:
        return json.dumps(self.document).encode()

    def response(self) -> bytes:
        """The whole of it in HTTP/1.1."""
        return whole(self.status, self.content, "Content-Type: application/json")


def whole(status: int, content: bytes, *fields: str, length: int | None = None) -> bytes:
    """A response in HTTP/1.1 that ends with its Content-Length."""
    lines = [f"HTTP/1.1 {status} Said", *fields, f"Content-Length: {len(content) if length is None else length}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


def _error(code: str) -> dict[str, Any]:
    return {"error": code, "error_description": WORDS}


# By name they mean a dead refresh token, whatever the status is and wherever the name stands.
VERDICTS: Final = {
    "invalid_grant, 400": Said(400, _error("invalid_grant")),
    "invalid_grant, 200": Said(200, _error("invalid_grant")),
    "invalid_grant, 401": Said(401, _error("invalid_grant")),
    "invalid_grant, 422": Said(422, _error("invalid_grant")),
    "invalid_grant, 429": Said(429, _error("invalid_grant")),
    "invalid_grant, 500": Said(500, _error("invalid_grant")),
    "invalid_grant, 599": Said(599, _error("invalid_grant")),
    "bad_refresh_token, 200": Said(200, _error("bad_refresh_token")),
    "bad_refresh_token, 400": Said(400, _error("bad_refresh_token")),
    "invalid_refresh_token, 403": Said(403, _error("invalid_refresh_token")),
    "expired_token, 400": Said(400, _error("expired_token")),
    "BAD_REFRESH_TOKEN in status": Said(400, {"status": "BAD_REFRESH_TOKEN", "message": WORDS}),
    "BAD_REFRESH_TOKEN in error": Said(401, _error("BAD_REFRESH_TOKEN")),
    "invalid_grant in error.code": Said(400, {"error": {"code": "invalid_grant", "message": WORDS}}),
    "invalid_grant in errors[].errorType": Said(
        401, {"success": False, "errors": [{"errorType": "invalid_grant", "message": WORDS}]}
    ),
    "expired_token in the second of errors[]": Said(
        400, {"errors": [{"errorType": "system"}, {"errorType": "expired_token", "message": WORDS}]}
    ),
}

# Definite, but nobody has agreed on what they mean: twice, and they are believed.
SOFT: Final = {
    "league, 400": Said(400, _error("invalid_request")),
    "league, 401": Said(401, _error("invalid_request")),
    "403 with an error of its own": Said(403, _error("token_revoked")),
    "422": Said(422, _error("unprocessable")),
    "the same content without an error": Said(400, {"message": WORDS}),
    "410 without an error": Said(410, {"message": WORDS}),
}

# No refusals of the token, however often they come.
NEVER_A_VERDICT: Final = {
    "408": Said(408, _error("timeout")),
    "425": Said(425, _error("too_early")),
    "429": Said(429, _error("slow_down")),
    "500": Said(500, _error("server_error")),
    "503": Said(503, {"message": WORDS}),
    "invalid_client": Said(401, _error("invalid_client")),
    "unauthorized_client": Said(400, _error("unauthorized_client")),
}


def token_document(number: int, **changes: Any) -> dict[str, Any]:
    """A token response (RFC 6749, 5.1); what is changed to None is left out."""
    document: dict[str, Any] = {
        "access_token": f"token-{number}",
        "token_type": "Bearer",
        "expires_in": 3600,
        "refresh_token": f"refresh-{number}",
    }
    return {name: value for name, value in (document | changes).items() if value is not None}


def written(document: dict[str, Any], shape: str = "json") -> bytes:
    """The content of a token response in one of the shapes that are seen."""
    plain = json.dumps(document)
    shapes = {
        "json": plain,
        "form": urlencode(document),
        "data": json.dumps({"data": document}),
        "authed_user": json.dumps({"ok": True, "authed_user": document}),
        "notice": f"<br />\n<b>Notice</b>:  Undefined index: scope in <b>t.php</b> on line <b>4</b><br />\n{plain}",
        "trailing": f"{plain}\n<!-- 12 ms -->",
        "bom": f"\ufeff{plain}",
        "list": json.dumps([document]),
    }
    return shapes[shape].encode()
