"""The stored form of a grant, in the clear or sealed: the same in every store.

Sealed with Fernet: AES-128-CBC and HMAC-SHA256 under a key of 32 bytes. That guards backups, disks and dumps; it does
not guard against somebody who can read the key too. What binds a record to its place (organization, client id,
generation) is inside the sealed text, and verified: a record that was moved from one place to another is refused.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Final

from krebit_proxy.core.grant import Grant, from_json, to_json
from krebit_proxy.core.secret import Secret
from krebit_proxy.errors import StoreError

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet

_PLAIN: Final = b"{"  # how a record in the clear starts; a sealed one starts with the version byte of Fernet in base64
_RESTORE: Final = "Restore it from a backup, or move it away and authorize again at /setup."
_NEW_KEY: Final = "Make one with: krebit-proxy key new"


class Sealing:
    """Turns a grant into the content that a store keeps, and back.

    Args:
        organization: whose API the grant is for.
        client_id: the app that was granted access.
        key_file: keys, one a line; read again each time, so that new keys need no restart.
        keys: the same without a file, between spaces.
        takes_plain: whether a record in the clear is taken over when there are keys.
    """

    def __init__(
        self,
        organization: str,
        client_id: str,
        *,
        key_file: Path | None = None,
        keys: Secret | None = None,
        takes_plain: bool = True,
    ) -> None:
        self._owner = (organization, client_id)
        self._key_file = key_file
        self._keys = keys
        self._takes_plain = takes_plain
        self.sealed = key_file is not None or keys is not None

    def check(self) -> None:
        """Raises StoreError if there are keys that cannot be used."""
        if self.sealed:
            self._fernet()

    def seal(self, grant: Grant) -> bytes:
        """The content for a store, sealed with the first key if there is one. Raises StoreError for bad keys."""
        content = to_json(grant).encode()
        return self._fernet().encrypt(content) if self.sealed else content

    def open(self, content: bytes, place: str, *, generation: int | None = None) -> Grant:
        """The grant in `content`.

        Args:
            content: what `seal` made.
            place: what a person calls the place of it, e.g. "file /x/y".
            generation: what the store itself says of the generation, where it does.

        Raises:
            StoreError: it is damaged, sealed with another key, or belongs elsewhere. It is never changed by that.
        """
        plain = is_plain(content)
        if plain and self.sealed and not self._takes_plain:
            raise StoreError(f"The grant in {place} is not encrypted.", hint=f"Somebody else wrote it. {_RESTORE}")
        if content and not plain:
            content = self._opened(content, place)
        try:
            grant = from_json(content)
        except ValueError as error:
            raise StoreError(f"The grant in {place} is damaged: {error}.", hint=_RESTORE) from None
        if (grant.organization, grant.client_id) != self._owner or generation not in {None, grant.generation}:
            raise StoreError(f"The grant in {place} was made for another place than this.", hint=_RESTORE)
        return grant

    def _opened(self, content: bytes, place: str) -> bytes:
        from cryptography.fernet import InvalidToken

        try:
            if self.sealed:
                return self._fernet().decrypt(content)
        except InvalidToken:
            raise StoreError(
                f"The grant in {place} cannot be decrypted: it was sealed with another key, or is damaged.",
                hint=f"It is kept as it is. Put its key back into {self._source}, on a line of its own.",
            ) from None
        if not content.startswith(b"gAAAA"):
            raise StoreError(f"The grant in {place} is damaged: it is not a complete grant.", hint=_RESTORE)
        raise StoreError(
            f"The grant in {place} is encrypted, and there is no key.", hint="Set encryption_key_file to its key."
        )

    def _fernet(self) -> "MultiFernet":
        """All keys: the first encrypts, each may decrypt."""
        from cryptography.fernet import Fernet, MultiFernet

        fernets = []
        for number, key in enumerate(self._read_keys(), start=1):
            try:
                fernets.append(Fernet(key))
            except ValueError:
                raise StoreError(f"Key {number} in {self._source} is no key.", hint=_NEW_KEY) from None
        if not fernets:
            raise StoreError(f"There is no key in {self._source}.", hint=_NEW_KEY)
        return MultiFernet(fernets)

    def _read_keys(self) -> list[str]:
        if self._key_file is None:
            return self._keys.reveal().split() if self._keys else []
        return read_keys(self._key_file)

    @property
    def _source(self) -> str:
        return str(self._key_file or "the environment")


def is_plain(content: bytes) -> bool:
    """Whether `content` is a record in the clear."""
    return content.startswith(_PLAIN)


def read_keys(path: Path) -> list[str]:
    """The keys in a file, one a line; empty lines and comments (#) are left out. Raises StoreError."""
    try:
        lines = path.read_text("ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise StoreError(f"Cannot read the keys in {path}: {reason}.", hint="Check the file and its mode.") from None
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def new_key() -> str:
    """A key for the sealing of grants."""
    from cryptography.fernet import Fernet

    return Fernet.generate_key().decode()
