"""Notices when files have changed and are complete again."""

import asyncio
from collections.abc import Callable
from pathlib import Path

_Stamp = tuple[tuple[int, ...], ...]


class FileWatch:
    """Watches files that belong together, such as a certificate and its key.

    A program may write a file piece by piece, and half a key is not a key. So a change counts only when two looks in a
    row find the files in the same state. A missing file is a state too. A new mode or owner is a change.

    Create the watch before you first read the files. Then it notices changes between the two.
    """

    def __init__(self, *files: Path) -> None:
        self._files = tuple(dict.fromkeys(files))
        self._told = self._seen = self._stamp()

    async def follow(self, changed: Callable[[], None], *, pause: float = 1.0) -> None:
        """Looks every `pause` seconds, forever, and calls `changed` once for each change."""
        while True:
            await asyncio.sleep(pause)
            if self.look():
                changed()

    def look(self) -> bool:
        """Whether to report a change: the files differ from the last report, and equal the look before this one."""
        before, self._seen = self._seen, self._stamp()
        if self._seen == self._told or self._seen != before:
            return False
        self._told = self._seen
        return True

    def _stamp(self) -> _Stamp:
        return tuple(map(_stamp, self._files))


def _stamp(file: Path) -> tuple[int, ...]:
    """Identifies the state of a file. Empty if it is missing."""
    try:
        found = file.stat()
    except OSError:
        return ()
    return (found.st_dev, found.st_ino, found.st_ctime_ns, found.st_mtime_ns, found.st_size)
