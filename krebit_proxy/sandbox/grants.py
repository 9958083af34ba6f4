"""The codes and tokens that the authorization server has issued, and the rules for them (RFC 6749, RFC 7636). No I/O.

All tokens that come from one consent are one *family*. A revoked token is deleted, so nobody can tell a revoked token
from an unknown one. Times are seconds since the epoch, and are arguments.
"""

import hmac
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any, Final, Literal

# What happens to a used refresh token. strict: it stops working. off: it keeps working, and there is no new one.
# grace: for some seconds, it returns the same pair again. family: like strict, and a second use revokes the family.
Rotation = Literal["strict", "off", "grace", "family"]

# RFC 6749 4.1.2: "A maximum authorization code lifetime of 10 minutes is RECOMMENDED."
CODE_LIFETIME: Final = 600.0


class OAuthError(Exception):
    """An error of RFC 6749, 4.1.2.1 or 5.2, or RFC 6750, 3.1: `error` is its code, `description` is for people."""

    def __init__(self, error: str, description: str) -> None:
        super().__init__(description)
        self.error = error
        self.description = description


class RefreshTokenDead(OAuthError):
    """The refresh token is unknown, revoked, used or expired. RFC 6749 calls this invalid_grant."""

    def __init__(self, description: str) -> None:
        super().__init__("invalid_grant", description)


@dataclass(frozen=True, slots=True)
class Terms:
    """The lifetimes of new tokens, in seconds."""

    lifetime: float  # of the access token
    lag: float = 0.0  # from issue until the API accepts the access token
    refresh_lifetime: float | None = None  # None: the refresh token never expires
    fixed_end: bool = False  # a renewal does not move the end of the refresh token


@dataclass(frozen=True, slots=True)
class Pair:
    """One token response. `refresh_token` is None if the old one stays in use."""

    access_token: str
    refresh_token: str | None
    expires_at: float
    refresh_expires_at: float | None = None  # None: never


@dataclass(slots=True)
class Code:
    """An authorization code, bound to the request that it answers."""

    family: str
    redirect_uri: str | None  # of the authorization request; None: it had none
    challenge: str | None  # PKCE, S256
    expires_at: float
    used: bool = False


@dataclass(slots=True)
class AccessToken:
    """Valid at the API from `accepted_from` until it expires."""

    family: str
    expires_at: float
    accepted_from: float = 0.0


@dataclass(slots=True)
class RefreshToken:
    """Can be exchanged for the next access token."""

    family: str
    spent_at: float | None = None
    next_access: str = ""  # the pair that it was exchanged for; with the rotation "grace", it is returned again
    next_refresh: str = ""
    expires_at: float | None = None


