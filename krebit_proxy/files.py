"""Writes files whole or not at all.

A reader sees either the old content or all of the new one, even after a crash. The content goes to a new file in the
same folder, with the right mode from the first byte. This file is flushed to the disk and renamed in one step. Then the
folder is flushed. When a function returns, the content is on the disk. Errors are OSErrors that name the file.

A process that is killed while it writes leaves its new file behind. `sweep` removes it.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkstemp
from typing import Final

_SUFFIX: Final = ".new"


def create(path: Path, content: str, *, mode: int = 0o600) -> None:
    """Creates a file. Raises FileExistsError if it exists. A process that is killed here may leave it empty."""
    with _naming(path):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))  # claims the name
        try:
            replace(path, content, mode=mode)
        except BaseException:
            path.unlink()
            raise


def replace(path: Path, content: str | bytes, *, mode: int | None = None) -> None:
    """Creates or replaces the file `path`.

    Without `mode`, it keeps the mode and the owner of the old file. A new file gets 0600.
    """
    with _naming(path):
        found = stat_of(path) if mode is None else None
        # The name is random, so that another user of the folder cannot put a link there first.
        descriptor, name = mkstemp(prefix=f".{path.name}.", suffix=_SUFFIX, dir=path.parent)
        new = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                if found is not None:
                    _take_after(new, found)
                elif mode is not None:
                    new.chmod(mode)
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(descriptor)
            new.replace(path)
        except BaseException:
            with suppress(OSError):
                new.unlink()
            raise
        _flush_folder(path.parent)


def make_folder(path: Path, *, mode: int = 0o700) -> None:
    """Creates a folder if it is missing, and those above it. Only the folder itself gets `mode`."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(mode, parents=True, exist_ok=True)
    for folder in missing:
        _flush_folder(folder.parent)


def sweep(path: Path) -> None:
    """Removes what killed writers of `path` left behind. Call it only under a lock that keeps other writers away."""
    with _naming(path):
        for left in path.parent.iterdir():
            if left.name.startswith(f".{path.name}.") and left.suffix == _SUFFIX:
                left.unlink(missing_ok=True)


def stat_of(path: Path, *, follow: bool = True) -> os.stat_result | None:
    """The state of a file or folder. None if it is missing."""
    try:
        return path.stat(follow_symlinks=follow)
    except FileNotFoundError:
        return None


def _take_after(new: Path, old: os.stat_result) -> None:
    found = new.stat()
    if (old.st_uid, old.st_gid) != (found.st_uid, found.st_gid):
        os.chown(new, old.st_uid, old.st_gid)
    new.chmod(old.st_mode & 0o777)  # after chown, which may reset the mode


def _flush_folder(folder: Path) -> None:
    if os.name == "nt":  # pragma: no cover
        return  # Windows cannot open a folder, and writes its entries through
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot flush a folder
            raise
    finally:
        os.close(descriptor)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Makes each error name `path`, instead of the temporary file or the folder."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise
