"""The responses of the token endpoint: those of RFC 6749, and those of servers that deviate from it."""

import json
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlencode

from aiohttp import web

from krebit_proxy.sandbox.faults import Faults, TokenEndpointFault
from krebit_proxy.sandbox.grants import OAuthError, Pair

# RFC 6749 5.1: "The authorization server MUST include the HTTP "Cache-Control" response header field with a value of
# "no-store" in any response containing tokens, credentials, or other sensitive information, as well as the "Pragma"
# response header field with a value of "no-cache"."
NOT_STORED: Final = {"Cache-Control": "no-store", "Pragma": "no-cache"}

_PAGE: Final = "<!doctype html><title>{0}</title><h1>{0}</h1>"
_NOTICE: Final = "<br />\n<b>Notice</b>:  Undefined index: scope in <b>token.php</b> on line <b>41</b><br />\n"

# How other servers refuse a refresh token, where RFC 6749 has invalid_grant: status and body.
_REFUSALS: Final[dict[str, tuple[int, dict[str, Any]]]] = {
    # league/oauth2-server up to 8
    "invalid_request": (
        401,
        {
            "error": "invalid_request",
            "error_description": "The refresh token is invalid.",
            "hint": "Token has been revoked",
            "message": "The refresh token is invalid.",
        },
    ),
    # GitHub
    "bad_refresh_token": (
        200,
        {
            "error": "bad_refresh_token",
            "error_description": "The refresh token passed is incorrect or expired.",
            "error_uri": "https://docs.example/apps/troubleshooting",
        },
    ),
    # HubSpot
    "BAD_REFRESH_TOKEN": (400, {"status": "BAD_REFRESH_TOKEN", "message": "missing or unknown refresh token"}),
    "invalid_refresh_token": (
        400,
        {"error": {"code": "invalid_refresh_token", "message": "This refresh token is not valid any more."}},
    ),
    # Fitbit
    "expired_token": (
        401,
        {"success": False, "errors": [{"errorType": "expired_token", "message": "Refresh token expired."}]},
    ),
    # A framework's form validation
    "unprocessable": (
        422,
        {
            "message": "The given data was invalid.",
            "errors": {"refresh_token": ["The selected refresh token is invalid."]},
        },
    ),
}


def token_response(pair: Pair, faults: Faults, now: float) -> web.Response:
    """The tokens (RFC 6749, 5.1), changed by the faults for status, type, shape and lifetime name."""
    # At least 1, because a token that lasts less than half a second is still valid now.
    answer: dict[str, str | int] = {
        "access_token": pair.access_token,
        "token_type": faults.token_type,
        "expires_in": max(1, round(pair.expires_at - now)),
    }
    if pair.refresh_token is not None:
        answer["refresh_token"] = pair.refresh_token
    if pair.refresh_expires_at is not None and faults.refresh_lifetime_name != "untold":
        answer[faults.refresh_lifetime_name] = max(1, round(pair.refresh_expires_at - now))
    content_type, text = _shaped(answer, faults.token_shape)
    return web.Response(text=text, content_type=content_type, status=faults.token_status, headers=NOT_STORED)


def _shaped(answer: dict[str, str | int], shape: str) -> tuple[str, str]:
    """The content type and the text of a token response."""
    if shape == "form":
        return "application/x-www-form-urlencoded", urlencode(answer)
    if shape == "notice":
        return "text/html", _NOTICE + json.dumps(answer)
    if shape in {"data", "authed_user"}:
        return "application/json", json.dumps({"ok": True, shape: answer})
    return "application/json", json.dumps(answer)


def error_response(error: OAuthError, request: web.Request) -> web.Response:
    """A refusal (RFC 6749, 5.2)."""
    status, headers = 400, dict(NOT_STORED)
    if error.error == "invalid_client":
        status = 401
        # RFC 6749 5.2: "If the client attempted to authenticate via the "Authorization" request header field, the
        # authorization server MUST respond with an HTTP 401 (Unauthorized) status code and include the
        # "WWW-Authenticate" response header field matching the authentication scheme used by the client."
        if "Authorization" in request.headers:
            headers["WWW-Authenticate"] = 'Basic realm="krebit"'
    return web.json_response(_words(error), status=status, headers=headers)


def dead_token_response(error: OAuthError, faults: Faults) -> web.Response:
    """The refusal of a refresh token, with the error and the status that `faults` name."""
    status, words = _REFUSALS.get(faults.refusal, (400, _words(error)))
    return web.json_response(words, status=faults.refusal_status or status, headers=NOT_STORED)


def _words(error: OAuthError) -> dict[str, str]:
    return {"error": error.error, "error_description": error.description}


def broken_answer(fault: TokenEndpointFault, retry_after: int) -> web.Response:
    """The response of a token endpoint that fails and has spent no token."""
    wait = {"Retry-After": str(retry_after)}
    if fault == "busy":
        return _page("Service Unavailable", status=503, headers=wait)
    if fault == "limited":
        return _page("Too Many Requests", status=429, headers=wait)
    if fault == "garbage":
        return _page("Please sign in to the network", status=200)
    return _page("Internal Server Error", status=500)


def _page(title: str, *, status: int, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(text=_PAGE.format(title), content_type="text/html", status=status, headers=headers)
