"""The grant in a file, for any number of processes on one host."""

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import structlog

from krebit_proxy.core.grant import Grant
from krebit_proxy.errors import StoreBusyError
from krebit_proxy.stores import poll_lock
from krebit_proxy.stores.disk import Disk
from krebit_proxy.stores.encryption import Sealing
from krebit_proxy.stores.grant_file import GrantFile, explained

T = TypeVar("T")

_POLL: Final = 0.05  # seconds between two tries for the lock; flock cannot wait without blocking a thread
_TIGHTENED: Final = (
    "A group could use these paths. The proxy has made them private. Kubernetes opens them with fsGroup at each mount. "
    "To avoid that, set fsGroupChangePolicy: OnRootMismatch."
)
_log: Final = structlog.get_logger()


class FileStore:
    """See `stores.Store`. All file access runs in the thread of `Disk`, so a hanging disk does not block the loop.

    The kernel frees the lock when its holder ends. So whoever gets it knows that the last holder is done or dead.
    """

    intent_grace = 0.0

    def __init__(self, folder: Path, name: str, sealing: Sealing) -> None:
        self._file = GrantFile(folder, name, sealing)
        self._disk = Disk()
        self._owner: object = None  # our proof of holding the lock; None: we do not hold it

    def __repr__(self) -> str:
        return f"<FileStore {self._file.place}>"

    async def read(self) -> Grant | None:
        return await self._answer(self._file.read)

    async def lock(self, timeout: float) -> None:
        """Polls, because a thread that waits for a file lock cannot be stopped."""
        if self._owner is not None:
            return
        owner = object()
        busy = StoreBusyError(
            f"Another process has held the lock of {self._file.place} for more than {timeout:.0f} seconds.",
            hint="Find the krebit-proxy process that hangs, and stop it.",
            code="token_unavailable",
        )
        end = asyncio.get_running_loop().time() + timeout
        try:
            await poll_lock(lambda: self._answer(partial(self._file.try_lock, owner)), _POLL, end, busy)
        except BaseException:
            self._disk.begin(partial(self._file.unlock, owner))  # a try that we gave up on may still get the lock
            raise
        self._owner = owner

    async def confirm_lock(self) -> None:
        await self._answer(self._file.confirm_lock)

    async def unlock(self) -> None:
        """If a write hangs, the lock stays held until it returns: it may still change the file."""
        owner, self._owner = self._owner, None
        if owner is not None:
            await self._disk.settle(partial(self._file.unlock, owner))

    async def write(self, expected: int, grant: Grant) -> None:
        """Takes the lock for the time of the write if we do not hold it."""
        borrowed = self._owner is None
        await self.lock(timeout=5)
        try:
            await self._answer(partial(self._file.write, expected, grant))
        finally:
            if borrowed:
                await self.unlock()

    async def probe(self) -> None:
        if await self._answer(self._file.is_new):
            await self._answer(self._file.rehearse)
            return
        await self.lock(timeout=5)
        try:
            await self._answer(self._file.probe)
        finally:
            await self.unlock()

    async def describe(self) -> str:
        return ""

    async def close(self) -> None:
        await self.unlock()
        await self._disk.rest()  # a process that ends meanwhile would leave half of its work behind

    async def _answer(self, function: Callable[[], T]) -> T:
        try:
            with explained(self._file.place):
                return await self._disk.call(function)
        finally:
            if paths := self._file.take_tightened():
                _log.warning("store.tightened", paths=paths, hint=_TIGHTENED)
