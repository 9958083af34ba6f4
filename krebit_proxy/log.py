"""The log on standard error: one line for each event, readable on a terminal, JSON elsewhere.

    log = structlog.get_logger()          # on the hot path, once: structlog.get_logger().bind()
    log.info("request.done", method="GET", path="/api/x", status=200)

An event is a dotted name with flat values. The log cannot leak secrets: `Secret` masks itself, a path loses its query,
and an exception shows only its type and its places in the code, because its text may contain data of a request. The
same holds for messages of other libraries. Control characters are escaped: they could take over a terminal or forge a
line.

The log is cheap, because each request writes an event. One processor makes the line. Lines are handed over together
every hundredth of a second, errors at once. A thread writes them (`krebit_proxy.outlet`), so the log never blocks.
"""

import asyncio
import atexit
import logging
import sys
import threading
import time
import traceback
from collections.abc import Mapping, MutableMapping
from datetime import UTC, datetime
from json import JSONEncoder
from json.encoder import encode_basestring_ascii as _quoted
from math import isfinite
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, TextIO

import structlog

from krebit_proxy.core.secret import MASK, Secret
from krebit_proxy.outlet import Outlet

Event = MutableMapping[str, Any]

_COLOURS: Final = {"debug": "\x1b[2m", "warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[31m"}
_PLAIN: Final = "\x1b[0m"
_MOMENT: Final = 0.01  # seconds that a line waits for others
_BATCH: Final = 512  # lines that are handed over without waiting for others


class LogSettings(Protocol):
    """The settings of the log, as `config.Log` has them."""

    @property
    def level(self) -> str:
        """The lowest level to write."""

    @property
    def format(self) -> str:
        """auto, console or json."""


def configure(settings: LogSettings, stream: TextIO | None = None) -> None:
    """Sends all events to `stream` from now on (None: standard error). May be called again.

    Does not look at `settings.access`. The code that writes `request.done` does.
    """
    stream = stream or sys.stderr
    terminal = stream.isatty()
    console = settings.format == "console" or (settings.format == "auto" and terminal)
    _writer.open(stream)
    # In place, because loggers that are already in use hold this list.
    _processors[:] = [_Console(colours=terminal) if console else _json]
    _quick[0] = settings.level in {"debug", "info"}
    structlog.configure(
        processors=_processors,
        wrapper_class=structlog.make_filtering_bound_logger(settings.level),
        logger_factory=lambda *_: _writer,
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[_Foreign()], level=max(logging.WARNING, _LEVELS[settings.level]), force=True)


def request_done(
    *,
    request_id: str,
    method: str,
    path: str,
    status: int,
    sent: int,
    received: int,
    caller: str,
    seconds: float,
    more: Mapping[str, object] | None = None,
) -> None:
    """Writes the event of a request. The same as `log.info("request.done", ..., **more)`, but much cheaper."""
    # Unusual events take the usual, slower way.
    if _quick[0] and _processors[0] is _json and more is None and "?" not in path and "\x7f" not in path + caller:
        _writer.info(
            f'{{"timestamp":"{_timestamp()}","level":"info","event":"request.done","request_id":{_quoted(request_id)},'
            f'"method":{_quoted(method)},"path":{_quoted(path)},"status":{status},"sent":{sent},"received":{received},'
            f'"caller":{_quoted(caller)},"seconds":{seconds}}}'
        )
        return
    structlog.get_logger().info(
        "request.done",
        request_id=request_id,
        method=method,
        path=path,
        status=status,
        sent=sent,
        received=received,
        caller=caller,
        seconds=seconds,
        **(more or {}),
    )


def flush() -> None:
    """Writes all waiting lines. Gives up after a second, because nobody may read them."""
    _writer.flush()


def dropped() -> int:
    """The number of lines since the start that found no room, or could not be written."""
    return _writer.lost


def install_hooks() -> None:
    """Logs what Python would print to standard error, which may block: errors of threads and finalizers, warnings."""
    threading.excepthook = _stray
    sys.unraisablehook = _stray
    logging.captureWarnings(capture=True)


# The line


def _json(_logger: object, level: str, event: Event) -> str:
    """The event as one line of JSON."""
    if "exc_info" in event:
        event.update(_failure(event.pop("exc_info")))
    return _line(level, event.pop("event", ""), event)


def _line(level: str, name: str, event: Event) -> str:
    _without_query(event)
    line = f'{{"timestamp":"{_timestamp()}","level":"{level}","event":{_quoted(name)}'
    for key, value in event.items():
        kind = type(value)
        if kind is str:
            line += f',"{key}":{_quoted(value)}'
        elif kind is int or (kind is float and isfinite(value)):
            line += f',"{key}":{value}'
        else:
            line += f',"{key}":{_encode(value)}'
    # Only ASCII is left here, and JSON escapes all its control characters except this one.
    return (line if "\x7f" not in line else line.replace("\x7f", "\\u007f")) + "}"


