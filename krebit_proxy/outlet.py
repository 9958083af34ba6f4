"""Lines for a stream that may block: they wait in a bounded queue, and a thread writes them.

    outlet = Outlet(sys.stderr)
    outlet.put(["one line", "another"])       # never waits

Nobody may read the stream: a pipe whose reader hangs, a paused terminal, a full disk. Then only the thread waits. Lines
that find no room in the queue are dropped and counted. So are lines that cannot be written. `on_room` gets the number
once there is room again.

A pipe may be shared with other processes, and this one may end while it is full. So a pipe gets whole lines, in pieces
that the system writes whole or not at all. The outlet has a descriptor of its own. The buffer of the stream stays
empty, and Python has nothing to write when the process ends.
"""

import atexit
import os
import select
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from threading import Condition, Thread
from typing import Final, TextIO

MOST_BYTES: Final = 4 * 1024 * 1024  # waiting in the queue
MOST_LINES: Final = 10_000
PATIENCE: Final = 0.8  # seconds; a process that ends waits so long for all its outlets

_PIECE: Final = 65_536  # bytes for one call of write(2)
# POSIX: "Write requests of {PIPE_BUF} bytes or less shall not be interleaved with data from other processes".
_PIPE_PIECE: Final = getattr(select, "PIPE_BUF", 512)
_PAUSE: Final = 0.01  # seconds between two tries of a descriptor that does not block


class Outlet:
    """Writes lines in their order. All methods may be called from any thread."""

    def __init__(self, stream: TextIO, on_room: Callable[[int], None] = lambda _: None) -> None:
        """`on_room`: called by the thread with the number of lines that were lost since it was last called.

        A stream without a descriptor, such as a StringIO, cannot block. It gets its lines at once.
        """
        self.lost = 0  # lines, since the start
        self.stream = stream
        self._on_room = on_room
        self._descriptor = _descriptor_of(stream)
        self._piece = _PIECE
        if self._descriptor is not None and stat.S_ISFIFO(os.fstat(self._descriptor).st_mode):
            self._piece = _PIPE_PIECE
        self._cut = False  # whether the last line was written only in part
        self._begin()
        _outlets.append(self)

    def _begin(self) -> None:
        self._changed = Condition()
        self._queue: SimpleQueue[tuple[bytes, int] | None] = SimpleQueue()
        self._bytes = self._lines = 0  # waiting, or being written
        self._working = False
        self._full = False  # no line is taken until half of the queue is written, so that losses come in few pieces
        self._untold = 0  # lines lost since `on_room` was last called

    def put(self, lines: list[str]) -> None:
        """Queues `lines`, and drops the last ones if there is no room for all."""
        if self._descriptor is None:
            try:
                self.stream.write("\n".join(lines) + "\n")
                self.stream.flush()
            except (OSError, ValueError):
                self.lost += len(lines)
            return
        content = self._encoded(lines)
        with self._changed:
            if not self._has_room(len(content), len(lines)):
                lines, content = self._fitting(lines)
            if lines:
                self._bytes += len(content)
                self._lines += len(lines)
                self._queue.put((content, len(lines)))
                if not self._working:
                    self._working = True
                    with suppress(RuntimeError):  # at the very end, Python starts no threads
                        Thread(target=self._work, name="outlet", daemon=True).start()

    def _has_room(self, size: int, lines: int) -> bool:
        return not self._full and self._bytes + size <= MOST_BYTES and self._lines + lines <= MOST_LINES

    def _fitting(self, lines: list[str]) -> tuple[list[str], bytes]:
        """The first of `lines`, as many as there is room for. The others are lost."""
        number, size = 0, 0
        for line in lines:
            size += len(self._encoded([line]))
            if not self._has_room(size, number + 1):
                break
            number += 1
        self._full = True
        self._lose(len(lines) - number)
        return lines[:number], self._encoded(lines[:number])

    def _encoded(self, lines: list[str]) -> bytes:
        return ("\n".join(lines) + "\n").encode(self.stream.encoding, "backslashreplace")

    def _lose(self, number: int) -> None:
        self.lost += number
        self._untold += number

    def flush(self, patience: float = PATIENCE) -> None:
        """Waits until all lines are written, but not longer than `patience` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: not self._lines, patience)

    def close(self) -> None:
        """Takes no more lines. Those that wait are still written."""
        _outlets.remove(self)
        with self._changed:
            if self._working:
                self._queue.put(None)
            elif self._descriptor is not None:
                os.close(self._descriptor)

    def forked(self) -> None:
        """Starts anew in a child process. The thread is not there, and the waiting lines are its parent's."""
        self._begin()

    # The thread

    def _work(self) -> None:
        while (waiting := self._queue.get()) is not None:
            content, lines = waiting
            lost = self._write(content)
            untold = self._written(len(content), lines, lost)
            if untold:
                self._on_room(untold)  # it may put a line
            with self._changed:
                if not self._lines:
                    self._changed.notify_all()
        assert self._descriptor is not None
        os.close(self._descriptor)

    def _written(self, size: int, lines: int, lost: int) -> int:
        """Frees the room of lines that the queue had. Returns how many losses to tell of now."""
        with self._changed:
            self._bytes -= size
            self._lines -= lines
            self._lose(lost)
            if self._bytes <= MOST_BYTES // 2 and self._lines <= MOST_LINES // 2:
                self._full = False
            if lost or self._full:  # a disk that is full would not take the news either
                return 0
            untold, self._untold = self._untold, 0
            return untold

    def _write(self, content: bytes) -> int:
        """Writes lines. Returns how many of them were lost."""
        lost = start = 0
        while start < len(content):
            # A longer line than fits into a piece is a piece of its own.
            end = content.rfind(b"\n", start, start + self._piece) + 1 or content.find(b"\n", start) + 1
            lost += self._write_piece(content[start:end])
            start = end
        return lost

    def _write_piece(self, piece: bytes) -> int:
        written = 0
        try:
            if self._cut:
                self._write_some(b"\n")
                self._cut = False
            while written < len(piece):
                written += self._write_some(piece[written:])
        except OSError:
            self._cut = self._cut or piece[:written][-1:] not in {b"", b"\n"}
            return piece.count(b"\n", written)
        return 0

    def _write_some(self, piece: bytes) -> int:
        assert self._descriptor is not None
        while True:
            try:
                return os.write(self._descriptor, piece)
            except BlockingIOError:  # whoever shares the descriptor has set O_NONBLOCK
                poll = select.poll()
                poll.register(self._descriptor, select.POLLOUT)
                poll.poll()
                time.sleep(_PAUSE)


def flush_all(patience: float = PATIENCE) -> None:
    """Waits until all outlets have written their lines, but not longer than `patience` seconds."""
    end = time.monotonic() + patience
    for outlet in _outlets:
        outlet.flush(max(0.0, end - time.monotonic()))


def _descriptor_of(stream: TextIO) -> int | None:
    """Another descriptor for the file of `stream`. It stays when the stream is closed."""
    try:
        return os.dup(stream.fileno())
    except (OSError, ValueError):
        return None


def _forked() -> None:
    for outlet in _outlets:
        outlet.forked()


_outlets: Final[list[Outlet]] = []
atexit.register(flush_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
