"""New files that nobody else may read."""

import os
from pathlib import Path


def create(path: Path, text: str, *, mode: int = 0o600) -> None:
    """Makes a file that has its mode from the first byte on, and leaves none behind that is not whole.

    Raises OSError, which names the file: it is there already, or it cannot be written.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123  a descriptor, not a path
            file.write(text)
            file.flush()
            os.fsync(descriptor)
    except OSError as error:
        path.unlink()
        raise OSError(error.errno, error.strerror, str(path)) from error
