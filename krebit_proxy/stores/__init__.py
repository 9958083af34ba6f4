"""Where a grant is kept. One interface; `open_store` picks the implementation by the setting `store`."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from krebit_proxy.core.grant import Grant
from krebit_proxy.core.secret import Secret
from krebit_proxy.errors import StoreBusyError, StoreError
from krebit_proxy.stores.encryption import Sealing


class Store(Protocol):
    """A durable place for one grant, shared by any number of processes.

    Every method raises `StoreError` when the store cannot be used. The stored grant is then unchanged. Only after
    `write` this is uncertain: read again to know.
    """

    # Seconds to wait after taking the lock if another holder has not finished its intent. Zero if the lock proves that
    # this holder is done or dead (flock). More if a holder can lose the lock while it lives.
    intent_grace: float

    async def read(self) -> Grant | None:
        """None if there never was a grant."""

    async def lock(self, timeout: float) -> None:
        """Takes the lock that all processes share. Raises `StoreBusyError` after `timeout` seconds."""

    async def confirm_lock(self) -> None:
        """Raises `StoreError` if we have lost the lock. Call it right before spending a token."""

    async def unlock(self) -> None:
        """Frees the lock. Does nothing if it is not held."""

    async def write(self, expected: int, grant: Grant) -> None:
        """Replaces the grant if the stored generation is still `expected` (0: nothing stored). Durable on return.

        Raises `StoreConflictError` if the stored generation is another one.
        """

    async def probe(self) -> None:
        """Tries to read, lock and write, without touching the grant."""

    async def describe(self) -> str:
        """For `check`: how the store is reached, in a few words. Empty: by files."""

    async def close(self) -> None:
        """Frees the lock and every connection."""


async def poll_lock(try_lock: Callable[[], Awaitable[bool]], pause: float, end: float, busy: StoreBusyError) -> None:
    """Tries until the lock is taken.

    Args:
        try_lock: Takes the lock if it is free. Whether it did.
        pause: Seconds between two tries, on average.
        end: When to give up, by the clock of the loop.
        busy: Raised then.
    """
    while not await try_lock():
        if asyncio.get_running_loop().time() > end:
            raise busy
        await asyncio.sleep(pause * (0.5 + random.random()))


class StoreSettings(Protocol):
    """The settings that say where and how the grant is kept, as `config.Settings` has them."""

    @property
    def store(self) -> str: ...
    @property
    def organization(self) -> str: ...
    @property
    def client_id(self) -> str: ...
    @property
    def encryption_key_file(self) -> Path | None: ...
    @property
    def encryption_key(self) -> Secret | None: ...


def open_store(settings: StoreSettings, *, takes_plain: bool = False) -> Store:
    """The store that the setting `store` names: `file:FOLDER` or `postgresql://...`.

    Each pair of organization and client id has its own grant. So a changed setting never sends a token to another
    organization's host, and changing it back finds the old grant.

    With a key, a grant that is not encrypted is refused: somebody without the key may have written it. Only
    `krebit-proxy key seal` takes it, from a file, with `takes_plain`.

    Raises StoreError if the store can never work: a database without an encryption key, without its driver, or with an
    invalid address.
    """
    shared = not settings.store.startswith("file:")
    sealing = Sealing(
        settings.organization,
        settings.client_id,
        key_file=settings.encryption_key_file,
        keys=settings.encryption_key,
        takes_plain=takes_plain and not shared,
    )
    if shared:
        return _database(settings, sealing)
    from krebit_proxy.stores.file import FileStore

    name = f"{settings.organization}-{sha256(settings.client_id.encode()).hexdigest()[:8]}"
    return FileStore(Path(settings.store.removeprefix("file:")).expanduser().absolute(), name, sealing)


def store_cautions(settings: StoreSettings) -> list[str]:
    """What is weak about the way to the store, one text each. An invalid address is left to `open_store`."""
    if settings.store.startswith("file:"):
        return []
    try:
        from krebit_proxy.stores.address import caution
    except ImportError:
        return []
    text = caution(settings.store)
    return [f"store: {text}"] if text else []


def _database(settings: StoreSettings, sealing: Sealing) -> Store:
    if not sealing.sealed:
        raise StoreError(
            "A grant in a database must be encrypted, and there is no key.",
            hint="Create one with `krebit-proxy key new FILE`, and set encryption_key_file to FILE.",
        )
    try:
        from krebit_proxy.stores.postgres import PostgresStore
    except ImportError:
        raise StoreError(
            "The setting `store` names a PostgreSQL database, but the driver for it is not installed.",
            hint="Run: pip install 'krebit-proxy[postgres]'",
        ) from None
    return PostgresStore(settings.store, f"{settings.organization}/{settings.client_id}", sealing)
