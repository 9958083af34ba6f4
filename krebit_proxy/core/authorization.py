"""The authorization code grant as the client sees it (RFC 6749, 4.1; RFC 7636).

One attempt runs so: `begin` makes it, `authorization_url` is where the person goes, `read_response` takes apart what
comes back, and `verdict` says whether it answers the attempt. It either raises, and the attempt lives on, or returns,
and the caller drops the attempt *before* it exchanges the code: so each state and each code is used once.
"""

import hmac
import re
from base64 import urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Final
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from krebit_proxy.core.grant import Tokens
from krebit_proxy.core.secret import Secret
from krebit_proxy.core.token_error import displayable
from krebit_proxy.core.token_response import Issued, NotSent, Refusal, Rotated, Unclear
from krebit_proxy.errors import Refused

ATTEMPT_LIFETIME: Final = 600  # seconds

# RFC 6749 A.11: code = 1*VSCHAR, and VSCHAR = %x20-7E.
_CODE: Final = re.compile(r"[\x20-\x7e]+")
_START_AGAIN: Final = "Open `/setup` to start again."


@dataclass(frozen=True, slots=True)
class SetupAttempt:
    """One authorization that is under way. `expires_at` is seconds by the clock that `begin` was given.

    `browser` is the SHA-256 of the cookie that the browser must bring back, or None where there is no browser to
    bind to: a command that prints the link and reads the answer itself is the user agent.
    """

    state: Secret
    verifier: Secret | None
    expires_at: float
    browser: str | None = None


ENDED: Final = SetupAttempt(Secret(""), None, expires_at=0)  # where no attempt is pending


def begin(entropy: Callable[[int], bytes], *, now: float, pkce: bool, browser: Secret | None = None) -> SetupAttempt:
    """A fresh attempt. `entropy` gives so many unguessable bytes; `browser` is the value of the binding cookie."""
    # RFC 7636 4.1: "a high-entropy cryptographic random STRING [...] with a minimum length of 43 characters".
    return SetupAttempt(
        state=Secret(_base64url(entropy(32))),
        verifier=Secret(_base64url(entropy(32))) if pkce else None,
        expires_at=now + ATTEMPT_LIFETIME,
        browser=browser_mark(browser.reveal()) if browser else None,
    )


def browser_mark(cookie: str) -> str:
    """What is remembered of a browser: never the value of its cookie, which is as good as the browser."""
    return sha256(cookie.encode(errors="backslashreplace")).hexdigest()


def authorization_url(
    endpoint: str, attempt: SetupAttempt, *, client_id: str, redirect_uri: str, scope: str = ""
) -> str:
    """The authorization request (RFC 6749, 4.1.1) for `attempt`, as the URL to open. `endpoint` may have a query."""
    parameters = {
        "response_type": "code",
        "client_id": client_id,
        # RFC 6749 3.1.2.3: it is compared with the registered one; so it goes out byte for byte as it is set.
        "redirect_uri": redirect_uri,
        "state": attempt.state.reveal(),
    }
    if scope:
        parameters["scope"] = scope
    if attempt.verifier:
        # RFC 7636 4.2: code_challenge = BASE64URL-ENCODE(SHA256(ASCII(code_verifier)))
        digest = sha256(attempt.verifier.reveal().encode("ascii")).digest()
        parameters |= {"code_challenge": _base64url(digest), "code_challenge_method": "S256"}
    url = urlsplit(endpoint)
    # RFC 6749 3.1: the endpoint may have a query, "which MUST be retained when adding additional query parameters.
    # The endpoint URI MUST NOT include a fragment component."
    query = "&".join(filter(None, [url.query, urlencode(parameters, quote_via=quote, safe="")]))
    return urlunsplit((url.scheme, url.netloc, url.path, query, ""))


@dataclass(frozen=True, slots=True)
class AuthorizationResponse:
    """What came back to the redirection endpoint: a code (RFC 6749, 4.1.2) or a refusal (4.1.2.1), safe to show."""

    state: Secret
    outcome: Secret | Refusal
    names_issuer: bool  # by RFC 9207; with one authorization server, whose endpoints are settings, nothing hangs on it


def pasted_query(text: str) -> str:
    """The query in what a person pasted: a whole address, its query, or just `code=...&state=...`."""
    address = "".join(text.split()).strip("<>\"'").partition("#")[0]
    before, mark, after = address.partition("?")
    return after if mark else before


def read_response(query: str) -> AuthorizationResponse:
    """Takes the query of a redirection apart. Raises Refused (setup_failed) for what no server may send."""
    try:
        query.encode()  # what came in no known encoding fails here
        pairs = parse_qsl(query, errors="strict", max_num_fields=64)
    except ValueError:
        raise _unreadable("The answer cannot be read.") from None
    # RFC 6749 3.1: "Parameters sent without a value MUST be treated as if they were omitted from the request."
    # parse_qsl drops them. "Request and response parameters MUST NOT be included more than once."
    names = [name for name, _ in pairs if name in {"code", "state", "error", "iss"}]
    if len(names) != len(set(names)):
        raise _unreadable("The answer has a parameter twice.")
    values = dict(pairs)
    state, code, error = (values.get(name, "") for name in ("state", "code", "error"))
    names_issuer = "iss" in values
    if code and error:
        raise _unreadable("The answer has both a code and an error.")
    if error:
        description = displayable(values.get("error_description"))
        return AuthorizationResponse(Secret(state), Refusal(displayable(error) or "error", description), names_issuer)
    if not _CODE.fullmatch(code):
        raise _unreadable("The answer has no code that can be used." if code else "The answer has no code.")
    return AuthorizationResponse(Secret(state), Secret(code), names_issuer)


