"""The grant, and what the token endpoint says of it (RFC 6749, 5.1 and 5.2)."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from krebit_proxy.core.secret import Secret

DEFAULT_LIFETIME: Final = 3600.0  # where the server does not say, or says nonsense
LONGEST_LIFETIME: Final = 30 * 86400.0  # a lifetime is a hint; longer ones are not believed
LONGEST_TOKEN: Final = 16 * 1024  # bytes; it must fit into one header field

# A token goes into a header field: visible ASCII only, so that it can never end the line (RFC 6750, 2.1 is narrower).
_TOKEN: Final = re.compile(r"[\x21-\x7e]+")
# RFC 6749 5.2: "Values for the "error_description" parameter MUST NOT include characters outside the set
# %x20-21 / %x23-5B / %x5D-7E." The error code has the same set.
_NOT_SHOWN: Final = re.compile(r"[^\x20-\x21\x23-\x5b\x5d-\x7e]")


@dataclass(frozen=True, slots=True)
class Tokens:
    """What one successful token response gave us. Times are seconds since the epoch by the wall clock."""

    access_token: Secret
    refresh_token: Secret | None
    obtained_at: float  # when the request was sent: lifetime counts from before the answer
    expires_at: float
    scope: str = ""

    @property
    def lifetime(self) -> float:
        """Seconds from request to expiry."""
        return self.expires_at - self.obtained_at


@dataclass(frozen=True, slots=True)
class Intent:
    """Written before a refresh token is spent, so that a lost answer can be explained. Cleared when the outcome is known."""

    at: float
    fingerprint: str  # of the refresh token
    holder: str  # host and process


@dataclass(frozen=True, slots=True)
class Verdict:
    """The authorization server said invalid_grant: only a person can help. The tokens are kept all the same."""

    at: float
    reason: str


@dataclass(frozen=True, slots=True)
class Grant:
    """What a store holds. `generation` names one set of tokens and grows by one with each new one; intent and verdict
    are notes on that generation and do not change it. `tokens` is None after a logout, so that the count goes on."""

    generation: int
    organization: str
    client_id: str
    tokens: Tokens | None
    intent: Intent | None = None
    verdict: Verdict | None = None


# What one token request came to. Only `Issued` brings tokens, and only `Refusal` with invalid_grant is a verdict.


@dataclass(frozen=True, slots=True)
class Issued:
    """A valid token response. `warnings` are short sentences for the log and for the person who set it up."""

    tokens: Tokens
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error response by RFC 6749, 5.2. Both texts are already safe to show."""

    error: str
    description: str = ""


@dataclass(frozen=True, slots=True)
class NotSent:
    """The request certainly did not reach the server (no address, no connection, no TLS), or was not processed
    (429, 503 with Retry-After). `retry_after` is seconds, if the server asked for patience."""

    reason: str
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Unclear:
    """Sent, and no telling whether it was processed: time-out, reset, 5xx, an answer that is no token response."""

    reason: str
    retry_after: float | None = None


Outcome = Issued | Refusal | NotSent | Unclear
