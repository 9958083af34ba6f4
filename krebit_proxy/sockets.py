"""What the kernel does and knows about a TCP connection: probes, octets under way, signs of life, data that it holds.

A connection can die without a word: a NAT or a firewall forgets it, a computer sleeps, a cable is pulled. Then the
other side acknowledges nothing more. A slow server is different: its kernel acknowledges the request at once.
"""

import socket
import struct
import sys
from contextlib import suppress
from typing import Final

# A dead connection on which nothing is under way is noticed after 30 seconds.
_PROBES: Final = {
    "TCP_KEEPIDLE": 15,  # seconds of silence before the first probe
    "TCP_KEEPALIVE": 15,  # the same on macOS
    "TCP_KEEPINTVL": 5,  # seconds between probes
    "TCP_KEEPCNT": 3,  # unanswered probes after which the connection is dead
}


def probe(sock: socket.socket) -> None:
    """Lets the kernel probe the other side of a silent connection, as far as the system can."""
    # For octets under way, TCP_USER_TIMEOUT would do the same. But it also ends connections to a server that is alive
    # and has no room for more content for a while (Linux: tcp_probe_timer). `silence` tells these two apart.
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _PROBES.items():
            if hasattr(socket, name):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


if sys.platform == "linux":
    # struct tcp_info in linux/tcp.h: 8 octets, then numbers of 32 bits.
    _UNACKED: Final = struct.Struct("=24xI")  # tcpi_unacked: packets under way
    _LAST_ACK: Final = struct.Struct("=56xI")  # tcpi_last_ack_recv: milliseconds

    def silence(sock: socket.socket) -> float:
        """Seconds since the other side last acknowledged anything, if packets to it are under way. Otherwise 0.

        It is also 0 where the system does not tell.
        """
        try:
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_ACK.size)
            return _LAST_ACK.unpack(info)[0] / 1000 if _UNACKED.unpack_from(info)[0] else 0.0
        except (OSError, struct.error):
            return 0.0
else:  # pragma: no cover

    def silence(_sock: socket.socket) -> float:
        """Seconds since the other side last acknowledged anything; 0 where the system does not tell."""
        return 0.0


COUNTS_UNACKNOWLEDGED: Final = sys.platform != "win32"  # whether `unacknowledged` tells the truth

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
