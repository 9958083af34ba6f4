"""The one-time keys that open setup: for whoever has the client secret, the proxy and its command line."""

import hmac
from base64 import urlsafe_b64encode
from typing import Final

from krebit_proxy.core.secret import Secret

KEY_LIFETIME: Final = 900  # seconds


def mint_key(client_secret: Secret, *, run: str, now: float, nonce: bytes) -> str:
    """A one-time key that opens setup for `KEY_LIFETIME` seconds of wall clock. `nonce` is 16 unguessable bytes.

    It needs no memory: whoever has the client secret, the proxy or its command line, makes and checks it. `run` names
    the one run of the proxy that takes it, for the next run does not remember which keys were used.
    """
    claim = f"{int(now) + KEY_LIFETIME}.{_base64url(nonce)}"
    return f"{claim}.{_seal(client_secret, claim, run)}"


def check_key(client_secret: Secret, key: str, *, run: str, now: float) -> float | None:
    """When `key` expires, by the wall clock; None if it is not for this run of the proxy, or too old.

    The caller knows which were used.
    """
    claim, _, seal = key.rpartition(".")
    if not key.isascii() or not hmac.compare_digest(_seal(client_secret, claim, run), seal):
        return None
    expires_at = float(claim.partition(".")[0])
    return expires_at if now < expires_at else None


def _seal(client_secret: Secret, claim: str, run: str) -> str:
    key = hmac.digest(client_secret.reveal().encode(), b"krebit-proxy setup key", "sha256")
    return _base64url(hmac.digest(key, f"{claim} {run}".encode(), "sha256"))


def _base64url(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
