"""The authorization code grant as the client sees it (RFC 6749, 4.1; RFC 7636).

One attempt takes these steps:

    begin               makes the attempt
    authorization_url   is the link that the person opens
    read_response       parses the query that the browser brings back
    verdict             checks that this response belongs to the attempt

If `verdict` raises, the attempt stays pending. If it returns, the caller drops the attempt *before* it exchanges the
code. So each state and each code is used once only.
"""

import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Final
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from krebit_proxy import USER_AGENT
from krebit_proxy.core.base64url import base64url
from krebit_proxy.core.grant import Tokens
from krebit_proxy.core.secret import Secret
from krebit_proxy.core.token_error import displayable
from krebit_proxy.core.token_response import NO_WORD, Issued, NotSent, Refusal, RefusalKind, Rotated, Unclear
from krebit_proxy.errors import Refused

ATTEMPT_LIFETIME: Final = 600  # seconds

# RFC 6749 A.11: code = 1*VSCHAR, and VSCHAR = %x20-7E.
_CODE: Final = re.compile(r"[\x20-\x7e]+")
_START_AGAIN: Final = "Open `/setup` to start again."


@dataclass(frozen=True, slots=True)
class SetupAttempt:
    """One pending authorization.

    Attributes:
        state: Must come back in the response.
        verifier: The code_verifier of PKCE; None without PKCE.
        expires_at: Seconds, by the clock of `begin`.
        browser: The SHA-256 of the cookie that the browser must bring back. None if there is no browser to bind to: a
            command that prints the link and reads the response itself is the user agent.
    """

    state: Secret
    verifier: Secret | None
    expires_at: float
    browser: str | None = None


ENDED: Final = SetupAttempt(Secret(""), None, expires_at=0)  # stands for no pending attempt


def begin(entropy: Callable[[int], bytes], *, now: float, pkce: bool, browser: Secret | None = None) -> SetupAttempt:
    """A new attempt. `entropy(n)` returns n unguessable bytes. `browser` is the value of the binding cookie."""
    # RFC 7636 4.1: "a high-entropy cryptographic random STRING [...] with a minimum length of 43 characters".
    return SetupAttempt(
        state=Secret(base64url(entropy(32))),
        verifier=Secret(base64url(entropy(32))) if pkce else None,
        expires_at=now + ATTEMPT_LIFETIME,
        browser=browser_mark(browser.reveal()) if browser else None,
    )


def browser_mark(cookie: str) -> str:
    """The form in which we remember a browser. We do not keep its cookie, since the cookie is all that proves it."""
    return sha256(cookie.encode(errors="backslashreplace")).hexdigest()


def authorization_url(
    endpoint: str, attempt: SetupAttempt, *, client_id: str, redirect_uri: str, scope: str = ""
) -> str:
    """The URL of the authorization request for `attempt` (RFC 6749, 4.1.1)."""
    parameters = {
        "response_type": "code",
        "client_id": client_id,
        # RFC 6749 3.1.2.3: the server compares it with the registered one. So we send it exactly as it is set.
        "redirect_uri": redirect_uri,
        "state": attempt.state.reveal(),
    }
    if scope:
        parameters["scope"] = scope
    if attempt.verifier:
        # RFC 7636 4.2: code_challenge = BASE64URL-ENCODE(SHA256(ASCII(code_verifier)))
        digest = sha256(attempt.verifier.reveal().encode("ascii")).digest()
        parameters |= {"code_challenge": base64url(digest), "code_challenge_method": "S256"}
    url = urlsplit(endpoint)
    # RFC 6749 3.1: the endpoint may have a query, "which MUST be retained when adding additional query parameters.
    # The endpoint URI MUST NOT include a fragment component."
    query = "&".join(filter(None, [url.query, urlencode(parameters, quote_via=quote, safe="")]))
    return urlunsplit((url.scheme, url.netloc, url.path, query, ""))


