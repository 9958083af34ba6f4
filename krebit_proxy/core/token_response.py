"""What one token request came to.

Only `Issued` and `Rotated` bring tokens, and only a `Refusal` of the kind VERDICT says that the grant is dead.
`core.token_answer` makes them from answers, and the token endpoint's client from failures to get one.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from krebit_proxy.core.grant import Tokens
from krebit_proxy.core.secret import Secret

NO_WORD: Final = "HTTP status "  # begins what stands for the server's word in a refusal without one


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
    """A definite no. Both texts are already safe to show; two refusals that say the same have the same `mark`.

    `error` is the server's own word, or the HTTP status where it has none.
    """

    error: str
    description: str = ""
    kind: RefusalKind = RefusalKind.OTHER
    mark: str = ""
    page: bool = False  # an HTML page said it: something in front of the token endpoint
    worded: bool = True  # with an error code, and not just a status


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


# RFC 6749 5.2.
_ERROR_CODES: Final = frozenset(
    {
        "invalid_request",
        "invalid_client",
        "invalid_grant",
        "unauthorized_client",
        "unsupported_grant_type",
        "invalid_scope",
    }
)


def word_for(outcome: Outcome) -> str:
    """One word for `outcome`, of a few that never get more: for a counter."""
    match outcome:
        case Issued():
            return "ok"
        case Rotated():
            return "rotated"
        case Refusal(_, _, RefusalKind.VERDICT):
            return "invalid_grant"
        case Refusal(error, _, RefusalKind.CLIENT):
            return error if error in _ERROR_CODES else "invalid_client"
        case Refusal(error):
            return error if error in _ERROR_CODES else "refused"
        case NotSent():
            return "not_sent"
        case Unclear():  # pragma: no branch -- there is no other kind
            return "unclear"