class _Console:
    """The event as a line for people."""

    def __init__(self, *, colours: bool) -> None:
        self._colours = colours

    def __call__(self, _logger: object, level: str, event: Event) -> str:
        name = _printable(event.pop("event", ""))
        _without_query(event)
        if "exc_info" in event:
            event.update(_failure(event.pop("exc_info")))
        values = "  ".join(f"{key}={_printable(value)}" for key, value in event.items() if value is not None)
        line = f"{_timestamp()[11:19]}  {level:<7}  {name:<20}  {values}".rstrip()
        colour = _COLOURS.get(level) if self._colours else None
        return f"{colour}{line}{_PLAIN}" if colour else line


def _without_query(event: Event) -> None:
    path = event.get("path")
    if path is not None and "?" in path:
        event["path"] = path.partition("?")[0]


def _simple(value: object) -> object:
    """Turns a value of another type into one that JSON knows, without revealing a secret."""
    match value:
        case Secret():
            return MASK
        case BaseException():
            return type(value).__name__
        case bytes():
            return value.decode("ascii", "backslashreplace")
        case set() | frozenset():
            return sorted(value)
        case _:
            return str(value)


_encode: Final = JSONEncoder(separators=(",", ":"), default=_simple, skipkeys=True).encode


def _printable(value: object) -> str:
    text = value if isinstance(value, str) else str(value if isinstance(value, int | float) else _simple(value))
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return f'"{text}"' if " " in text or not text else text


def _timestamp() -> str:
    """The current time in UTC, with milliseconds."""
    now = int(time.time() * 1000)
    if now != _now[0]:
        # Many events share a millisecond, and most share the second of the event before.
        second, millisecond = divmod(now, 1000)
        if second != _second[0]:
            _second[:] = second, datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        _now[:] = now, f"{_second[1]}.{millisecond:03d}Z"
    text: str = _now[1]
    return text


_now: Final[list[Any]] = [0, ""]
_second: Final[list[Any]] = [0, ""]


def _failure(error: BaseException | bool | None) -> dict[str, str]:
    """Type and places of an exception, but not its text and no variables: both may contain data of a request."""
    if not isinstance(error, BaseException):
        error = sys.exception() if error else None
    if error is None:
        return {}
    return {"error": type(error).__name__, "at": _places(error.__traceback__)}


def _places(trace: TracebackType | None) -> str:
    frames = traceback.extract_tb(trace, limit=-8)
    return " < ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in reversed(frames))


# The stream


class _Writer:
    """Collects lines, and hands many of them at once to the thread that writes them."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._guard = threading.Lock()
        self._outlet: Outlet | None = None
        self._lost_before = 0

    def open(self, stream: TextIO) -> None:
        """Writes to `stream` from now on. Waiting lines still go to the previous stream."""
        self.hand_over()
        previous = self._outlet
        if previous is not None and previous.stream is stream:
            return
        self._outlet = Outlet(stream, _dropped)
        if previous is not None:
            previous.close()
            self._lost_before += previous.lost

    @property
    def lost(self) -> int:
        """Lines that could not be written since the start."""
        return self._lost_before + (self._outlet.lost if self._outlet is not None else 0)

    def info(self, line: str) -> None:
        """Adds a line. It is written soon, at the latest when the process ends."""
        lines = self._lines
        lines.append(line)
        if len(lines) == 1:
            try:
                asyncio.get_running_loop().call_later(_MOMENT, self.hand_over)
            except RuntimeError:
                self.hand_over()
        elif len(lines) >= _BATCH:
            self.hand_over()

    debug = info

    def error(self, line: str) -> None:
        """Adds a line and hands it over at once, because the process may end next."""
        self._lines.append(line)
        self.hand_over()

    warning = critical = error

    def hand_over(self) -> None:
        """Hands all lines to the thread that writes them."""
        # Other threads log too, and so does the garbage collector, in the middle of this. Whoever has the guard looks
        # for more lines after letting go of it, so nobody needs to wait for it.
        while self._lines and self._outlet is not None and self._guard.acquire(blocking=False):
            try:
                number = len(self._lines)
                lines = self._lines[:number]
                del self._lines[:number]  # no others: one may just have been added
                self._outlet.put(lines)
            finally:
                self._guard.release()

    def flush(self) -> None:
        """Hands all lines over, and waits until they are written, but not for long."""
        self.hand_over()
        if self._outlet is not None:
            self._outlet.flush()


def _dropped(lines: int) -> None:
    structlog.get_logger().warning("log.dropped", lines=lines, hint="what reads the log was too slow, or the disk full")


_writer: Final = _Writer()
_processors: Final[list[Any]] = []
_quick: Final = [False]  # whether level info is written
atexit.register(_writer.hand_over)  # the outlet waits


# Python and other libraries


def _stray(error: "threading.ExceptHookArgs | sys.UnraisableHookArgs") -> None:
    structlog.get_logger().error("library.message", logger="python", **_failure(error.exc_value))


_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class _Foreign(logging.Handler):
    """Logs records of other libraries by logger and place, without their text: it may contain data of a request."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one record as an event."""
        error = record.exc_info[1] if record.exc_info else None
        level = "error" if record.levelno >= logging.ERROR else "warning"
        place = f"{record.module}:{record.lineno} {record.funcName}"
        getattr(structlog.get_logger(), level)(
            "library.message", logger=record.name, **{"at": place, **_failure(error)}
        )
