"""Lines for a stream that nobody reads: whoever writes them never waits."""

import fcntl
import io
import os
import pty
import resource
import select
import signal
import socket
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from krebit_proxy import outlet as module
from krebit_proxy.outlet import MOST_BYTES, MOST_LINES, Outlet
from tests.fakes.waiting import DEADLINE

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pipes and terminals of POSIX")
LINE = "x" * 199


class Reader:
    """Everything that comes out at the other end, once it is read."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._content = b""

    def until(self, last: str) -> list[str]:
        """All lines up to the one called `last`."""
        while not self._content.endswith(f"{last}\n".encode()):
            ready, _, _ = select.select([self._descriptor], [], [], DEADLINE)
            assert ready, f"no {last!r} after {self._content[-100:]!r}"
            piece = os.read(self._descriptor, 65536)
            assert piece, f"no {last!r} at the end of {self._content[-100:]!r}"
            self._content += piece
        return self._content.decode().splitlines()


@pytest.fixture
def pipe() -> Iterator[tuple[Reader, Any]]:
    """A reader, and the stream that it reads."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb"), os.fdopen(writing, "w", encoding="utf-8") as stream:
        yield Reader(reading), stream


def fill(descriptor: int) -> int:
    """Writes into it until nothing more fits. Returns how much did."""
    os.set_blocking(descriptor, False)
    size = 0
    try:
        while True:
            size += os.write(descriptor, b"-" * 4095 + b"\n")
    except BlockingIOError:
        os.set_blocking(descriptor, True)
        return size


def numbered(first: int, last: int) -> list[str]:
    return [f"{number} {LINE}" for number in range(first, last)]


def test_lines_come_out_whole_and_in_order(pipe: tuple[Reader, Any]) -> None:
    reader, stream = pipe
    with closing(Outlet(stream)) as outlet:
        for number in range(0, 3000, 100):
            outlet.put(numbered(number, number + 100))
        outlet.put(["å" * 10_000, "end"])

        assert reader.until("end") == [*numbered(0, 3000), "å" * 10_000, "end"]
        assert outlet.lost == 0


@pytest.mark.parametrize("line", ["x" * 100, "x" * 2000], ids=["lines", "bytes"])
def test_lines_that_find_no_room_are_counted_and_told_of_once_there_is_room(
    pipe: tuple[Reader, Any], line: str
) -> None:
    reader, stream = pipe
    told: list[int] = []

    def on_room(number: int) -> None:
        told.append(number)
        outlet.put([f"lost {number}", "end"])

    with closing(Outlet(stream, on_room)) as outlet:
        for number in range(0, 3 * MOST_LINES, 100):
            outlet.put([f"{number + n} {line}" for n in range(100)])
        lost = outlet.lost
        assert lost >= 2 * MOST_LINES - 1000
        assert outlet._bytes <= MOST_BYTES
        assert outlet._lines <= MOST_LINES
        outlet.put(["this one finds no room either"])

        lines = reader.until("end")
        assert told == [lost + 1]
        assert lines[-2:] == [f"lost {lost + 1}", "end"]
        assert [int(taken.split()[0]) for taken in lines[:-2]] == list(range(3 * MOST_LINES - lost))
        outlet.put(["and on it goes"])
        assert reader.until("and on it goes")[-1] == "and on it goes"


def test_the_first_lines_of_many_find_room(pipe: tuple[Reader, Any]) -> None:
    reader, stream = pipe
    with closing(Outlet(stream, lambda number: outlet.put([f"lost {number}"]))) as outlet:
        outlet.put(numbered(0, MOST_LINES + 7))
        assert reader.until("lost 7")[:-1] == numbered(0, MOST_LINES)


def test_flush_waits_for_a_reader_but_not_for_long(pipe: tuple[Reader, Any]) -> None:
    reader, stream = pipe
    with closing(Outlet(stream)) as outlet:
        outlet.put(["first"])
        outlet.flush(DEADLINE)
        assert reader.until("first") == ["first"]
        outlet.put([LINE] * 2000)
        outlet.flush(0.01)  # returns
        outlet.put(["end"])
        assert len(reader.until("end")) == 2002


def test_a_pipe_that_stays_full_ends_with_a_whole_line(pipe: tuple[Reader, Any]) -> None:
    _, stream = pipe
    fcntl.fcntl(stream, fcntl.F_SETPIPE_SZ, 8192)
    with closing(Outlet(stream)) as outlet:
        outlet.put(numbered(0, 1000))
        outlet.flush(0.2)
        taken = os.read(pipe[0]._descriptor, 8192)
        assert taken.endswith(b"\n")


def test_a_descriptor_that_does_not_block_loses_nothing(pipe: tuple[Reader, Any]) -> None:
    reader, stream = pipe
    os.set_blocking(stream.fileno(), False)
    with closing(Outlet(stream)) as outlet:
        outlet.put(numbered(0, 4000))
        outlet.put(["y" * 300_000, "end"])
        outlet.flush(0.05)

        assert reader.until("end") == [*numbered(0, 4000), "y" * 300_000, "end"]


