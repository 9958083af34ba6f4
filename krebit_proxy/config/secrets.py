"""Checks files with secrets.

A file that another user can change or replace is refused. One that others can read causes a warning.
"""

import errno
import stat
from pathlib import Path
from typing import Final

from krebit_proxy.ownership import weaknesses

LARGEST: Final = 64 * 1024
# Container engines mount secrets here. All users can read them by design, since the mount is private to the container.
MOUNTS: Final = (Path("/run/secrets"), Path("/var/run/secrets"))


# Without the name: somebody may have put the secret itself where the name of its file belongs.
ABSENT: Final = "names a file that does not exist; a relative path starts at the folder of the settings file"


def absent(path: Path) -> bool:
    """Whether there is no such file."""
    try:
        path.stat()
    except OSError as error:
        return error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG}
    return False


def file_problem(path: Path) -> str | None:
    """Why a file with a secret cannot be used, or None. Follows links, because Kubernetes mounts secrets as links."""
    try:
        found = path.stat()
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    if not stat.S_ISREG(found.st_mode):
        return f"{path} is not a file"
    return replaceable(path)


def replaceable(path: Path) -> str | None:
    """Says that another user can surely change or replace a file. Otherwise None, also if the file is missing."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return None
    if mode & stat.S_IWOTH:
        return f"{path} can be changed by every user of this computer; run: chmod 600 {path}"
    return next((weak.text for weak in weaknesses(path, mounts=MOUNTS) if weak.certain), None)


def doubt(path: Path) -> str | None:
    """Says that another user may be able to replace a file, but not surely. Otherwise None."""
    return next((weak.text for weak in weaknesses(path, mounts=MOUNTS) if not weak.certain), None)


def exposure(path: Path, *, mounts: tuple[Path, ...] = MOUNTS) -> str | None:
    """Says that all users can read a file with a secret, or that its group can change it. Otherwise None.

    This can be intended, in a container or where a volume or a umask sets the mode. So most files only cause a warning.
    """
    try:
        mode = path.stat().st_mode
    except OSError:
        return None
    if any(path.is_relative_to(mount) for mount in mounts):
        return None
    if mode & stat.S_IROTH:
        return f"{path} can be read by every user of this computer; run: chmod 600 {path}"
    return f"{path} can be changed by its group; run: chmod 600 {path}" if mode & stat.S_IWGRP else None


def read_secret(path: Path) -> str:
    """The content of a file, without the line break at the end.

    Raises:
        ValueError: says what is wrong, without the content.
    """
    if (problem := file_problem(path)) is not None:
        raise ValueError(problem)
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST).decode().rstrip("\r\n")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not text") from None
    if not text:
        raise ValueError(f"{path} is empty; it must contain the secret and nothing else")
    return text
