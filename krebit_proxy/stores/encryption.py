"""The stored form of a grant, plain or encrypted. All stores use the same.

Fernet encrypts it: AES-128-CBC and HMAC-SHA256 with a key of 32 bytes. This protects backups, disks and dumps, but not
against someone who can read the key too. Organization, client id and generation are inside the encrypted text and are
verified, so a record that was moved to another place is refused.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Final

from krebit_proxy.core.grant import LONGEST_RECORD, Grant, from_json, to_json
from krebit_proxy.core.secret import Secret
from krebit_proxy.errors import StoreError

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet

LONGEST_CONTENT: Final = 2 * LONGEST_RECORD  # bytes; an encrypted record is a third longer than a plain one
_PLAIN: Final = b"{"  # a plain record starts with this, an encrypted one with Fernet's version byte in base64
_RESTORE: Final = "Restore it from a backup. Or move it away and authorize again at /setup."
_SEAL: Final = (
    "If you have just set the key, run: krebit-proxy key seal. If not, somebody has changed the grant. Then move it "
    "away and authorize again at /setup."
)
_NEW_KEY: Final = "Create one with: krebit-proxy key new"


class Sealing:
    """Turns a grant into the content that a store keeps, and back.

    Args:
        organization: whose API the grant is for.
        client_id: the app that was granted access.
        key_file: keys, one per line. It is read again each time, so that new keys need no restart.
        keys: the keys themselves, separated by spaces, if there is no file.
        takes_plain: whether a plain record is accepted when there are keys.
    """

    def __init__(
        self,
        organization: str,
        client_id: str,
        *,
        key_file: Path | None = None,
        keys: Secret | None = None,
        takes_plain: bool = False,
    ) -> None:
        self._owner = (organization, client_id)
        self._key_file = key_file
        self._keys = keys
        self._takes_plain = takes_plain
        self.sealed = key_file is not None or keys is not None

    def check(self) -> None:
        """Raises StoreError if a key cannot be used."""
        if self.sealed:
            self._fernet()

    def seal(self, grant: Grant) -> bytes:
        """Encrypts with the first key, if there is one. Raises StoreError if a key cannot be used."""
        content = to_json(grant).encode()
        return self._fernet().encrypt(content) if self.sealed else content

    def open(self, content: bytes, place: str, *, generation: int | None = None) -> Grant:
        """The grant in `content`.

        Args:
            content: what `seal` made.
            place: where it was, for error messages: "file /x/y".
            generation: the generation by the store's own record, if it has one.

        Raises:
            StoreError: it is damaged, encrypted with another key, or belongs to another place. It stays as it is.
        """
        plain = is_plain(content)
        if plain and self.sealed and not self._takes_plain:
            raise StoreError(f"The grant in {place} is not encrypted, although there is a key.", hint=_SEAL)
        if len(content) > LONGEST_CONTENT:
            raise StoreError(f"The grant in {place} is damaged: it is too long.", hint=_RESTORE)
        if content and not plain:
            content = self._opened(content, place)
        try:
            grant = from_json(content)
        except ValueError as error:
            raise StoreError(f"The grant in {place} is damaged: {error}.", hint=_RESTORE) from None
        if (grant.organization, grant.client_id) != self._owner or generation not in {None, grant.generation}:
            raise StoreError(f"The grant in {place} was copied here: it was made for another place.", hint=_RESTORE)
        return grant

    def _opened(self, content: bytes, place: str) -> bytes:
        from cryptography.fernet import InvalidToken

        try:
            if self.sealed:
                return self._fernet().decrypt(content)
        except InvalidToken:
            raise StoreError(
                f"The grant in {place} cannot be decrypted: it is encrypted with another key, or damaged.",
                hint=f"Put its key back into {self._source}, on its own line. The grant is unchanged.",
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
        for number, key in enumerate(self._all_keys(), start=1):
            try:
                fernets.append(Fernet(key))
            except ValueError:
                raise StoreError(f"Key {number} in {self._source} is not a valid key.", hint=_NEW_KEY) from None
        if not fernets:
            raise StoreError(f"There is no key in {self._source}.", hint=_NEW_KEY)
        return MultiFernet(fernets)

    def _all_keys(self) -> list[str]:
        if self._key_file is None:
            return self._keys.reveal().split() if self._keys else []
        return read_encryption_keys(self._key_file)

    @property
    def _source(self) -> str:
        return str(self._key_file or "the environment")


def is_plain(content: bytes) -> bool:
    return content.startswith(_PLAIN)


def read_encryption_keys(path: Path) -> list[str]:
    """The keys in a file, one per line, without empty lines and comments (#). Raises StoreError."""
    try:
        lines = path.read_text("ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise StoreError(f"Cannot read the keys in {path}: {reason}.", hint="Check the file and its mode.") from None
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def new_key() -> str:
    from cryptography.fernet import Fernet

    return Fernet.generate_key().decode()
