"""A grant on its way from one machine to another, sealed so that only the one that asked for it can open it.

X25519 with a key pair of its own for each envelope, HKDF-SHA256, ChaCha20-Poly1305. The receiver's private key lives
in one process and is never stored, so an envelope that is found later opens nothing.
"""

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from krebit_proxy.core.grant import Grant, from_json, to_json

_PURPOSE: Final = b"krebit-proxy grant 1"
_KEY_LENGTH: Final = 32
_NONCE: Final = bytes(12)  # each key encrypts one message only


class Receiver:
    """Who waits for one envelope."""

    def __init__(self) -> None:
        self.address = "-"
        while self.address.startswith("-"):  # a command would take it for an option
            self._private = X25519PrivateKey.generate()
            self.address = _text(self._private.public_key().public_bytes_raw())

    def open(self, envelope: str) -> Grant:
        """The grant in an envelope. Raises ValueError if it was not sealed to this address, or is damaged."""
        content = _bytes(envelope)
        sender, sealed = content[:_KEY_LENGTH], content[_KEY_LENGTH:]
        if len(sender) < _KEY_LENGTH:
            raise ValueError("this is not an exported grant")
        shared = self._private.exchange(X25519PublicKey.from_public_bytes(sender))
        try:
            opened = _cipher(shared, sender, _bytes(self.address)).decrypt(_NONCE, sealed, _PURPOSE)
        except InvalidTag:
            raise ValueError("this grant was exported to another address, or part of it is missing") from None
        return from_json(opened)


def seal(grant: Grant, address: str) -> str:
    """An envelope that only the receiver of `address` can open. Raises ValueError if that is no address."""
    receiver = _bytes(address)
    if len(receiver) != _KEY_LENGTH:
        raise ValueError("this is not an address from krebit-proxy grant import")
    mine = X25519PrivateKey.generate()
    sender = mine.public_key().public_bytes_raw()
    shared = mine.exchange(X25519PublicKey.from_public_bytes(receiver))
    return _text(sender + _cipher(shared, sender, receiver).encrypt(_NONCE, to_json(grant).encode(), _PURPOSE))


def _cipher(shared: bytes, sender: bytes, receiver: bytes) -> ChaCha20Poly1305:
    return ChaCha20Poly1305(HKDF(SHA256(), _KEY_LENGTH, salt=sender + receiver, info=_PURPOSE).derive(shared))


def _text(content: bytes) -> str:
    return urlsafe_b64encode(content).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    text = "".join(text.split())  # a terminal may have broken it into lines
    try:
        return urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        raise ValueError("this is not what krebit-proxy printed") from None
