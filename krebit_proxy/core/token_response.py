"""What an answer of the token endpoint comes to (RFC 6749, 5.1 and 5.2)."""

import json
import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final
from urllib.parse import quote, quote_plus

from krebit_proxy.core.grant import Tokens
from krebit_proxy.core.retry_after import seconds_to_wait
from krebit_proxy.core.secret import MASK, Secret

DEFAULT_LIFETIME: Final = 3600.0  # where the server does not say, or says nonsense
LONGEST_LIFETIME: Final = 30 * 86400.0  # a lifetime is a hint; longer ones are not believed
LONGEST_TOKEN: Final = 16 * 1024  # bytes; it must fit into one header field

# A token goes into a header field: visible ASCII only, so that it can never end the line (RFC 6750, 2.1 is narrower).
_TOKEN: Final = re.compile(r"[\x21-\x7e]+")
# RFC 6749 5.2: "Values for the "error_description" parameter MUST NOT include characters outside the set
# %x20-21 / %x23-5B / %x5D-7E." The error code has the same set.
_NOT_SHOWN: Final = re.compile(r"[^\x20-\x21\x23-\x5b\x5d-\x7e]")


# What one token request came to. Only `Issued` brings tokens, and only `Refusal` with invalid_grant is a verdict.


@dataclass(frozen=True, slots=True)
class Issued:
    """A valid token response. `warnings` are short sentences for the log and for the person who set it up."""

    tokens: Tokens
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rotated:
    """A new refresh token came, and no access token that can be used: the old refresh token is gone all the same."""

    refresh_token: Secret
    reason: str  # what was wrong with the rest
    refresh_expires_at: float | None = None


