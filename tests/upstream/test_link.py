"""Where a link takes its octets from."""

import socket
import ssl
from typing import Any, cast

from krebit_proxy.upstream.link import Octets


def test_tls_is_spoken_by_the_methods_of_the_c_object() -> None:
    """Fails when the standard library moves them; then links get slower, and go on by what every Python has."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        context = ssl.create_default_context()
        tls = cast("Any", context.wrap_socket(ours, server_hostname="localhost", do_handshake_on_connect=False))
        assert Octets.of(tls) == (tls._sslobj.write, tls._sslobj.read, tls._sslobj.pending)
        tls.close()


class Other:
    """A TLS socket of some other Python."""

    def __init__(self, sock: socket.socket) -> None:
        self.send = sock.send
        self.recv_into = sock.recv_into

    @staticmethod
    def pending() -> int:
        return 3


def test_without_them_the_public_methods_do() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for sock, more in (Other(ours), 3), (ours, 0):
            send, take, pending = Octets.of(cast("Any", sock))
            buffer = bytearray(b"------")
            assert (send(b"abc"), theirs.recv(9), theirs.send(b"defg")) == (3, b"abc", 4)
            assert (take(3, memoryview(buffer)[1:]), bytes(buffer), pending()) == (3, b"-def--", more)
            assert theirs.send(ours.recv(9)) == 1
            assert ours.recv(9) == b"g"