@dataclass(frozen=True, slots=True)
class AuthorizationResponse:
    """The response to an authorization request: a code (RFC 6749, 4.1.2) or a refusal (4.1.2.1), safe to show."""

    state: Secret
    outcome: Secret | Refusal
    names_issuer: bool  # by RFC 9207; not needed here: there is one authorization server, and its URLs are settings


def pasted_query(text: str) -> str:
    """The query from a pasted text: a whole URL, or just `code=...&state=...`."""
    address = "".join(text.split()).strip("<>\"'").partition("#")[0]
    before, mark, after = address.partition("?")
    return after if mark else before


def read_response(query: str) -> AuthorizationResponse:
    """Parses the query of a redirection. Raises Refused(setup_failed) if RFC 6749 does not allow it."""
    try:
        query.encode()  # fails for bytes that were not UTF-8
        pairs = parse_qsl(query, errors="strict", max_num_fields=64)
    except ValueError:
        raise _unreadable("The address cannot be read.") from None
    # RFC 6749 3.1: "Parameters sent without a value MUST be treated as if they were omitted from the request."
    # parse_qsl drops them. "Request and response parameters MUST NOT be included more than once."
    names = [name for name, _ in pairs if name in {"code", "state", "error", "iss"}]
    if len(names) != len(set(names)):
        raise _unreadable("The address has a parameter twice.")
    values = dict(pairs)
    state, code, error = (values.get(name, "") for name in ("state", "code", "error"))
    names_issuer = "iss" in values
    if code and error:
        raise _unreadable("The address has both a code and an error.")
    if error:
        description = displayable(values.get("error_description"))
        return AuthorizationResponse(Secret(state), Refusal(displayable(error) or "error", description), names_issuer)
    if not _CODE.fullmatch(code):
        raise _unreadable("The address has an invalid code." if code else "The address has no code.")
    return AuthorizationResponse(Secret(state), Secret(code), names_issuer)


def verdict(
    attempt: SetupAttempt, response: AuthorizationResponse, *, now: float, browser: str | None = None
) -> Secret | Refusal:
    """The code to exchange, or the server's refusal. Either one ends `attempt`.

    Args:
        attempt: The pending one, or `ENDED`.
        response: From `read_response`.
        now: Seconds, by the clock of `begin`.
        browser: The value of the binding cookie in the request, if it has one.

    Raises:
        Refused: setup_failed; the response does not belong to the attempt. The attempt stays pending. Otherwise anybody
            who can reach the redirection endpoint could end a login with a forged response.
    """
    if now >= attempt.expires_at:
        raise _stranger("No authorization is pending. It is finished, or it took longer than ten minutes.")
    if attempt.browser and not hmac.compare_digest(attempt.browser, browser_mark(browser or "")):
        raise _stranger("Another browser started this authorization, or this browser lost its cookie.")
    if not attempt.state.matches(response.state.reveal()):
        raise _stranger("This response belongs to another attempt, perhaps an older one.")
    return response.outcome


def _stranger(detail: str) -> Refused:
    return Refused("setup_failed", detail, hint=f"{_START_AGAIN} Finish in the same browser and window.")


def _unreadable(detail: str) -> Refused:
    hint = "Use the whole address that the browser shows after you allow the app."
    return Refused("setup_failed", detail, hint=hint)


