"""One-time keys that open the setup pages.

The proxy prints a link with such a key, and so does its command line. Both have the client secret, which signs the key,
so nothing needs to be stored or sent between them. A key is valid for `KEY_LIFETIME` seconds, and only in one term.

A term ends when the proxy ends, since the next run does not remember which keys were used. It also ends when a person
authorizes the proxy or logs out, by any way: whoever still has another key then cannot replace the new grant.
"""

import hmac
from hashlib import sha256
from typing import Final

from krebit_proxy.core.base64url import base64url
from krebit_proxy.core.secret import Secret

KEY_LIFETIME: Final = 900  # seconds


def term_of(run: str, authorized_at: float) -> str:
    """The name of a term. It is not secret.

    Args:
        run: Identifies the run of the proxy.
        authorized_at: When a person last authorized the proxy or logged out.
    """
    return base64url(sha256(f"{run} {authorized_at!r}".encode()).digest()[:12])


def mint_key(client_secret: Secret, *, term: str, now: float, nonce: bytes) -> str:
    """A new key.

    Args:
        client_secret: The setting.
        term: When the proxy accepts the key, see `term_of`.
        now: Seconds since the epoch.
        nonce: 16 unguessable bytes.
    """
    claim = f"{int(now) + KEY_LIFETIME}.{base64url(nonce)}"
    return f"{claim}.{_seal(client_secret, claim, term)}"


def check_key(client_secret: Secret, key: str, *, term: str, now: float) -> float | None:
    """When `key` expires, in seconds since the epoch. None if it is forged, too old, or of another term.

    It does not check whether the key was used before: its caller must.
    """
    claim, _, seal = key.rpartition(".")
    if not key.isascii() or not hmac.compare_digest(_seal(client_secret, claim, term), seal):
        return None
    expires_at = float(claim.partition(".")[0])
    return expires_at if now < expires_at else None


def _seal(client_secret: Secret, claim: str, term: str) -> str:
    key = hmac.digest(client_secret.reveal().encode(), b"krebit-proxy setup key", "sha256")
    return base64url(hmac.digest(key, f"{claim} {term}".encode(), "sha256"))
