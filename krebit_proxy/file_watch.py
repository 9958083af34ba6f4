"""Notices that files have changed, and are whole again."""

import asyncio
from collections.abc import Callable
from pathlib import Path

_Stamp = tuple[tuple[int, ...], ...]


class FileWatch:
    """Watches files that belong together, such as a certificate and its key.

    Whoever writes a file in place writes it piece by piece, and half of a key must never be taken for one. So a change
    counts only when one look finds the files as the look before found them. A file that is missing is a state like any
    other; a new mode or owner is a change too.

    Make it before the files are read for the first time: what changes between the two is then noticed.
    """

    def __init__(self, *files: Path) -> None:
        self._files = tuple(dict.fromkeys(files))
        self._told = self._seen = self._stamp()

    async def follow(self, changed: Callable[[], None], *, pause: float = 1.0) -> None:
        """Looks every `pause` seconds, without end, and calls `changed` once for each change."""
        while True:
            await asyncio.sleep(pause)
            if self.look():
                changed()

    def look(self) -> bool:
        """Whether the files have changed since they were last reported, and are as the look before found them."""
        before, self._seen = self._seen, self._stamp()
        if self._seen == self._told or self._seen != before:
            return False
        self._told = self._seen
        return True

    def _stamp(self) -> _Stamp:
        return tuple(map(_stamp, self._files))


def _stamp(file: Path) -> tuple[int, ...]:
    """What tells one state of a file from another."""
    try:
        found = file.stat()
    except OSError:
        return ()
    return (found.st_dev, found.st_ino, found.st_ctime_ns, found.st_mtime_ns, found.st_size)
