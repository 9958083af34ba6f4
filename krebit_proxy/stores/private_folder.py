"""The folder of a grant. Only our own user may use it.

Kubernetes' fsGroup opens what we made private: at every mount, it gives a group write access to all folders (2770) and
files (0660) of a volume. The top folder of the volume belongs to root. So these rules hold:

- Our own folders and files become private again, with a warning.
- If the folder belongs to root and we may write to it, we keep the grant in our own folder inside it.
- Files and folders of other users are refused and never changed.
- Everything that all users may write to is refused, because anybody may have put it there.
"""

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from krebit_proxy.errors import StoreError
from krebit_proxy.files import make_folder, stat_of

_INNER: Final = "krebit-proxy"
_HAS_MODES: Final = hasattr(os, "geteuid")  # not on Windows
# Do not follow links, do not pass the file to child processes, and do not block on a pipe.
_OPEN: Final = sum(getattr(os, flag, 0) for flag in ("O_NOFOLLOW", "O_CLOEXEC", "O_NONBLOCK", "O_BINARY"))
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


class PrivateFolder:
    """The folder from the settings, or our own folder inside it if it belongs to root.

    `names` are our files in it. `tightened` collects the paths that a group could use until now. The methods raise
    StoreError for what they cannot make private, and OSError.
    """

    def __init__(self, asked: Path, names: tuple[str, ...]) -> None:
        self.asked = asked
        self._names = names
        self.tightened: list[str] = []

    def path(self, *, create: bool) -> Path:
        """The folder. Without `create` it may be missing."""
        if create:
            make_folder(self.asked)
        folder, found = self.asked, stat_of(self.asked)
        if found is not None and stat.S_ISDIR(found.st_mode) and _is_roots(found):
            folder, found = self._inner(found, create=create)
        if found is None:
            return folder
        if not stat.S_ISDIR(found.st_mode):
            raise StoreError(f"{folder} is not a folder.", hint="Set `store` to a folder.")
        if _is_loose(folder, found, stat.S_IWGRP, "700"):
            self._tighten(folder)
            _require_private(folder, folder.stat(), stat.S_IWGRP, "700")
        return folder

    def open(self, path: Path, flags: int) -> int:
        """Opens one of our files, after making sure that it is a regular file which nobody else may open."""
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
        """Our folder inside root's, and its state. None if it is missing."""
        if outer.st_mode & stat.S_IWOTH:
            raise _shared(self.asked, outer, "Set `store` to a folder inside it.")
        folder = self.asked / _INNER
        found = stat_of(folder, follow=False)
        if found is None and not os.access(self.asked, os.W_OK | os.X_OK):
            raise _of_another(self.asked, outer)
        if found is None and create:
            make_folder(folder)
            found = folder.lstat()
        return folder, found

    def _tighten(self, folder: Path) -> None:
        """Makes the folder and all our files private at once, so that there is one warning."""
        if _tightened(folder, 0 if folder == self.asked else _OPEN, stat.S_IWGRP):
            self.tightened.append(str(folder))
        for place in dict.fromkeys((folder, self.asked)):
            files = [place / name for name in self._names]
            self.tightened += [str(path) for path in files if _tightened(path, _OPEN, _OTHERS)]


def _tightened(path: Path, flags: int, bits: int) -> bool:
    """Removes the rights of others. Whether they had one of `bits`. Acts on the open file, so no link misleads us."""
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


def _is_loose(path: Path, found: os.stat_result, bits: int, right: str) -> bool:
    """Whether others have a right of `bits`. Raises StoreError if it is not ours, or if everybody may change it."""
    if not _HAS_MODES:
        return False
    if found.st_uid != os.geteuid():
        raise _of_another(path, found)
    if found.st_mode & stat.S_IWOTH:
        raise _shared(path, found, f"Run: chmod {right} {path}")
    return bool(found.st_mode & bits)


def _require_private(path: Path, found: os.stat_result, bits: int, right: str) -> None:
    """Raises StoreError if the modes did not change, as on file systems without modes."""
    if found.st_mode & bits:
        raise _shared(path, found, f"Run: chmod {right} {path}")


def _shared(path: Path, found: os.stat_result, hint: str) -> StoreError:
    return StoreError(f"Other users may use {path} (mode {stat.S_IMODE(found.st_mode):04o}).", hint=hint)


def _of_another(path: Path, found: os.stat_result) -> StoreError:
    return StoreError(
        f"{path} belongs to user {found.st_uid}, but this process runs as user {os.geteuid()}.",
        hint="Run krebit-proxy as the owner, or change the owner with chown.",
    )