def test_a_socket_that_does_not_block_loses_nothing() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, ours.makefile("w") as stream:
        os.set_blocking(ours.fileno(), False)
        with closing(Outlet(stream)) as outlet:
            outlet.put(numbered(0, 4000))
            outlet.put(["end"])
            assert Reader(theirs.fileno()).until("end") == [*numbered(0, 4000), "end"]


def test_a_terminal_that_was_paused_goes_on() -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb"), os.fdopen(theirs, "w") as stream:
        termios.tcflow(theirs, termios.TCOOFF)  # Ctrl-S
        with closing(Outlet(stream)) as outlet:
            outlet.put(numbered(0, 300))
            outlet.flush(0.05)
            termios.tcflow(theirs, termios.TCOON)
            outlet.put(["end"])
            content = b""
            while not content.endswith(b"end\r\n"):
                content += os.read(ours, 65536)
            assert content.decode().splitlines() == [*numbered(0, 300), "end"]


def test_lines_that_cannot_be_written_are_counted_and_told_of_with_the_next_ones(tmp_path: Path) -> None:
    path, told = tmp_path / "log", Event()
    counts: list[int] = []

    def on_room(number: int) -> None:
        counts.append(number)
        told.set()

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with path.open("w") as stream, closing(Outlet(stream, on_room)) as outlet:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))  # as if the disk were full
            outlet.put(["first", *numbered(0, 3)])
            outlet.put(["lost, too"])
            outlet.flush(DEADLINE)
            assert (outlet.lost, counts) == (4, [])
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            outlet.put(["last"])
            assert told.wait(DEADLINE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)

    assert counts == [4]
    first, half, last = path.read_text().splitlines()
    assert (first, last) == ("first", "last")
    assert numbered(0, 1)[0].startswith(half)


@pytest.mark.parametrize("place", ["/dev/full", "gone", "closed"])
def test_what_nobody_can_take_is_counted(place: str) -> None:
    stack = ExitStack()
    if place == "/dev/full":
        stream: Any = stack.enter_context(os.fdopen(os.open("/dev/full", os.O_WRONLY), "w"))
    else:
        reading, writing = os.pipe()
        os.close(reading)
        stream = stack.enter_context(os.fdopen(writing, "w"))
        if place == "closed":
            stream.close()
    with stack, closing(Outlet(stream)) as outlet:
        outlet.put(["one", "two"])
        outlet.put(["three"])
        outlet.flush(DEADLINE)
        assert outlet.lost == 3


def test_a_stream_without_a_descriptor_gets_its_lines_at_once() -> None:
    stream = io.StringIO()
    with closing(Outlet(stream)) as outlet:
        outlet.put(["one", "two"])
        assert stream.getvalue() == "one\ntwo\n"


def test_lines_of_many_threads_come_out_once_each(pipe: tuple[Reader, Any]) -> None:
    reader, stream = pipe
    with closing(Outlet(stream)) as outlet:

        def write(name: str) -> Callable[[], None]:
            def lines() -> None:
                for number in range(500):
                    outlet.put([f"{name} {number}"])

            return lines

        threads = [Thread(target=write(name)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        outlet.put(["end"])
        lines = reader.until("end")
        for name in "abcd":
            assert [line for line in lines if line[0] == name] == [f"{name} {number}" for number in range(500)]


def test_what_waits_when_it_is_closed_is_still_written_and_the_descriptor_freed(pipe: tuple[Reader, Any]) -> None:
    reader, stream = pipe
    outlet = Outlet(stream)
    outlet.put(numbered(0, 3000))
    outlet.close()
    stream.close()
    assert len(reader.until(numbered(2999, 3000)[0])) == 3000
    assert os.read(reader._descriptor, 1) == b""


_FORKS = """
import os, sys
from krebit_proxy.outlet import Outlet, flush_all
outlet = Outlet(sys.stderr)
outlet.put(["parent"])
outlet.flush()
if child := os.fork():
    os.waitpid(child, 0)
    outlet.put(["parent again"])
else:
    outlet.put(["child"])
"""
_ENDS = """
import sys
from krebit_proxy.outlet import Outlet
Outlet(sys.stderr).put(["line"] * 50)
"""


@pytest.mark.parametrize(
    ("program", "lines"),
    [(_FORKS, ["parent", "child", "parent again"]), (_ENDS, ["line"] * 50)],
    ids=["in a forked child, too", "at the end of the process"],
)
def test_all_lines_are_written(program: str, lines: list[str]) -> None:
    finished = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], stderr=subprocess.PIPE, timeout=DEADLINE, check=True
    )
    assert finished.stderr.decode().splitlines() == lines


def test_a_process_ends_in_time_and_in_order_though_nobody_reads_its_lines() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading), os.fdopen(writing, "wb") as stream:
        fill(stream.fileno())
        finished = subprocess.run([sys.executable, "-c", _ENDS], stderr=stream, timeout=DEADLINE, check=False)
    assert finished.returncode == 0


def test_all_outlets_are_flushed_together(pipe: tuple[Reader, Any]) -> None:
    reader, stream = pipe
    with closing(Outlet(stream)) as outlet:
        outlet.put(["one"])
        module.flush_all(DEADLINE)
        assert reader.until("one") == ["one"]
