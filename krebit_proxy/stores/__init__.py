"""Where a grant is kept. One interface; `open_store` picks the implementation by the setting `store`."""

from hashlib import sha256
from pathlib import Path
from typing import Protocol

from krebit_proxy.core.grant import Grant
from krebit_proxy.core.secret import Secret
from krebit_proxy.errors import StoreError
from krebit_proxy.stores.encryption import Sealing


class Store(Protocol):
    """A durable place for one grant, shared by any number of processes.

    Every method raises `StoreError` when the store cannot be used; the stored grant is then unchanged, or, for
    `write` alone, may have been written: read again to know.
    """

    # How long (seconds) an unfinished intent of another holder is respected after the lock was taken. Zero where the
    # lock proves that its last holder is done or dead (flock); more where a lock can be lost while its holder lives.
    intent_grace: float

    async def read(self) -> Grant | None:
        """The stored grant, or None if there never was one."""

    async def lock(self, timeout: float) -> None:
        """Takes the lock that all processes share. Raises `StoreBusyError` after `timeout` seconds."""

    async def confirm_lock(self) -> None:
        """Raises `StoreError` unless the lock that was taken is still ours. Asked right before a token is spent."""

    async def unlock(self) -> None:
        """Frees the lock; harmless when it is not held."""

    async def write(self, expected: int, grant: Grant) -> None:
        """Replaces the grant if the stored generation is still `expected` (0: nothing stored); durable on return.

        Raises `StoreConflictError` when the stored generation is another one.
        """

    async def probe(self) -> None:
        """Tries out all that will be needed: read, lock, write, each without touching the grant."""

    async def close(self) -> None:
        """Frees the lock and every connection."""


class StoreSettings(Protocol):
    """The settings that say where and how the grant is kept, as `config.Settings` has them."""

    @property
    def store(self) -> str:
        """`file:FOLDER` or `postgresql://...`."""

    @property
    def organization(self) -> str:
        """Whose API the grant is for."""

    @property
    def client_id(self) -> str:
        """The app that was granted access."""

    @property
    def encryption_key_file(self) -> Path | None:
        """Keys, one a line."""

    @property
    def encryption_key(self) -> Secret | None:
        """Keys, between spaces."""


def open_store(settings: StoreSettings) -> Store:
    """The store that the setting `store` names: `file:FOLDER` or `postgresql://...`.

    Each pair of organization and client id has a grant of its own, so that a changed setting never sends a token to
    somebody else's host, and changing it back finds the old grant.

    Raises StoreError where it can never work: no key for a shared store, no driver, an address that is none.
    """
    shared = not settings.store.startswith("file:")
    sealing = Sealing(
        settings.organization,
        settings.client_id,
        key_file=settings.encryption_key_file,
        keys=settings.encryption_key,
        takes_plain=not shared,
    )
    if shared:
        return _database(settings, sealing)
    from krebit_proxy.stores.file import FileStore

    name = f"{settings.organization}-{sha256(settings.client_id.encode()).hexdigest()[:8]}"
    return FileStore(Path(settings.store.removeprefix("file:")).expanduser().absolute(), name, sealing)


def _database(settings: StoreSettings, sealing: Sealing) -> Store:
    if not sealing.sealed:
        raise StoreError(
            "A grant in a database must be encrypted, and there is no key.",
            hint="Make one with `krebit-proxy key new FILE`, and set encryption_key_file to it.",
        )
    try:
        from krebit_proxy.stores.postgres import PostgresStore
    except ImportError:
        raise StoreError(
            "The setting `store` names a PostgreSQL database, and its driver is not installed.",
            hint="Run: pip install 'krebit-proxy[postgres]'",
        ) from None
    return PostgresStore(settings.store, f"{settings.organization}/{settings.client_id}", sealing)
