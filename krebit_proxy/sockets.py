"""How much data the kernel still holds for either side of a connection."""

import sys

if sys.platform == "win32":  # pragma: no cover

    def unacknowledged(_descriptor: int) -> int:
        """Octets written to a socket that the other side has not taken yet; 0 where the system does not tell."""
        return 0

    def unread(_descriptor: int) -> int:
        """Octets that wait in a socket to be read; 0 where the system does not tell."""
        return 0
else:
    import fcntl
    import termios

    def unacknowledged(descriptor: int) -> int:
        """Octets written to a socket that the other side has not taken yet; 0 where the system does not tell."""
        # A socket becomes writable when a third of its buffer is free, which may be megabytes. This number shows much
        # earlier that a slow peer reads.
        try:
            return int.from_bytes(fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
        except (OSError, ValueError):
            return 0

    def unread(descriptor: int) -> int:
        """Octets that wait in a socket to be read; 0 where the system does not tell."""
        try:
            return int.from_bytes(fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)), sys.byteorder)
        except (OSError, ValueError):
            return 0
