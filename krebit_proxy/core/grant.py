"""The grant: what a person's authorization gave us, and its stored form, which is the same in every store."""

import json
import re
from dataclasses import asdict, dataclass
from typing import Any, Final, NoReturn

from krebit_proxy.core.secret import Secret

LONGEST_TOKEN: Final = 16 * 1024  # bytes of an access token; it must fit into one header field
LONGEST_LIFETIME: Final = 30 * 86400.0  # seconds; a lifetime is a hint, and a longer one counts as this
LONGEST_RECORD: Final = 4 * 1024 * 1024  # bytes; a token response is far smaller, also with every character escaped
LATEST: Final = 253_402_214_400.0  # seconds since the epoch: the last day of the year 9999
LAST_GENERATION: Final = 2**53  # JSON numbers are exact up to here, and a database can store the next one, too

# A token goes into a header: visible ASCII only, so that it can never end the line (RFC 6750, 2.1 is narrower).
_TOKEN: Final = re.compile(r"[\x21-\x7e]+")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


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
_MANY_FORMATS: Final = 1000  # a larger number is none of ours


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
    """Reads the stored form. Raises ValueError for anything else, with a text that reveals nothing of it.

    Somebody else may have written it. So its values obey the rules for those of a token response, and everything can be
    shown, counted and sent. Unknown members are ignored.
    """
    try:
        if len(text) > LONGEST_RECORD:
            raise ValueError
        document = json.loads(text, parse_constant=_refuse, object_pairs_hook=_once)
        version = document["v"]
        if type(version) is int and version == _FORMAT:
            return _grant(document)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError):
        msg = "it is not a complete grant"
        raise ValueError(msg) from None
    named = f"format {version}" if type(version) is int and 0 < version < _MANY_FORMATS else "an unknown format"
    msg = f"it has {named}, but this version of krebit-proxy reads only format {_FORMAT}"
    raise ValueError(msg)


def access_token_flaw(token: str) -> str:
    """Why this cannot be used as an access token. Empty: it can."""
    if not token:
        return "it is empty, or not a string"
    if len(token) > LONGEST_TOKEN:
        return "it is longer than 16 KiB"
    if not _TOKEN.fullmatch(token):
        return "it has characters that a header cannot contain"
    return ""


def is_refresh_token(token: str) -> bool:
    """Whether a form can carry the token: it is not blank and contains no half of a surrogate pair."""
    return bool(token.strip()) and is_text(token)


def is_text(value: str) -> bool:
    """Whether UTF-8 can encode it: it contains no half of a surrogate pair."""
    return not _SURROGATE.search(value)


def _refuse(constant: str) -> NoReturn:
    """For NaN and the infinities, which are no JSON."""
    raise ValueError(constant)


def _once(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. RFC 8259 4: when names repeat, "many implementations report the last name/value pair only"."""
    found = dict(members)
    if len(found) < len(members):
        raise ValueError
    return found


def _grant(document: dict[str, Any]) -> Grant:
    tokens, intent, verdict = (_object(document[name]) for name in ("tokens", "intent", "verdict"))
    return Grant(
        generation=_generation(document["generation"]),
        organization=_text(document["organization"]),
        client_id=_text(document["client_id"]),
        tokens=None if tokens is None else _tokens(tokens),
        intent=None
        if intent is None
        else Intent(_time(intent["at"]), _text(intent["fingerprint"]), _text(intent["holder"])),
        verdict=None if verdict is None else Verdict(_time(verdict["at"]), _text(verdict["reason"])),
        authorized_at=_time(document["authorized_at"]),
    )


def _tokens(tokens: dict[str, Any]) -> Tokens:
    access, refresh, obtained_at = tokens["access_token"], tokens["refresh_token"], _time(tokens["obtained_at"])
    if not isinstance(access, str) or access_token_flaw(access):
        raise ValueError
    if refresh is not None and not is_refresh_token(_text(refresh)):
        raise ValueError
    refresh_expires_at = tokens.get("refresh_expires_at")  # older grants have no end of the refresh token
    return Tokens(
        access_token=Secret(access),
        refresh_token=None if refresh is None else Secret(refresh),
        obtained_at=obtained_at,
        expires_at=min(_time(tokens["expires_at"]), obtained_at + LONGEST_LIFETIME),
        scope=_text(tokens["scope"]),
        refresh_expires_at=None if refresh_expires_at is None else _time(refresh_expires_at),
        refresh_end_is_fixed=tokens.get("refresh_end_is_fixed", False) is True,
    )


def _object(value: Any) -> dict[str, Any] | None:
    if value is not None and not isinstance(value, dict):
        raise TypeError
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or not is_text(value):
        raise TypeError
    return value


def _time(value: Any) -> float:
    """Seconds since the epoch, as a date that can be shown."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LATEST:
        raise TypeError
    return float(value)


def _generation(value: Any) -> int:
    if type(value) is not int or not 1 <= value <= LAST_GENERATION:
        raise TypeError
    return value
