"""Files that hold secrets: refused when others can change them, told of when others can read them."""

import stat
from pathlib import Path
from typing import Final

LARGEST: Final = 64 * 1024
# Container engines mount secrets here, readable to all by design: the mount is private to the container.
MOUNTS: Final = (Path("/run/secrets"), Path("/var/run/secrets"))


def file_problem(path: Path) -> str | None:
    """Why a file that holds a secret cannot be used, or None. Links are followed: Kubernetes mounts secrets by them."""
    try:
        found = path.stat()
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    if not stat.S_ISREG(found.st_mode):
        return f"{path} is not a file"
    if found.st_mode & stat.S_IWOTH:
        return f"{path} can be changed by every user of this computer; run: chmod 600 {path}"
    return None


def exposure(path: Path, *, mounts: tuple[Path, ...] = MOUNTS) -> str | None:
    """What to say of a file with a secret that others may read, or its group may change; None if nothing is.

    In a container, or where a volume or a umask sets the mode, that may be meant: mostly it is said, and not refused.
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
    """The one line in a file; its end of line is not part of the secret.

    Raises:
        ValueError: says what is wrong, and nothing of the content.
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