class RefusalKind(Enum):
    """What a refusal says."""

    VERDICT = "the refresh token, or the code, is dead"
    CLIENT = "this client is not accepted, which only new settings can change"
    OTHER = "a definite no, in words that do not say to what"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A definite no. Both texts are already safe to show; two refusals that say the same have the same `mark`."""

    error: str
    description: str = ""
    kind: RefusalKind = RefusalKind.OTHER
    mark: str = ""


@dataclass(frozen=True, slots=True)
class NotSent:
    """The token was certainly not spent: no connection, or a status that says nobody was there to spend it.

    `retry_after` is seconds, if the server asked for patience.
    """

    reason: str
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Unclear:
    """Sent, and no telling whether it was processed: time-out, reset, 5xx, an answer that is no token response."""

    reason: str
    retry_after: float | None = None


Outcome = Issued | Rotated | Refusal | NotSent | Unclear


def word_for(outcome: Outcome) -> str:
    """One word for `outcome`, of a few that never get more: for a counter."""
    match outcome:
        case Issued():
            return "ok"
        case Rotated():
            return "rotated"
        case Refusal(error):
            return error if error in _ERROR_CODES else "refused"
        case NotSent():
            return "not_sent"
        case Unclear():  # pragma: no branch -- there is no other kind
            return "unclear"


# HTTP statuses that carry an error response. RFC 6749 5.2: "The authorization server responds with an HTTP 400 (Bad
# Request) status code (unless specified otherwise)"; 401 for invalid_client; 403 is seen in the wild.
_ERROR_STATUSES: Final = (400, 401, 403)
_NOT_PROCESSED: Final = (300, 301, 302, 303, 307, 308, 404, 405, 410, 429)  # nobody was there to spend a token
# RFC 6749 5.2. They mean what they mean, even where somebody has chosen one of these words for a secret.
_ERROR_CODES: Final = frozenset(
    [
        "invalid_request",
        "invalid_client",
        "invalid_grant",
        "unauthorized_client",
        "unsupported_grant_type",
        "invalid_scope",
    ]
)


_KINDS: Final = {
    "invalid_grant": RefusalKind.VERDICT,
    "invalid_client": RefusalKind.CLIENT,
    "unauthorized_client": RefusalKind.CLIENT,
}


def read_answer(
    status: int,
    content: bytes,
    retry_after: str | None,
    *,
    sent_at: float,
    previous: Secret | None,
    sent: Collection[str] = (),
) -> Outcome:
    """What an answer of the token endpoint comes to.

    Args:
        status: the HTTP status.
        content: the whole content.
        retry_after: the value of the Retry-After field, if there was one.
        sent_at: wall clock, seconds, from before the request was sent; lifetime counts from there.
        previous: the refresh token that was spent, or None for an authorization code.
        sent: the secrets of the request, which an error text may repeat, and nobody may see.
    """
    document = _json_object(content)
    if status == 200:
        return (
            _token_response(document, sent_at, previous) if document else Unclear("an answer that is no token response")
        )
    error = document.get("error")
    if status in _ERROR_STATUSES and isinstance(error, str) and error:
        shown = error in _ERROR_CODES or displayable(error, sent) == error
        code = error if shown else "an error code that cannot be shown"
        kind = _KINDS.get(error, RefusalKind.OTHER)
        return Refusal(code, displayable(document.get("error_description"), sent), kind, error)
    reason = f"HTTP status {status}"
    if status in _NOT_PROCESSED:
        return NotSent(reason, seconds_to_wait(retry_after, sent_at))
    return Unclear(reason, seconds_to_wait(retry_after, sent_at))


def displayable(text: object, secrets: Collection[str] = ()) -> str:
    """An error text of the server, without `secrets`, cut to the characters that RFC 6749 allows and to 300 of them."""
    if not isinstance(text, str):
        return ""
    # In any spelling, the longest first, and before the cut: nothing may remain a part of one.
    spellings = {spell(secret) for secret in secrets if secret for spell in (str, quote, quote_plus)}
    for spelling in sorted(spellings, key=len, reverse=True):
        text = text.replace(spelling, MASK)
    return _NOT_SHOWN.sub(" ", text)[:300].strip()


def _json_object(content: bytes) -> dict[str, Any]:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _token_response(document: dict[str, Any], sent_at: float, previous: Secret | None) -> Outcome:
    access = document.get("access_token")
    if not isinstance(access, str) or len(access) > LONGEST_TOKEN or not _TOKEN.fullmatch(access):
        return Unclear("a token response without a usable access token")
    kind = document.get("token_type")
    # RFC 6749 5.1: token_type is "case insensitive"; 7.1: "the client MUST NOT use an access token if it does not
    # understand the token type".
    if kind is not None and (not isinstance(kind, str) or kind.lower() != "bearer"):
        return Unclear("a token response whose token_type is not Bearer")
    warnings = [] if kind is not None else ["The token response has no token_type; Bearer is assumed."]
    lifetime = _lifetime(document.get("expires_in"))
    if lifetime is None:
        lifetime = DEFAULT_LIFETIME
        warnings.append("The token response has no usable expires_in; one hour is assumed.")
    refresh = document.get("refresh_token")
    # RFC 6749 6: "The authorization server MAY issue a new refresh token, in which case the client MUST discard the
    # old refresh token and replace it with the new refresh token." None, or an empty one: the old one stays.
    renewed = Secret(refresh) if isinstance(refresh, str) and refresh else previous
    if renewed is None:
        warnings.append("The token response has no refresh token: access ends when this token expires.")
    scope = document.get("scope")
    tokens = Tokens(Secret(access), renewed, sent_at, sent_at + lifetime, scope if isinstance(scope, str) else "")
    return Issued(tokens, tuple(warnings))


def _lifetime(value: object) -> float | None:
    """Seconds from `expires_in`, a number or a numeric string of at least one; None where it is anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        seconds = float(value)
    except (ValueError, OverflowError):
        return None
    if not math.isfinite(seconds) or seconds < 1:
        return None
    return min(seconds, LONGEST_LIFETIME)
