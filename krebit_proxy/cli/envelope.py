"""A grant on its way to another machine, encrypted so that only the receiver can open it.

HPKE (RFC 9180) in base mode, with DHKEM(X25519), HKDF-SHA256 and ChaCha20-Poly1305. The receiver's private key exists
in one process and is never stored, so nobody can open the envelope later. Address and envelope begin with the version
of this format. Both are printed as URL-safe base64.

Whoever replaces the address on its way gets the grant. So both sides show its fingerprint, for people to compare.
"""

import binascii
from base64 import urlsafe_b64decode
from hashlib import sha256
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from krebit_proxy.core.base64url import base64url
from krebit_proxy.core.grant import Grant, from_json, to_json

# This first byte makes every address begin with "A". If it began with a dash, the command line would see an option.
_VERSION: Final = b"\x02"
_SUITE: Final = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)
_LETTERS: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # without letters that look like digits (Crockford's base 32)
_PURPOSE: Final = b"krebit-proxy grant 2"
_NO_ADDRESS: Final = "this is not an address from krebit-proxy grant import"
_NO_ENVELOPE: Final = "this is not an exported grant"


class Receiver:
    """Receives one envelope. `address` is its public key."""

    def __init__(self) -> None:
        self._private = X25519PrivateKey.generate()
        self.address = _text(self._private.public_key().public_bytes_raw())

    def open(self, envelope: str) -> Grant:
        """The grant in `envelope`. Raises ValueError if it was sealed to another address, or is damaged."""
        sealed = _content(envelope, _NO_ENVELOPE)
        try:
            return from_json(_SUITE.decrypt(sealed, self._private, info=_PURPOSE))
        except InvalidTag:
            raise ValueError("this grant was exported to another address, or a part of it is missing") from None


def seal(grant: Grant, address: str) -> str:
    """An envelope that only the receiver can open. Raises ValueError if `address` is invalid."""
    content = _content(address, _NO_ADDRESS)
    try:
        receiver = X25519PublicKey.from_public_bytes(content)
        return _text(_SUITE.encrypt(to_json(grant).encode(), receiver, info=_PURPOSE))
    except ValueError:  # wrong length, or a point of low order, with which every shared secret would be the same
        raise ValueError(_NO_ADDRESS) from None


def fingerprint(address: str) -> str:
    """Four groups of four characters, 80 bits of the address's SHA-256. Raises ValueError if `address` is invalid."""
    digest = int.from_bytes(sha256(_VERSION + _content(address, _NO_ADDRESS)).digest()[:10])
    letters = "".join(_LETTERS[digest >> 5 * place & 31] for place in reversed(range(16)))
    return "-".join(letters[start : start + 4] for start in range(0, 16, 4))


def _text(content: bytes) -> str:
    return base64url(_VERSION + content)


def _content(text: str, problem: str) -> bytes:
    """The bytes after the version. Raises ValueError with `problem`."""
    text = "".join(text.split())  # `grant export` prints lines
    try:
        content = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        content = b""
    if not content.startswith(_VERSION):
        raise ValueError(f"{problem}; both computers need the same version of krebit-proxy")
    return content.removeprefix(_VERSION)
