"""What the kernel still holds for the other side of a connection."""

import socket
import sys
from contextlib import suppress

import pytest

from krebit_proxy.sockets import unacknowledged
from tests.fakes.waiting import eventually

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="this system does not tell")


@pytest.fixture
def pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
    return ours, theirs


def filled(sock: socket.socket) -> int:
    """Writes until there is no room. Returns how much that was."""
    sock.setblocking(False)
    sent = 0
    with suppress(BlockingIOError):
        while True:
            sent += sock.send(b"x" * 65536)
    return sent


async def test_octets_that_the_other_side_has_no_room_for_are_counted(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    with ours, theirs:
        sent = filled(ours)
        assert 0 < unacknowledged(ours.fileno()) < sent
        while sent:
            sent -= len(theirs.recv(65536))
        await eventually(lambda: unacknowledged(ours.fileno()) == 0)


def test_a_socket_that_is_closed_holds_nothing(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    descriptor = ours.fileno()
    ours.close()
    theirs.close()

    assert unacknowledged(descriptor) == unacknowledged(-1) == 0