class Grants:
    """All codes and tokens."""

    def __init__(self, rotation: Rotation, grace: float) -> None:
        self.rotation = rotation
        self.grace = grace  # seconds
        self._codes: dict[str, Code] = {}
        self._access: dict[str, AccessToken] = {}
        self._refresh: dict[str, RefreshToken] = {}

    def code(self, redirect_uri: str | None, challenge: str | None, now: float) -> str:
        code = secrets.token_urlsafe(24)
        self._codes[code] = Code(secrets.token_hex(8), redirect_uri, challenge, now + CODE_LIFETIME)
        return code

    def exchange(self, code: str, redirect_uri: str | None, verifier: str | None, *, terms: Terms, now: float) -> Pair:
        """The tokens for a code. The first try uses the code up. Raises OAuthError (invalid_grant)."""
        known = self._codes.get(code)
        if known is None or now >= known.expires_at:
            raise OAuthError("invalid_grant", "The code is unknown or has expired.")
        if known.used:
            # RFC 6749 4.1.2: "If an authorization code is used more than once, the authorization server MUST deny the
            # request and SHOULD revoke (when possible) all tokens previously issued based on that authorization code."
            self._revoke_family(known.family)
            raise OAuthError("invalid_grant", "The code was used before; its tokens are now revoked.")
        known.used = True
        # RFC 6749 4.1.3: "if the "redirect_uri" parameter was included in the authorization request [...] their values
        # MUST be identical."
        if redirect_uri != known.redirect_uri:
            raise OAuthError("invalid_grant", "redirect_uri is not the one of the authorization request.")
        _verify(known.challenge, verifier)
        return self._issue(known.family, terms, now, None)

    def refresh(self, token: str, *, terms: Terms, now: float) -> Pair:
        """The next access token and, depending on the rotation, the next refresh token. Raises RefreshTokenDead."""
        known = self._refresh.get(token)
        if known is None:
            raise RefreshTokenDead("The refresh token is unknown or revoked.")
        if known.expires_at is not None and now >= known.expires_at:
            raise RefreshTokenDead("The refresh token has expired.")
        if known.spent_at is not None:
            return self._again(known, terms, now)
        if self.rotation == "off":
            known.expires_at = _refresh_end(terms, now, known.expires_at)
            access_token = self._issue_access(known.family, terms, now)
            return Pair(access_token, None, now + terms.lifetime, known.expires_at)
        pair = self._issue(known.family, terms, now, known.expires_at)
        known.spent_at, known.next_access, known.next_refresh = now, pair.access_token, pair.refresh_token or ""
        return pair

    def _again(self, spent: RefreshToken, terms: Terms, now: float) -> Pair:
        if self.rotation == "family":
            self._revoke_family(spent.family)
            raise RefreshTokenDead("The refresh token was used before; all its tokens are now revoked.")
        if self.rotation != "grace" or now > (spent.spent_at or 0) + self.grace:
            raise RefreshTokenDead("The refresh token was used before.")
        access = self._access.get(spent.next_access)
        if access is None or now >= access.expires_at:
            spent.next_access = self._issue_access(spent.family, terms, now)
            access = self._access[spent.next_access]
        end = self._refresh[spent.next_refresh].expires_at
        return Pair(spent.next_access, spent.next_refresh, access.expires_at, end)

    def live(self, access_token: str, now: float) -> bool:
        known = self._access.get(access_token)
        return known is not None and known.accepted_from <= now < known.expires_at

    def revoke(self, token: str) -> None:
        """Deletes a token. RFC 7009 2.1: with a refresh token "SHOULD also invalidate all access tokens"."""
        self._access.pop(token, None)
        if (known := self._refresh.get(token)) is not None:
            self._revoke_family(known.family)

    def revoke_all(self, *, access: bool, refresh: bool) -> None:
        if access:
            self._access.clear()
        if refresh:
            self._refresh.clear()

    def summary(self, now: float) -> dict[str, Any]:
        """The number of valid tokens of each kind, and the seconds until the last of them expires (None: never)."""
        access = [token.expires_at for token in self._access.values() if token.expires_at > now]
        ends = [token.expires_at for token in self._refresh.values() if token.spent_at is None]
        refresh = [end for end in ends if end is None or end > now]
        limited = [end for end in refresh if end is not None]
        return {
            "access_tokens": len(access),
            "access_token_expires_in": round(max(access) - now, 1) if access else None,
            "refresh_tokens": len(refresh),
            "refresh_token_expires_in": round(max(limited) - now, 1) if limited else None,
        }

    def dump(self) -> dict[str, Any]:
        return {"codes": _dump(self._codes), "access": _dump(self._access), "refresh": _dump(self._refresh)}

    def load(self, document: dict[str, Any]) -> None:
        """Restores the result of `dump`."""
        self._codes = {value: Code(**known) for value, known in document["codes"].items()}
        self._access = {value: AccessToken(**known) for value, known in document["access"].items()}
        self._refresh = {value: RefreshToken(**known) for value, known in document["refresh"].items()}

    def _issue(self, family: str, terms: Terms, now: float, end: float | None) -> Pair:
        """A new pair. `end` is when the old refresh token expires. None: there is none, or it never expires."""
        refresh_token = secrets.token_urlsafe(24)
        end = _refresh_end(terms, now, end)
        self._refresh[refresh_token] = RefreshToken(family, expires_at=end)
        return Pair(self._issue_access(family, terms, now), refresh_token, now + terms.lifetime, end)

    def _issue_access(self, family: str, terms: Terms, now: float) -> str:
        self._access = {value: known for value, known in self._access.items() if known.expires_at > now}
        access_token = secrets.token_urlsafe(24)
        self._access[access_token] = AccessToken(family, now + terms.lifetime, now + terms.lag)
        return access_token

    def _revoke_family(self, family: str) -> None:
        self._access = {value: known for value, known in self._access.items() if known.family != family}
        self._refresh = {value: known for value, known in self._refresh.items() if known.family != family}


def _refresh_end(terms: Terms, now: float, before: float | None) -> float | None:
    """When a new refresh token expires, if the one that it replaces expires at `before`."""
    if terms.refresh_lifetime is None:
        return None
    return before if terms.fixed_end and before is not None else now + terms.refresh_lifetime


def _dump(held: Mapping[str, Any]) -> dict[str, Any]:
    return {value: asdict(known) for value, known in held.items()}


def _verify(challenge: str | None, verifier: str | None) -> None:
    """RFC 7636 4.6: "BASE64URL-ENCODE(SHA256(ASCII(code_verifier))) == code_challenge"; else invalid_grant."""
    if (challenge is None) != (verifier is None):
        raise OAuthError("invalid_grant", "code_challenge and code_verifier only work together.")
    digest = urlsafe_b64encode(sha256((verifier or "").encode()).digest()).rstrip(b"=")
    if challenge is not None and not hmac.compare_digest(digest, challenge.encode()):
        raise OAuthError("invalid_grant", "code_verifier does not fit the code_challenge.")
