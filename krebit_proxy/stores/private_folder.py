"""The folder of a grant, in which nobody else may do anything.

Kubernetes' fsGroup widens what we made narrow: at every mount it lets a group write to the folders (2770) and files
(0660) of a volume, and it leaves the volume's own folder to root. So what belongs to us is tightened again. A folder of
root's that we may write to is taken as the place for a folder of our own. What belongs to anybody else is never
touched, and what everybody may write to is refused: what lies there may be somebody else's work.
"""

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from krebit_proxy.errors import StoreError
from krebit_proxy.files import make_folder

_INNER: Final = "krebit-proxy"
_HAS_MODES: Final = hasattr(os, "geteuid")  # Windows has not
# No link is followed, no child process inherits the file, and a pipe in its place does not block.
_OPEN: Final = sum(getattr(os, flag, 0) for flag in ("O_NOFOLLOW", "O_CLOEXEC", "O_NONBLOCK", "O_BINARY"))
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


class PrivateFolder:
    """The folder that the settings ask for, or ours in it where it is root's; and the files in it that are ours.

    `tightened` lists what others could use until it was opened here. The methods raise StoreError for what cannot be
    made private, and OSError.
    """

    def __init__(self, asked: Path, names: tuple[str, ...]) -> None:
        self.asked = asked
        self._names = names
        self.tightened: list[str] = []

    def path(self, *, create: bool) -> Path:
        """The folder. Unless it is to be created it may not be there yet."""
        if create:
            make_folder(self.asked)
        folder, found = self.asked, _stat(self.asked)
        if found is not None and stat.S_ISDIR(found.st_mode) and _is_roots(found):
            folder, found = self._inner(found, create=create)
        if found is None:
            return folder
        if not stat.S_ISDIR(found.st_mode):
            raise StoreError(f"{folder} is not a folder.", hint="Point the setting `store` at a folder.")
        if _is_loose(folder, found, stat.S_IWGRP, "700"):
            self._tighten(folder)
            _require_private(folder, folder.stat(), stat.S_IWGRP, "700")
        return folder

    def open(self, path: Path, flags: int) -> int:
        """A descriptor of one of the files, which is a regular file of ours that nobody else may open."""
        descriptor = os.open(path, flags | _OPEN, 0o600)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise StoreError(f"{path} is not a regular file.", hint="Move it away.")
            if _is_loose(path, found, _OTHERS, "600"):
                self._tighten(path.parent)
                _require_private(path, os.fstat(descriptor), _OTHERS, "600")
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _inner(self, outer: os.stat_result, *, create: bool) -> tuple[Path, os.stat_result | None]:
        """Our folder in root's, and what is known of it."""
        if outer.st_mode & stat.S_IWOTH:
            raise _shared(self.asked, outer, "Point the setting `store` at a folder inside it.")
        folder = self.asked / _INNER
        found = _stat(folder, follow=False)
        if found is None and not os.access(self.asked, os.W_OK | os.X_OK):
            raise _of_another(self.asked, outer)
        if found is None and create:
            make_folder(folder)
            found = folder.lstat()
        return folder, found

    def _tighten(self, folder: Path) -> None:
        """Takes all that is ours away from everybody else, at once, so that one warning tells of it."""
        if _tightened(folder, 0 if folder == self.asked else _OPEN, stat.S_IWGRP):
            self.tightened.append(str(folder))
        for place in dict.fromkeys((folder, self.asked)):
            files = [place / name for name in self._names]
            self.tightened += [str(path) for path in files if _tightened(path, _OPEN, _OTHERS)]


def _tightened(path: Path, flags: int, bits: int) -> bool:
    """Whether others had a right of `bits`, and now have none. It is the open file that is changed, and no other."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | flags)
        try:
            found = os.fstat(descriptor)
            if found.st_uid == os.geteuid() and found.st_mode & bits and not found.st_mode & stat.S_IWOTH:
                os.fchmod(descriptor, found.st_mode & stat.S_IRWXU)
                return True
        finally:
            os.close(descriptor)
    return False


def _is_roots(found: os.stat_result) -> bool:
    return _HAS_MODES and found.st_uid == 0 and os.geteuid() != 0


def _stat(path: Path, *, follow: bool = True) -> os.stat_result | None:
    try:
        return path.stat(follow_symlinks=follow)
    except FileNotFoundError:
        return None


def _is_loose(path: Path, found: os.stat_result, bits: int, right: str) -> bool:
    """Whether others have a right of `bits`. Raises StoreError for what is not ours, or open to everybody's changes."""
    if not _HAS_MODES:
        return False
    if found.st_uid != os.geteuid():
        raise _of_another(path, found)
    if found.st_mode & stat.S_IWOTH:
        raise _shared(path, found, f"Run: chmod {right} {path}")
    return bool(found.st_mode & bits)


def _require_private(path: Path, found: os.stat_result, bits: int, right: str) -> None:
    """Raises StoreError where the file system does not keep modes."""
    if found.st_mode & bits:
        raise _shared(path, found, f"Run: chmod {right} {path}")


def _shared(path: Path, found: os.stat_result, hint: str) -> StoreError:
    return StoreError(f"Others may use {path} (mode {stat.S_IMODE(found.st_mode):04o}).", hint=hint)


def _of_another(path: Path, found: os.stat_result) -> StoreError:
    return StoreError(
        f"{path} belongs to user {found.st_uid}, and this process runs as user {os.geteuid()}.",
        hint="Run krebit-proxy as the user that owns it, or change the owner with chown.",
    )