_CHECK_CLIENT: Final = (
    "Compare `client_id` and `client_secret` with the app at Krebit, restart, and open `/setup` again."
)
_CHECK_REDIRECT_URI: Final = "The app at Krebit must have exactly this redirect URI: `{redirect_uri}`"
# By error code of RFC 6749, 4.1.2.1 and 5.2: what happened, and what to do.
_REFUSALS: Final = {
    "access_denied": (
        "The authorization was denied at Krebit.",
        f"{_START_AGAIN} If you may not allow it, ask someone in your organization who may.",
    ),
    "invalid_client": ("Krebit does not accept the client id or the client secret.", _CHECK_CLIENT),
    "unauthorized_client": ("Krebit does not allow this app to request an authorization.", _CHECK_CLIENT),
    "invalid_grant": (
        "Krebit did not accept the code. A code works once, for a short time, and for one redirect URI.",
        f"{_START_AGAIN} {_CHECK_REDIRECT_URI}",
    ),
    "invalid_request": (
        "Krebit did not accept the request.",
        f"{_CHECK_REDIRECT_URI} If it does, set `oauth.pkce: false` and start again.",
    ),
    "unsupported_response_type": ("Krebit does not issue codes to this app.", _CHECK_CLIENT),
    "unsupported_grant_type": ("Krebit does not exchange codes for this app.", _CHECK_CLIENT),
    "invalid_scope": (
        "Krebit does not know the requested scope.",
        "Correct `oauth.scope`, or leave it empty, and start again.",
    ),
    "server_error": ("Krebit had an internal error.", f"Wait a minute. {_START_AGAIN}"),
    "temporarily_unavailable": ("Krebit is busy.", f"Wait a minute. {_START_AGAIN}"),
}
_UNKNOWN: Final = ("Krebit did not grant the authorization.", f"{_CHECK_REDIRECT_URI} {_START_AGAIN}")
_BY_KIND: Final = {
    RefusalKind.VERDICT: _REFUSALS["invalid_grant"],
    RefusalKind.CLIENT: _REFUSALS["invalid_client"],
    RefusalKind.OTHER: _UNKNOWN,
}


def explain(outcome: Rotated | Refusal | NotSent | Unclear, *, redirect_uri: str) -> Refused:
    """The error to show after an attempt that brought no tokens."""
    match outcome:
        case NotSent(reason, retry_after):
            detail = f"Krebit's token endpoint did not process the request: {reason}."
            hint = f"Wait {retry_after:.0f} seconds." if retry_after else "Run `krebit-proxy check` to see why."
        case Unclear(reason):
            detail = f"Krebit's token endpoint sent no usable response: {reason}."
            hint = "Wait a minute. If it keeps failing, check Krebit's status page."
        case Rotated(_, reason):
            detail = f"The tokens from Krebit cannot be used: {reason}."
            hint = "If it happens again, report it to Krebit."
        case Refusal(error, _, _, _, True):
            detail = f"Something in front of Krebit refused the token request: {error}."
            hint = (
                "Check `oauth.token_url`. If it is right, a firewall or a bot filter blocks the proxy."
                f" Ask whoever runs it to allow POST requests to that URL with `User-Agent: {USER_AGENT}`."
            )
        case Refusal(error) as refusal if error.startswith(NO_WORD):
            detail = f"Krebit's token endpoint refused the request. It said: {refusal.words}"
            hint = "Check `oauth.token_url`, or ask Krebit's support."
        case Refusal(error, kind=kind) as refusal:  # pragma: no branch -- there is no other kind
            detail, hint = _REFUSALS.get(error, _BY_KIND[kind])
            detail = f"{detail} It said: {refusal.words}"
            return Refused("setup_failed", detail, hint=hint.format(redirect_uri=redirect_uri))
    return Refused("setup_failed", detail, hint=f"{hint} {_START_AGAIN}")


def cautions(issued: Issued, *, scope: str) -> list[str]:
    """Warnings for the person who has just authorized, about the token response and about missing scope."""
    granted = issued.tokens.scope.split()
    # RFC 6749 5.1: scope is "OPTIONAL, if identical to the scope requested by the client".
    missing = [name for name in scope.split() if granted and name not in granted]
    narrower = [f"Krebit granted less scope than requested. Missing: {displayable(' '.join(missing))}."]
    return [*issued.warnings, *(narrower if missing else [])]


def will_stop(tokens: Tokens) -> bool:
    """Whether access ends with this access token, because there is no refresh token."""
    return tokens.refresh_token is None
