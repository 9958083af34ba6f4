"""One-time keys that open the setup pages.

The proxy prints a link with such a key, and so does its command line. Both have the client secret, which signs the key,
so nothing needs to be stored or sent between them. A key is valid for `KEY_LIFETIME` seconds, and only for one run of
the proxy, since the next run does not remember which keys were used.
"""

import hmac
from typing import Final

from krebit_proxy.core.base64url import base64url
from krebit_proxy.core.secret import Secret

KEY_LIFETIME: Final = 900  # seconds


def mint_key(client_secret: Secret, *, run: str, now: float, nonce: bytes) -> str:
    """A new key.

    Args:
        client_secret: The setting.
        run: Identifies the run of the proxy that accepts the key.
        now: Seconds since the epoch.
        nonce: 16 unguessable bytes.
    """
    claim = f"{int(now) + KEY_LIFETIME}.{base64url(nonce)}"
    return f"{claim}.{_seal(client_secret, claim, run)}"


def check_key(client_secret: Secret, key: str, *, run: str, now: float) -> float | None:
    """When `key` expires, in seconds since the epoch. None if it is forged, too old, or for another run of the proxy.

    It does not check whether the key was used before: its caller must.
    """
    claim, _, seal = key.rpartition(".")
    if not key.isascii() or not hmac.compare_digest(_seal(client_secret, claim, run), seal):
        return None
    expires_at = float(claim.partition(".")[0])
    return expires_at if now < expires_at else None


def _seal(client_secret: Secret, claim: str, run: str) -> str:
    key = hmac.digest(client_secret.reveal().encode(), b"krebit-proxy setup key", "sha256")
    return base64url(hmac.digest(key, f"{claim} {run}".encode(), "sha256"))
