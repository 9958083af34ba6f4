"""The grant in one file, for any number of processes of one host.

A folder (0700) holds the grant (0600), a lock file that is never unlinked, and the grant before the last change
(`.bak`, for diagnosis only: a spent refresh token that is sent again can kill its whole family).
"""

import asyncio
import contextlib
import errno
import os
import random
import stat
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from krebit_proxy.core.grant import Grant
from krebit_proxy.errors import StoreBusyError, StoreConflictError, StoreError
from krebit_proxy.stores.encryption import Sealing, is_plain
from krebit_proxy.stores.flock import try_lock

_POLL: Final = 0.05  # seconds between two tries for the lock; flock cannot wait without blocking a thread
# No link is followed, no child process inherits the file, and a pipe in its place does not block.
_OPEN: Final = sum(getattr(os, flag, 0) for flag in ("O_NOFOLLOW", "O_CLOEXEC", "O_NONBLOCK", "O_BINARY"))


class FileStore:
    """See `stores.Store`. A lock taken proves that its last holder is done or dead: the kernel frees it."""

    intent_grace = 0.0

    def __init__(self, folder: Path, name: str, sealing: Sealing) -> None:
        self._folder = folder
        self._sealing = sealing
        self._path = folder / f"{name}.json"
        self._lock_path = folder / f"{name}.lock"
        self._lock: int | None = None

    def __repr__(self) -> str:
        return f"<FileStore {self._path}>"

    async def read(self) -> Grant | None:
        """See `Store.read`."""
        return await asyncio.to_thread(self._read)

    async def lock(self, timeout: float) -> None:
        """See `Store.lock`."""
        if self._lock is None:
            self._lock = await self._locked(timeout)

    async def confirm_lock(self) -> None:
        """See `Store.confirm_lock`. The kernel takes it from nobody; but a file that was removed locks out nobody."""
        if self._lock is None or not _is_same_file(self._lock, self._lock_path):
            raise StoreError(
                f"The lock {self._lock_path} was removed while it was held.",
                hint="Leave that file alone; it is made anew.",
                code="token_unavailable",
            )

    async def unlock(self) -> None:
        """See `Store.unlock`. Closing frees the lock; the file stays, since others may be waiting on it."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def write(self, expected: int, grant: Grant) -> None:
        """See `Store.write`. The lock makes compare and replace one step; it is taken if it is not held."""
        borrowed = self._lock is None
        await self.lock(timeout=5)
        try:
            await asyncio.to_thread(self._write, expected, grant)
        finally:
            if borrowed:
                await self.unlock()

    async def probe(self) -> None:
        """See `Store.probe`. Where nothing is yet, a folder is tried out that is gone again: a look leaves no trace."""
        if self._lock_path.exists() or self._path.exists():
            await self._probe_locked()
            return
        with _explained(self._folder):
            self._check_folder(create=False)
            place = next(folder for folder in (self._folder, *self._folder.parents) if folder.exists())
            with TemporaryDirectory(prefix=".krebit-proxy-", dir=place) as trial:
                await FileStore(Path(trial), self._path.stem, self._sealing)._probe_locked()  # noqa: SLF001 - ours

    async def _probe_locked(self) -> None:
        await self.lock(timeout=5)
        try:
            await asyncio.to_thread(self._probe)
        finally:
            await self.unlock()

    async def close(self) -> None:
        """See `Store.close`."""
        await self.unlock()

    async def _locked(self, timeout: float) -> int:
        clock = asyncio.get_running_loop().time
        end = clock() + timeout
        while (lock := self._try_lock()) is None:
            if clock() > end:
                raise StoreBusyError(
                    f"Another process holds the lock {self._lock_path} for more than {timeout:.0f} seconds.",
                    hint="Look for a second krebit-proxy that hangs, and stop it.",
                    code="token_unavailable",
                )
            await asyncio.sleep(_POLL * (0.5 + random.random()))
        return lock

    def _try_lock(self) -> int | None:
        """The locked file; None if somebody else has the lock, or has just removed the file that we locked."""
        with _explained(self._lock_path):
            self._check_folder(create=True)
            lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | _OPEN, 0o600)
            try:
                _check_secret_file(self._lock_path, os.fstat(lock))
                if try_lock(lock) and _is_same_file(lock, self._lock_path):
                    return lock
            except BaseException:
                os.close(lock)
                raise
            os.close(lock)
            return None

    def _read(self) -> Grant | None:
        content = self._content()
        return None if content is None else self._sealing.open(content, f"file {self._path}")

    def _content(self) -> bytes | None:
        with _explained(self._path):
            if not self._check_folder(create=False):
                return None
            try:
                file = os.open(self._path, os.O_RDONLY | _OPEN)
            except FileNotFoundError:
                return None
            try:
                _check_secret_file(self._path, os.fstat(file))
            except BaseException:
                os.close(file)
                raise
            with open(file, "rb") as stream:  # a descriptor, so that what was checked is what is read
                return stream.read()

    def _write(self, expected: int, grant: Grant) -> None:
        stored = self._read()
        generation = stored.generation if stored else 0
        if generation != expected:
            raise StoreConflictError(f"The stored grant has generation {generation}, not {expected}.")
        content = self._sealing.seal(grant)
        with _explained(self._path):
            self._keep_backup()
            self._replace(self._path, content)
            if grant.tokens is None:  # a logout forgets the copy too
                self._path.with_suffix(".bak").unlink(missing_ok=True)

    def _replace(self, path: Path, content: bytes) -> None:
        """Replaces the file as a whole: a reader, or a crash, sees the old content or the new, never a part."""
        temporary = path.with_suffix(".new")
        temporary.unlink(missing_ok=True)  # of a process that was killed here; we have the lock
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _OPEN, 0o600)
        try:
            with open(descriptor, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(descriptor)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        _fsync_folder(self._folder)

    def _keep_backup(self) -> None:
        """The content before this change, unless it lies in the clear and is to be sealed from now on."""
        backup = self._path.with_suffix(".bak")
        if self._linked(backup) and self._sealing.sealed and is_plain(backup.read_bytes()):
            backup.unlink()

    def _linked(self, link: Path) -> bool:
        """Whether `link` is now another name of the grant file. It is not where there is none, or no hard links."""
        link.unlink(missing_ok=True)
        try:
            os.link(self._path, link)
        except OSError as error:
            if error.errno == errno.EXDEV:  # the file is a mount of its own, which could not be replaced either
                raise
            return False
        return True

    def _probe(self) -> None:
        self._sealing.check()
        self._read()
        probe = self._path.with_suffix(".probe")
        with _explained(self._path):
            self._linked(probe)
        with _explained(self._folder):
            self._replace(probe, b"probe\n")
            probe.unlink()

    def _check_folder(self, *, create: bool) -> bool:
        """Whether the folder exists. Raises StoreError when others could change what is in it."""
        if create:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            found = os.stat(self._folder)
        except FileNotFoundError:
            return False
        if not stat.S_ISDIR(found.st_mode):
            raise StoreError(f"{self._folder} is not a folder.", hint="Point the setting `store` at a folder.")
        _check_owner(self._folder, found)
        if _has_modes() and found.st_mode & 0o022:
            raise StoreError(
                f"Others may write to the folder {self._folder} (mode {stat.S_IMODE(found.st_mode):04o}).",
                hint=f"Run: chmod 700 {self._folder}",
            )
        return True


def _check_secret_file(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise StoreError(f"{path} is not a regular file.", hint="Move it away.")
    _check_owner(path, found)
    if _has_modes() and found.st_mode & 0o077:
        raise StoreError(
            f"Others may read the file {path} (mode {stat.S_IMODE(found.st_mode):04o}).",
            hint=f"Run: chmod 600 {path}",
        )


def _check_owner(path: Path, found: os.stat_result) -> None:
    if _has_modes() and found.st_uid != os.geteuid():
        raise StoreError(
            f"{path} belongs to user {found.st_uid}, and this process runs as user {os.geteuid()}.",
            hint="Run krebit-proxy as the user that owns it, or change the owner with chown.",
        )


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _has_modes() -> bool:
    return hasattr(os, "geteuid")


def _fsync_folder(folder: Path) -> None:
    if not _has_modes():
        return  # Windows cannot open a folder, and writes its entries through
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_HINTS: Final = {
    errno.EACCES: "Check the owner and the mode of the file and its folder.",
    errno.EPERM: "Check the owner and the mode of the file and its folder.",
    errno.ENOSPC: "The disk is full: make room.",
    errno.EDQUOT: "The disk quota is used up: make room.",
    errno.EROFS: "The file system is read-only: point the setting `store` at a folder that can be written.",
    errno.ELOOP: "It is a symbolic link, and those are not followed: use a real folder and file.",
    errno.EBUSY: "It is a mount of a single file, which cannot be replaced: mount its folder instead.",
    errno.EXDEV: "It is a mount of a single file, which cannot be replaced: mount its folder instead.",
}


_PASSING: Final = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE}


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turns an OSError into a StoreError that names the file and says what to do."""
    try:
        yield
    except OSError as error:
        hint = _HINTS.get(error.errno or 0, "Check the disk and the permissions.")
        code = "token_unavailable" if error.errno in _PASSING else "misconfigured"
        reason = error.strerror or type(error).__name__
        raise StoreError(f"Cannot use {path}: {reason}.", hint=hint, code=code) from error
