"""A grant on its way from one machine to another, sealed so that only the one that asked for it can open it.

HPKE (RFC 9180) in base mode, with DHKEM(X25519), HKDF-SHA256 and ChaCha20-Poly1305. The receiver's private key lives in
one process and is never stored, so an envelope that is found later opens nothing. Address and envelope begin with the
version of this format, and are printed as base64 for URLs.
"""

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from krebit_proxy.core.grant import Grant, from_json, to_json

# As the first byte it also makes an address begin with "A", and never with a dash, which would make it an option.
_VERSION: Final = b"\x02"
_SUITE: Final = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)
_PURPOSE: Final = b"krebit-proxy grant 2"
_NO_ADDRESS: Final = "this is not an address from krebit-proxy grant import"
_NO_ENVELOPE: Final = "this is not an exported grant"


class Receiver:
    """Who waits for one envelope, at an address of its own."""

    def __init__(self) -> None:
        self._private = X25519PrivateKey.generate()
        self.address = _text(self._private.public_key().public_bytes_raw())

    def open(self, envelope: str) -> Grant:
        """The grant in an envelope. Raises ValueError if it was not sealed to this address, or is damaged."""
        sealed = _content(envelope, _NO_ENVELOPE)
        try:
            return from_json(_SUITE.decrypt(sealed, self._private, info=_PURPOSE))
        except InvalidTag:
            raise ValueError("this grant was exported to another address, or part of it is missing") from None


def seal(grant: Grant, address: str) -> str:
    """An envelope that only the receiver of `address` can open. Raises ValueError if that is no address."""
    content = _content(address, _NO_ADDRESS)
    try:
        receiver = X25519PublicKey.from_public_bytes(content)
        return _text(_SUITE.encrypt(to_json(grant).encode(), receiver, info=_PURPOSE))
    except ValueError:  # of another length, or a point by which every secret would be the same
        raise ValueError(_NO_ADDRESS) from None


def _text(content: bytes) -> str:
    return urlsafe_b64encode(_VERSION + content).decode().rstrip("=")


def _content(text: str, problem: str) -> bytes:
    """What stands behind the version. Raises ValueError with the problem."""
    text = "".join(text.split())  # a terminal may have broken it into lines
    try:
        content = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        content = b""
    if not content.startswith(_VERSION):
        raise ValueError(f"{problem}; are both computers on the same version of krebit-proxy?")
    return content.removeprefix(_VERSION)