def verdict(
    attempt: SetupAttempt, response: AuthorizationResponse, *, now: float, browser: str | None = None
) -> Secret | Refusal:
    """What `response` means for `attempt`: the code to exchange, or the server's refusal. Either way it is used up.

    Args:
        attempt: the pending one, or `ENDED`.
        response: from `read_response`.
        now: seconds, by the clock that `begin` was given.
        browser: the value of the cookie that came along, if one did.

    Raises:
        Refused: setup_failed; this is not the answer to the attempt, which stays alive. Else anybody who can reach the
            redirection endpoint could end a login with a made-up answer.
    """
    if now >= attempt.expires_at:
        raise _stranger("No authorization is under way here: it is finished, or took longer than ten minutes.")
    if attempt.browser and not hmac.compare_digest(attempt.browser, browser_mark(browser or "")):
        raise _stranger("This answer came from another browser than the one that started, or its cookie was lost.")
    if not attempt.state.matches(response.state.reveal()):
        raise _stranger("This answer belongs to another attempt, perhaps an older one.")
    return response.outcome


def _stranger(detail: str) -> Refused:
    return Refused("setup_failed", detail, hint=f"{_START_AGAIN} Finish in the same browser and window.")


def _unreadable(detail: str) -> Refused:
    hint = "The whole address is needed to which the browser was sent after you allowed the app."
    return Refused("setup_failed", detail, hint=hint)


_CHECK_CLIENT: Final = (
    "Compare `client_id` and `client_secret` with the app at Krebit, restart, and open `/setup` again."
)
_CHECK_REDIRECT_URI: Final = "The app at Krebit must have exactly this redirect URI: `{redirect_uri}`"
# By error code of RFC 6749, 4.1.2.1 and 5.2: what happened, and what to do.
_REFUSALS: Final = {
    "access_denied": (
        "The authorization was not allowed at Krebit.",
        f"{_START_AGAIN} If you may not allow it, ask someone in your organization who may.",
    ),
    "invalid_client": ("Krebit does not accept the client id or the client secret.", _CHECK_CLIENT),
    "unauthorized_client": ("Krebit does not let this app ask for an authorization.", _CHECK_CLIENT),
    "invalid_grant": (
        "Krebit did not accept the code. It works once, for a short time, and for one redirect URI.",
        f"{_START_AGAIN} {_CHECK_REDIRECT_URI}",
    ),
    "invalid_request": (
        "Krebit did not accept the request.",
        f"{_CHECK_REDIRECT_URI} If it has, set `oauth.pkce: false` and start again.",
    ),
    "unsupported_response_type": ("Krebit does not give out codes to this app.", _CHECK_CLIENT),
    "unsupported_grant_type": ("Krebit does not exchange codes for this app.", _CHECK_CLIENT),
    "invalid_scope": (
        "Krebit does not know the scope that was asked for.",
        "Correct `oauth.scope`, or leave it empty, and start again.",
    ),
    "server_error": ("Krebit had an error of its own.", f"Wait a minute. {_START_AGAIN}"),
    "temporarily_unavailable": ("Krebit is too busy for now.", f"Wait a minute. {_START_AGAIN}"),
}
_UNKNOWN: Final = ("Krebit did not give an authorization.", f"{_CHECK_REDIRECT_URI} {_START_AGAIN}")


def explain(outcome: Rotated | Refusal | NotSent | Unclear, *, redirect_uri: str) -> Refused:
    """The error for a person, after an attempt that brought no tokens."""
    if isinstance(outcome, NotSent):
        detail = f"The token endpoint could not be used: {outcome.reason}."
        return Refused("setup_failed", detail, hint=f"Run `krebit-proxy check` to see why. {_START_AGAIN}")
    if isinstance(outcome, Unclear | Rotated):
        detail = f"The token endpoint gave no usable answer: {outcome.reason}."
        return Refused("setup_failed", detail, hint=f"Wait a minute. {_START_AGAIN}")
    detail, hint = _REFUSALS.get(outcome.error, _UNKNOWN)
    words = f"{outcome.error}: {outcome.description}" if outcome.description else outcome.error
    return Refused("setup_failed", f"{detail} It said: {words}", hint=hint.format(redirect_uri=redirect_uri))


def cautions(issued: Issued, *, scope: str) -> list[str]:
    """Sentences for the person who just authorized: what came with the tokens, and which of `scope` is missing."""
    granted = issued.tokens.scope.split()
    # RFC 6749 5.1: scope is "OPTIONAL, if identical to the scope requested by the client".
    missing = [name for name in scope.split() if granted and name not in granted]
    narrower = [f"Krebit granted less than was asked for; missing: {displayable(' '.join(missing))}."]
    return [*issued.warnings, *(narrower if missing else [])]


def will_stop(tokens: Tokens) -> bool:
    """Whether access ends with this access token, because there is nothing to renew it with."""
    return tokens.refresh_token is None


def _base64url(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
