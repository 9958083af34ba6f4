"""The grant, and the form in which stores keep it."""

import json
from dataclasses import asdict, dataclass
from typing import Any, Final

from krebit_proxy.core.secret import Secret


@dataclass(frozen=True, slots=True)
class Tokens:
    """What one successful token response gave us. Times are seconds since the epoch by the wall clock."""

    access_token: Secret
    refresh_token: Secret | None
    obtained_at: float  # when the request was sent: lifetime counts from before the answer
    expires_at: float
    scope: str = ""
    refresh_expires_at: float | None = None  # when the refresh token ends by itself, if the server has said so
    refresh_end_is_fixed: bool = False  # a renewal has not moved that: it is the end of the authorization

    @property
    def lifetime(self) -> float:
        """Seconds from request to expiry."""
        return self.expires_at - self.obtained_at


@dataclass(frozen=True, slots=True)
class Intent:
    """Written before a refresh token is spent, cleared when the outcome is known: it explains a lost answer."""

    at: float
    fingerprint: str  # of the refresh token
    holder: str  # host, process, and what no other process has


@dataclass(frozen=True, slots=True)
class Verdict:
    """The authorization server said invalid_grant: only a person can help. The tokens are kept all the same."""

    at: float
    reason: str


@dataclass(frozen=True, slots=True)
class Grant:
    """What a store holds.

    `generation` names one set of tokens and grows by one with each new set. Intent and verdict are notes on a
    generation and do not change it. `tokens` is None after a logout: the count goes on, the tokens are gone.
    """

    generation: int
    organization: str
    client_id: str
    tokens: Tokens | None
    intent: Intent | None = None
    verdict: Verdict | None = None
    authorized_at: float = 0.0  # wall clock: when a person last authorized; refreshes carry it on


# The stored form of a grant: one JSON object, the same in every store.

_FORMAT: Final = 1


def to_json(grant: Grant) -> str:
    """The stored form of `grant`. It holds the tokens in the clear: only a store may see it."""
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
    """Reads the stored form. Raises ValueError, whose text shows nothing of the content, if it is anything else."""
    try:
        document = json.loads(text)
        version = document["v"]
        if version == _FORMAT:
            return _grant(document)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError):
        msg = "it is not a complete grant"
        raise ValueError(msg) from None
    msg = f"it has format {version!r:.20}, and this version knows {_FORMAT} only"
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
            # Records of 0.1 have neither.
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
