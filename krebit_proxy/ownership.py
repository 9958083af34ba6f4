"""Which other users could put a file of theirs in the place of one that we trust, as in OpenSSH's StrictModes.

A path is followed link by link, as Kubernetes mounts secrets through links. Every folder, link and file on the way must
belong to root or to us. Other users must not be able to write to a folder, unless it is sticky: then they cannot rename
what is not theirs. The mode of the file itself is not looked at here.

A user namespace shows the files of users that it does not know as those of `nobody`. If it has no such user, they
count as root's. Access control lists are not looked at. On Windows there is nothing to see.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

_HAS_OWNERS: Final = hasattr(os, "geteuid")  # not on Windows
_MOST_LINKS: Final = 40  # as in Linux
_NOBODY: Final = 65534  # also the owner of files whose owner has no number in this user namespace
_HIGHEST: Final = 2**32 - 2  # this number exists only where all do


class Weakness(NamedTuple):
    """How another user could replace a file, and what to do.

    It is `certain` if this computer has such a user. Otherwise it may be intended: a mounted folder of a container can
    belong to a user that exists only outside, and a group may have no other members.
    """

    text: str
    certain: bool


def weaknesses(path: Path, *, mounts: tuple[Path, ...] = ()) -> Iterator[Weakness]:
    """All that is weak on the way to `path`. Below `mounts`, any owner will do. A missing file ends the way."""
    if not _HAS_OWNERS:  # pragma: no cover
        return
    with suppress(OSError):
        for place, found in _steps(path):
            if not any(place.is_relative_to(mount) for mount in mounts):
                yield from _of_another(place, found, path)
            if stat.S_ISDIR(found.st_mode) and not found.st_mode & stat.S_ISVTX:
                yield from _open_to_others(place, found, path)


def open_folder(path: Path) -> Path | None:
    """The first folder on the way to `path`, and including it, in which every user can replace everything."""
    if _HAS_OWNERS:
        with suppress(OSError):
            for place, found in _steps(path):
                if stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
                    return place
    return None


def _steps(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Each folder, link and file on the way to the content of `path`, and its state. Raises OSError."""
    place, *names = map(Path, path.absolute().parts)
    yield place, place.lstat()
    links = 0
    while names:
        step = place / names.pop(0)
        if step.name == "..":
            place = place.parent
            continue
        found = step.lstat()
        yield step, found
        if not stat.S_ISLNK(found.st_mode):
            place = step
        elif (links := links + 1) <= _MOST_LINKS:
            target = step.readlink()
            if target.is_absolute():
                place = Path(target.anchor)
            names = [*map(Path, target.parts[target.is_absolute() :]), *names]
        else:
            return


def _of_another(place: Path, found: os.stat_result, path: Path) -> Iterator[Weakness]:
    uid, ours = found.st_uid, os.geteuid()
    if uid in {0, ours} or (uid == _NOBODY and not _is_mapped(uid)):
        return
    if stat.S_ISLNK(found.st_mode) and not place.parent.stat().st_mode & stat.S_ISVTX:
        return  # nobody can change a link, and its owner can replace it only in a sticky folder
    name = _user(uid)
    if place == path and stat.S_ISREG(found.st_mode):
        text = f"{path} belongs to user {name or uid}, who can change it; run: chown {_user(ours) or ours} {path}"
    else:
        text = f"{place} belongs to user {name or uid}, who can replace {path}; move it to a folder of your own"
    yield Weakness(text, name is not None and (uid != _NOBODY or _is_mapped(_HIGHEST)))


def _open_to_others(folder: Path, found: os.stat_result, path: Path) -> Iterator[Weakness]:
    if found.st_mode & stat.S_IWOTH:
        text = f"every user of this computer can write to {folder}, and so replace {path}; run: chmod o-w {folder}"
        yield Weakness(text, certain=True)
    elif found.st_mode & stat.S_IWGRP and not _is_private(found):
        text = f"the group of {folder} can write to it, and so replace {path}; run: chmod g-w {folder}"
        yield Weakness(text, certain=False)


def _is_mapped(uid: int) -> bool:
    """Whether the number belongs to a user in this user namespace, see user_namespaces(7)."""
    try:
        lines = Path("/proc/self/uid_map").read_text().splitlines()
    except OSError:
        return True
    ranges = [tuple(map(int, line.split())) for line in lines]
    return any(first <= uid < first + count for first, _, count in ranges)


def _user(uid: int) -> str | None:
    import pwd  # not on Windows

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None


def _is_private(found: os.stat_result) -> bool:
    """Whether the group is root's, or the one that many systems make for each user: with its name, and only for it."""
    import grp  # not on Windows

    if found.st_gid == 0:
        return True
    try:
        group = grp.getgrgid(found.st_gid)
    except KeyError:
        return False
    return group.gr_name == _user(found.st_uid) and set(group.gr_mem) <= {group.gr_name}
