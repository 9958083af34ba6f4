"""The grant: what a person's authorization gave us, and its stored form, which is the same in every store."""

import json
from dataclasses import asdict, dataclass
from typing import Any, Final

from krebit_proxy.core.secret import Secret


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of one successful token response. Times are seconds since the epoch, by the wall clock."""

    access_token: Secret
    refresh_token: Secret | None
    obtained_at: float  # when the request was sent, since the server counts from some moment after that
    expires_at: float
    scope: str = ""
    refresh_expires_at: float | None = None  # when the refresh token expires, if the server says so
    refresh_end_is_fixed: bool = False  # a renewal did not move that end, so the authorization ends then

    @property
    def lifetime(self) -> float:
        """Seconds from request to expiry."""
        return self.expires_at - self.obtained_at


@dataclass(frozen=True, slots=True)
class Intent:
    """A note that a refresh token is being spent: stored before, cleared when the outcome is known.

    One that stays in the store means that a process died, or lost the response. It explains a later refusal.
    """

    at: float
    fingerprint: str  # of the refresh token
    holder: str  # host, process, and what no other process has


@dataclass(frozen=True, slots=True)
class Verdict:
    """A note that Krebit refused the refresh token for good: a person must authorize again. The tokens are kept."""

    at: float
    reason: str


@dataclass(frozen=True, slots=True)
class Grant:
    """What a store holds.

    `generation` numbers the sets of tokens: each new set has the next number. A logout is a generation, too, with
    `tokens` None. Intent and verdict are notes on a generation and do not change its number.
    """

    generation: int
    organization: str
    client_id: str
    tokens: Tokens | None
    intent: Intent | None = None
    verdict: Verdict | None = None
    authorized_at: float = 0.0  # wall clock: when a person last authorized or logged out; renewals keep it


_FORMAT: Final = 1


def to_json(grant: Grant) -> str:
    """The stored form of `grant`: one JSON object. It contains the tokens in clear text, so only stores may see it."""
    tokens = grant.tokens
    return json.dumps(
        {
            "v": _FORMAT,
            "organization": grant.organization,
            "client_id": grant.client_id,
            "generation": grant.generation,
            "authorized_at": grant.authorized_at,
            "tokens": tokens
            and {
                "access_token": tokens.access_token.reveal(),
                "refresh_token": tokens.refresh_token and tokens.refresh_token.reveal(),
                "obtained_at": tokens.obtained_at,
                "expires_at": tokens.expires_at,
                "scope": tokens.scope,
                "refresh_expires_at": tokens.refresh_expires_at,
                "refresh_end_is_fixed": tokens.refresh_end_is_fixed,
            },
            "intent": grant.intent and asdict(grant.intent),
            "verdict": grant.verdict and asdict(grant.verdict),
        },
        indent=1,
    )


def from_json(text: str | bytes) -> Grant:
    """Reads the stored form. Raises ValueError for anything else, with a text that reveals nothing of it."""
    try:
        document = json.loads(text)
        version = document["v"]
        if version == _FORMAT:
            return _grant(document)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError):
        msg = "it is not a complete grant"
        raise ValueError(msg) from None
    msg = f"it has format {version!r:.20}, but this version of krebit-proxy reads only format {_FORMAT}"
    raise ValueError(msg)


def _grant(document: dict[str, Any]) -> Grant:
    tokens, intent, verdict = document["tokens"], document["intent"], document["verdict"]
    grant = Grant(
        generation=document["generation"],
        organization=document["organization"],
        client_id=document["client_id"],
        tokens=tokens
        and Tokens(
            access_token=_secret(tokens["access_token"]),
            refresh_token=None if tokens["refresh_token"] is None else _secret(tokens["refresh_token"]),
            obtained_at=float(tokens["obtained_at"]),
            expires_at=float(tokens["expires_at"]),
            scope=str(tokens["scope"]),
            # Older grants have neither.
            refresh_expires_at=_optional(tokens.get("refresh_expires_at")),
            refresh_end_is_fixed=tokens.get("refresh_end_is_fixed", False) is True,
        ),
        intent=intent and Intent(float(intent["at"]), str(intent["fingerprint"]), str(intent["holder"])),
        verdict=verdict and Verdict(float(verdict["at"]), str(verdict["reason"])),
        authorized_at=float(document["authorized_at"]),
    )
    if type(grant.generation) is not int or grant.generation < 1:
        raise TypeError
    return grant


def _secret(value: object) -> Secret:
    if not isinstance(value, str) or not value:
        raise TypeError
    return Secret(value)


def _optional(at: float | None) -> float | None:
    return None if at is None else float(at)
