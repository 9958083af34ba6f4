"""A connection that dies without a word, as when a NAT forgets it: what arrives is dropped, and not acknowledged."""

import ctypes
import socket
import struct
import sys
from typing import Final

import pytest

needs_silence = pytest.mark.skipif(sys.platform != "linux", reason="only Linux drops packets for a program")

_ATTACH_FILTER: Final = 26  # asm-generic/socket.h
_DETACH_FILTER: Final = 27
_DROP: Final = struct.pack("HBBI", 0x06, 0, 0, 0)  # one instruction of a classic BPF program: return 0


def silence(sock: socket.socket) -> None:
    """From now on the kernel drops each packet for this connection, before TCP sees it."""
    program = ctypes.create_string_buffer(_DROP)
    sock.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, struct.pack("HL", 1, ctypes.addressof(program)))


def revive(sock: socket.socket) -> None:
    """What the other side sends again arrives."""
    sock.setsockopt(socket.SOL_SOCKET, _DETACH_FILTER, 0)
