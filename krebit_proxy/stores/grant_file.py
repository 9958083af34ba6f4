"""The grant in one file: what can be done with it, as plain functions that may block.

The folder (0700) holds three files (0600):

- `NAME.json`: the grant.
- `NAME.lock`: the lock file. It is never removed.
- `NAME.bak`: the grant before the last change, for diagnosis only. Do not restore it: its refresh token is spent, and
  a server may revoke all tokens when it sees a spent one.
"""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp
from typing import Final

from krebit_proxy import files
from krebit_proxy.core.grant import Grant
from krebit_proxy.errors import StoreConflictError, StoreError
from krebit_proxy.stores.encryption import LONGEST_CONTENT, Sealing, is_plain
from krebit_proxy.stores.flock import try_lock
from krebit_proxy.stores.private_folder import PrivateFolder


class GrantFile:
    """One grant and its lock. Every method can raise StoreError. The grant is then unchanged."""

    def __init__(self, folder: Path, name: str, sealing: Sealing) -> None:
        self._sealing = sealing
        self._name = name
        self._folder = PrivateFolder(folder, (f"{name}.json", f"{name}.lock", f"{name}.bak"))
        self._lock: tuple[int, Path] | None = None
        self._owner: object = None

    @property
    def place(self) -> Path:
        """The path to show to a person. The file may be in our own folder inside root's, see `PrivateFolder`."""
        return self._folder.asked / f"{self._name}.json"

    def take_tightened(self) -> list[str]:
        """The paths that were made private since the last call."""
        tightened, self._folder.tightened = self._folder.tightened, []
        return tightened

    def read(self) -> Grant | None:
        content = self._content()
        return None if content is None else self._sealing.open(content, f"file {self.place}")

    def try_lock(self, owner: object) -> bool:
        """Whether `owner` has the lock now. Not if another has it, or has just removed the file that we locked."""
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
        """Raises StoreError if we do not hold the lock. The kernel keeps it, but removing the file ends it."""
        if self._lock is None or not _is_same_file(*self._lock):
            raise StoreError(
                f"The lock file of {self.place} was removed while the proxy held the lock.",
                hint="Do not remove this file. The proxy creates it again.",
                code="token_unavailable",
            )

    def unlock(self, owner: object) -> None:
        """Frees the lock if `owner` holds it. The file stays, because others may wait for its lock."""
        if self._lock is not None and self._owner is owner:
            (lock, _), self._lock = self._lock, None
            os.close(lock)

    def write(self, expected: int, grant: Grant) -> None:
        """See `Store.write`. Call it under the lock, so that nobody writes between compare and replace."""
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
            if grant.tokens is None:  # a logout deletes the copy too
                path.with_suffix(".bak").unlink(missing_ok=True)

    def probe(self) -> None:
        """Tries everything that a write needs. Call it under the lock."""
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
        """Whether this store was never used."""
        with explained(self.place):
            paths = [self.place, self._path(".json"), self._path(".lock")]
            return not any(path.exists() or path.is_symlink() for path in paths)

    def rehearse(self) -> None:
        """Tries everything in a temporary folder, so that checking a new store leaves nothing behind."""
        with explained(self._folder.asked):
            folder = self._path(".json").parent
            place = next(parent for parent in (folder, *folder.parents) if parent.exists())
            # Not TemporaryDirectory: if this disk hangs when the process ends, that would try to clean up once more.
            trial = Path(mkdtemp(prefix=".krebit-proxy-", dir=place))
            try:
                rehearsal = GrantFile(trial, self._name, self._sealing)
                rehearsal.try_lock(self)
                try:
                    rehearsal.probe()
                finally:
                    rehearsal.unlock(self)
            finally:
                shutil.rmtree(trial, ignore_errors=True)

    def _path(self, suffix: str, *, create: bool = False) -> Path:
        with explained(self._folder.asked):
            return self._folder.path(create=create) / f"{self._name}{suffix}"

    def _content(self) -> bytes | None:
        path = self._path(".json")
        # The grant was in root's folder before we made our own inside it. If another process moves it at this moment,
        # it can be missing from both places. So look at the first place again.
        for place in (path, self.place, path) if path != self.place else (path,):
            with (
                explained(place),
                contextlib.suppress(FileNotFoundError),
                os.fdopen(self._folder.open(place, os.O_RDONLY), "rb") as stream,
            ):
                return stream.read(LONGEST_CONTENT + 1)  # one more shows that it is too long
        return None

    def _bring_in(self, path: Path) -> None:
        """Moves an older grant from root's folder into our own."""
        if path != self.place and self.place.exists() and not path.exists():
            self.place.replace(path)
            self.place.with_suffix(".bak").unlink(missing_ok=True)

    def _keep_backup(self, path: Path) -> None:
        """Links the current content to `.bak`, unless it is plain and encryption is now on."""
        backup = path.with_suffix(".bak")
        if _linked(path, backup) and self._sealing.sealed and is_plain(_beginning(backup)):
            backup.unlink()


def _beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(1)


def _linked(path: Path, link: Path) -> bool:
    """Makes `link` another name of the file. False if there is no file, or no support for hard links."""
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)
    except OSError as error:
        if error.errno == errno.EXDEV:  # the file itself is a mount, so it could not be replaced either
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
    errno.ENOSPC: "The disk is full. Free some space.",
    errno.EDQUOT: "The disk quota is used up. Free some space.",
    errno.EROFS: "The file system is read-only. Set `store` to a folder that can be written.",
    errno.ELOOP: "It is a symbolic link, and the proxy does not follow links. Use a real folder and file.",
    errno.EBUSY: "The file is a mount, and a mount cannot be replaced. Mount its folder instead.",
    errno.EXDEV: "The file is a mount, and a mount cannot be replaced. Mount its folder instead.",
}
_PASSING: Final = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE}


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns an OSError into a StoreError that names the file and says what to do."""
    try:
        yield
    except TimeoutError:
        raise StoreError(
            f"The disk with {path} does not respond.",
            hint="Check the disk or the file server. A running proxy keeps trying.",
            code="token_unavailable",
        ) from None
    except OSError as error:
        hint = _HINTS.get(error.errno or 0, "Check the disk and the permissions.")
        code = "token_unavailable" if error.errno in _PASSING else "misconfigured"
        reason = error.strerror or type(error).__name__
        raise StoreError(f"Cannot use {path}: {reason}.", hint=hint, code=code) from error
