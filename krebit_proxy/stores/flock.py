"""A lock on an open file. The operating system frees it when its holder dies."""

import sys

if sys.platform == "win32":  # pragma: no cover
    import msvcrt

    def try_lock(descriptor: int) -> bool:
        """Takes the lock on the open file, or returns False if another descriptor has it."""
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        return True
else:
    import fcntl

    def try_lock(descriptor: int) -> bool:
        """Takes the lock on the open file, or returns False if another descriptor has it."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
