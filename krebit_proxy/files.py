"""Writes files whole or not at all.

A reader, or a crash at any moment, sees what was there before or all that is new. The content goes to a new file in
the same folder, which has its mode from the first byte on; it is flushed to the disk, takes the name in one step, and
then the folder is flushed too. What returns without an error is on the disk. Errors are OSErrors that name the file.

A process that is killed while it writes leaves that new file behind. Whoever holds a lock on the name may `sweep`.
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
    """Makes a file where there is none; else raises FileExistsError. A process killed meanwhile may leave it empty."""
    with _naming(path):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))  # takes the name before anybody else
        try:
            replace(path, content, mode=mode)
        except BaseException:
            path.unlink()
            raise


def replace(path: Path, content: str | bytes, *, mode: int | None = None) -> None:
    """Puts a new file in the place of `path`, whether there is one or not.

    Without `mode` it gets the mode and the owner of the file before it, and 0600 where there was none.
    """
    with _naming(path):
        found = _stat(path) if mode is None else None
        # A random name, so that nobody who may write to the folder can lead us to another file.
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
    """Makes a folder where there is none, and those above it, which get the usual mode."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(mode, parents=True, exist_ok=True)
    for folder in missing:
        _flush_folder(folder.parent)


def sweep(path: Path) -> None:
    """Removes what killed writers of `path` left behind. Only for whoever is its one writer at the moment."""
    with _naming(path):
        for left in path.parent.iterdir():
            if left.name.startswith(f".{path.name}.") and left.suffix == _SUFFIX:
                left.unlink(missing_ok=True)


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _take_after(new: Path, old: os.stat_result) -> None:
    found = new.stat()
    if (old.st_uid, old.st_gid) != (found.st_uid, found.st_gid):
        os.chown(new, old.st_uid, old.st_gid)
    new.chmod(old.st_mode & 0o777)  # the owner first: a change of it may reset the mode


def _flush_folder(folder: Path) -> None:
    if os.name == "nt":  # pragma: no cover
        return  # a folder cannot be opened there, and its entries are written through
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems have nothing to flush for a folder
            raise
    finally:
        os.close(descriptor)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Has each error name the file that was asked for, whichever step of the way it came from."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise
