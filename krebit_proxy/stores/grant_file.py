"""The grant in one file: what is done to it, as plain functions that may block.

The folder (0700) holds the grant (0600), a lock file that is never unlinked, and the grant before the last change
(`.bak`, for diagnosis only: a spent refresh token that is sent again can kill its whole family).
"""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from krebit_proxy import files
from krebit_proxy.core.grant import Grant
from krebit_proxy.errors import StoreConflictError, StoreError
from krebit_proxy.stores.encryption import Sealing, is_plain
from krebit_proxy.stores.flock import try_lock
from krebit_proxy.stores.private_folder import PrivateFolder


class GrantFile:
    """One grant, and its lock. Every method raises StoreError, and never changes the grant by that."""

    def __init__(self, folder: Path, name: str, sealing: Sealing) -> None:
        self._sealing = sealing
        self._name = name
        self._folder = PrivateFolder(folder, (f"{name}.json", f"{name}.lock", f"{name}.bak"))
        self._lock: tuple[int, Path] | None = None
        self._owner: object = None

    @property
    def place(self) -> Path:
        """What a person calls the place of it."""
        return self._folder.asked / f"{self._name}.json"

    def take_tightened(self) -> list[str]:
        """What others could use until now, each once."""
        tightened, self._folder.tightened = self._folder.tightened, []
        return tightened

    def read(self) -> Grant | None:
        """The stored grant, or None if there never was one."""
        content = self._content()
        return None if content is None else self._sealing.open(content, f"file {self.place}")

    def try_lock(self, owner: object) -> bool:
        """Takes the lock, unless somebody has it, or has just removed the file that we locked."""
        if self._lock is not None:
            return False
        path = self._path(".lock", create=True)
        with explained(path):
            lock = self._folder.open(path, os.O_RDWR | os.O_CREAT)
            if try_lock(lock) and _is_same_file(lock, path):
                self._lock, self._owner = (lock, path), owner
            else:
                os.close(lock)
        return self._lock is not None

    def confirm_lock(self) -> None:
        """Raises unless the lock is ours. The kernel takes it from nobody, but a removed file locks nobody out."""
        if self._lock is None or not _is_same_file(*self._lock):
            raise StoreError(
                f"The lock of {self.place} was removed while it was held.",
                hint="Leave that file alone; it is made anew.",
                code="token_unavailable",
            )

    def unlock(self, owner: object) -> None:
        """Frees the lock if that owner holds it. The file stays, since others may be waiting on it."""
        if self._lock is not None and self._owner is owner:
            (lock, _), self._lock = self._lock, None
            os.close(lock)

    def write(self, expected: int, grant: Grant) -> None:
        """See `Store.write`; under the lock, which makes compare and replace one step."""
        stored = self.read()
        generation = stored.generation if stored else 0
        if generation != expected:
            raise StoreConflictError(f"The stored grant has generation {generation}, not {expected}.")
        content = self._sealing.seal(grant)
        path = self._path(".json", create=True)
        with explained(path):
            self._bring_in(path)
            self._keep_backup(path)
            files.sweep(path)
            files.replace(path, content, mode=0o600)
            if grant.tokens is None:  # a logout forgets the copy too
                path.with_suffix(".bak").unlink(missing_ok=True)

    def probe(self) -> None:
        """Tries out, under the lock, all that a write needs."""
        self._sealing.check()
        self.read()
        path = self._path(".json", create=True)
        probe = path.with_suffix(".probe")
        try:
            with explained(path):
                _linked(path, probe)
            with explained(path.parent):
                files.replace(probe, b"probe\n", mode=0o600)
        finally:
            with contextlib.suppress(OSError):
                probe.unlink()

    def is_new(self) -> bool:
        """Whether nothing was ever stored or locked here."""
        with explained(self.place):
            paths = [self.place, self._path(".json"), self._path(".lock")]
            return not any(path.exists() or path.is_symlink() for path in paths)

    def rehearse(self) -> None:
        """Tries everything out in a folder that is gone again: a look at a new store leaves no trace."""
        with explained(self._folder.asked):
            folder = self._path(".json").parent
            place = next(parent for parent in (folder, *folder.parents) if parent.exists())
            with TemporaryDirectory(prefix=".krebit-proxy-", dir=place) as trial:
                rehearsal = GrantFile(Path(trial), self._name, self._sealing)
                rehearsal.try_lock(self)
                try:
                    rehearsal.probe()
                finally:
                    rehearsal.unlock(self)

    def _path(self, suffix: str, *, create: bool = False) -> Path:
        with explained(self._folder.asked):
            return self._folder.path(create=create) / f"{self._name}{suffix}"

    def _content(self) -> bytes | None:
        path = self._path(".json")
        # Before our folder was made in root's, the grant was in root's. Another process may bring it in just now, so
        # that it is in neither place by the time of the first two looks.
        for place in (path, self.place, path) if path != self.place else (path,):
            with (
                explained(place),
                contextlib.suppress(FileNotFoundError),
                os.fdopen(self._folder.open(place, os.O_RDONLY), "rb") as stream,
            ):
                return stream.read()
        return None

    def _bring_in(self, path: Path) -> None:
        """Moves the grant from root's folder into ours in it, as it is."""
        if path != self.place and self.place.exists() and not path.exists():
            self.place.replace(path)
            self.place.with_suffix(".bak").unlink(missing_ok=True)

    def _keep_backup(self, path: Path) -> None:
        """The content before this change, unless it lies in the clear and is to be sealed from now on."""
        backup = path.with_suffix(".bak")
        if _linked(path, backup) and self._sealing.sealed and is_plain(backup.read_bytes()):
            backup.unlink()


def _linked(path: Path, link: Path) -> bool:
    """Whether `link` is now another name of the file. It is not where there is none, or no hard links."""
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)
    except OSError as error:
        if error.errno == errno.EXDEV:  # the file is a mount of its own, which could not be replaced either
            raise
        return False
    return True


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat(follow_symlinks=False))
    except FileNotFoundError:
        return False


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
def explained(path: Path) -> Iterator[None]:
    """Turns an OSError into a StoreError that names the file and says what to do."""
    try:
        yield
    except TimeoutError:
        raise StoreError(
            f"No answer from the disk with {path} in time.",
            hint="Check the disk, or the file server. A running proxy tries again by itself.",
            code="token_unavailable",
        ) from None
    except OSError as error:
        hint = _HINTS.get(error.errno or 0, "Check the disk and the permissions.")
        code = "token_unavailable" if error.errno in _PASSING else "misconfigured"
        reason = error.strerror or type(error).__name__
        raise StoreError(f"Cannot use {path}: {reason}.", hint=hint, code=code) from error
