"""The possible outcomes of one token request.

Only `Issued` and `Rotated` bring tokens. Only a `Refusal` of the kind VERDICT means that the grant is dead.
`core.token_answer` makes outcomes from responses, and `token_endpoint` makes `NotSent` when it cannot send a request.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from krebit_proxy.core.grant import Tokens
from krebit_proxy.core.secret import Secret

NO_WORD: Final = "HTTP status "  # how `Refusal.error` starts if the server sent no error code


@dataclass(frozen=True, slots=True)
class Issued:
    """New tokens. `warnings` are sentences for the log and for the person who authorizes the proxy."""

    tokens: Tokens
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rotated:
    """A new refresh token without a usable access token. The old refresh token is probably gone, so this counts."""

    refresh_token: Secret
    reason: str  # what is wrong with the access token
    refresh_expires_at: float | None = None


class RefusalKind(Enum):
    """What a refusal is about."""

    VERDICT = "the refresh token, or the code, is dead"
    CLIENT = "the client is not accepted, and only other settings can change that"
    OTHER = "a definite refusal for an unknown reason"


@dataclass(frozen=True, slots=True)
class Refusal:
    """The server refused the request for good, in a way that makes a retry unlikely to help.

    Attributes:
        error: The server's error code, or the HTTP status. Safe to show.
        description: The server's description, or empty. Safe to show.
        kind: What the refusal is about.
        mark: Two refusals with the same content have the same mark.
        page: Whether an HTML page said it. Then something in front of the token endpoint refused the request.
        worded: Whether `error` is an error code, and not just a status.
    """

    error: str
    description: str = ""
    kind: RefusalKind = RefusalKind.OTHER
    mark: str = ""
    page: bool = False
    worded: bool = True

    @property
    def words(self) -> str:
        """What the server said. Safe to show."""
        return f"{self.error}: {self.description}" if self.description else self.error


@dataclass(frozen=True, slots=True)
class NotSent:
    """The token was certainly not spent: there was no connection, or the status says that nothing was processed.

    `retry_after` is in seconds, if the server sent Retry-After.
    """

    reason: str
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Unclear:
    """Nobody knows whether the token was spent: after a time-out, a reset, a 5xx, or any other unexpected response."""

    reason: str
    retry_after: float | None = None


Outcome = Issued | Rotated | Refusal | NotSent | Unclear


# RFC 6749 5.2. Other codes are not counted by name, since a server can invent any number of them.
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
    """The label of `outcome` in metrics. There are only a few different ones."""
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
