"""Where a grant is kept. One interface; `open_store` picks the implementation by the setting `store`."""

from hashlib import sha256
from pathlib import Path
from typing import Protocol

from krebit_proxy.core.grant import Grant


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


def open_store(location: str, *, organization: str, client_id: str) -> Store:
    """The store that the setting `store` names.

    Each pair of organization and client id has a grant of its own, so that a changed setting never sends a token to
    somebody else's host, and changing it back finds the old grant.

    Args:
        location: `file:FOLDER`.
        organization: whose API the grant is for.
        client_id: the app that was granted access.
    """
    from krebit_proxy.stores.file import FileStore  # noqa: PLC0415  only the store in use is loaded

    name = f"{organization}-{sha256(client_id.encode()).hexdigest()[:8]}"
    return FileStore(Path(location.removeprefix("file:")).expanduser().absolute(), name)
