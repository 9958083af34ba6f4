"""One line for each event, which gives nothing away."""

import asyncio
import io
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from krebit_proxy import log
from krebit_proxy.config import Log
from krebit_proxy.core.secret import Secret

MARKER = "marker-token-1f9d"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    log.configure(Log(), io.StringIO())
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def written(stream: io.StringIO) -> list[dict[str, Any]]:
    log.flush()
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def configured(**settings: Any) -> io.StringIO:
    stream = io.StringIO()
    log.configure(Log(**settings), stream)
    return stream


def test_an_event_is_one_line_of_json() -> None:
    stream = configured()
    structlog.get_logger().info(
        "request.done", method="GET", path="/api/x", status=200, seconds=0.0125, replayed=False, caller=None
    )
    [event] = written(stream)
    timestamp = event.pop("timestamp")
    assert event == {
        "level": "info",
        "event": "request.done",
        "method": "GET",
        "path": "/api/x",
        "status": 200,
        "seconds": 0.0125,
        "replayed": False,
        "caller": None,
    }
    assert len(timestamp) == len("2026-01-01T00:00:00.000Z")
    assert timestamp.endswith("Z")


def test_a_terminal_gets_lines_for_people_and_a_file_gets_json() -> None:
    terminal = Terminal()
    log.configure(Log(), terminal)
    structlog.get_logger().warning("grant.refused", reason="no luck", tries=3, next=None)
    assert '  grant.refused         reason="no luck"  tries=3' in terminal.getvalue()
    assert "next" not in terminal.getvalue()
    assert terminal.getvalue().startswith("\x1b[33m")
    stream = configured(format="console")
    structlog.get_logger().info("setup.started")
    log.flush()
    assert stream.getvalue().endswith("  info     setup.started\n")
    json_terminal = Terminal()
    log.configure(Log(format="json"), json_terminal)
    structlog.get_logger().info("setup.started")
    assert written(json_terminal)[0]["event"] == "setup.started"


@pytest.mark.parametrize("style", ["json", "console"])
def test_control_characters_are_escaped(style: str) -> None:
    stream = configured(format=style)
    nasty = "a\x1b[2Jb\r\nc\x00d\x7fe\x9b1mf\u202eg\u2028h"
    structlog.get_logger().info("x." + nasty, path=nasty, other=[nasty])
    log.flush()
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert all(character.isprintable() for character in text[:-1])
    if style == "json":
        assert written(stream)[0]["path"] == nasty


@pytest.mark.parametrize("style", ["json", "console"])
def test_nothing_secret_gets_out(style: str) -> None:
    stream = configured(format=style)
    logger = structlog.get_logger()
    logger.info("a.b", token=Secret(MARKER), path=f"/api/x?access_token={MARKER}", error=ValueError(MARKER))
    logger.info("a.c", nested={"token": Secret(MARKER)}, listed=[Secret(MARKER)], where=Path("/etc"))
    try:
        raise RuntimeError(MARKER)
    except RuntimeError:
        logger.exception("a.d")
    log.flush()
    text = stream.getvalue()
    assert MARKER not in text
    assert "?" not in text
    assert "***" in text
    assert "RuntimeError" in text
    assert "test_log.py" in text


def test_what_others_log_loses_its_text_and_keeps_its_place() -> None:
    stream = configured()
    try:
        raise ValueError(MARKER)
    except ValueError:
        logging.getLogger("aiohttp.server").exception("bad line %s", MARKER)
    logging.getLogger("asyncio").warning(MARKER)
    logging.getLogger("asyncio").info(MARKER)
    error, warning = written(stream)
    assert MARKER not in stream.getvalue()
    assert (error["level"], error["event"], error["logger"]) == ("error", "library.message", "aiohttp.server")
    assert (error["error"], warning["level"]) == ("ValueError", "warning")
    assert "test_log" in error["at"]


@pytest.mark.parametrize(
    "settings", [{}, {"format": "console"}, {"level": "warning"}], ids=["json", "console", "quiet"]
)
def test_the_quick_way_writes_the_same(settings: dict[str, str]) -> None:
    plain: dict[str, Any] = {"request_id": "a-1", "method": "GET", "path": "/api/x", "status": 200, "sent": 1,
             "received": 0, "caller": 'a "b"', "seconds": 0.25}  # fmt: skip
    odd = {**plain, "path": "/api/x?token=1", "caller": "\x1b[1m\x7f"}
    more = {"replayed": True}
    stream = configured(**settings)
    for event in (plain, odd, {**plain, "caller": "\x7f"}, {**plain, "path": "/api/?"}):
        structlog.get_logger().info("request.done", **event)
        log.request_done(**event)
    structlog.get_logger().info("request.done", **plain, **more)
    log.request_done(**plain, more=more)
    log.flush()
    lines = [line[line.find("info") :] for line in stream.getvalue().splitlines()]
    assert len(lines) == (0 if settings.get("level") else 10)
    assert lines[::2] == lines[1::2]
    with capture_logs() as events:
        log.request_done(**odd)
    assert len(events) == len(lines) / 10


def test_the_level_is_a_lower_bound() -> None:
    stream = configured(level="warning")
    logger = structlog.get_logger()
    logger.debug("a.a")
    logger.info("a.b")
    logger.warning("a.c")
    logger.error("a.d")
    assert [event["event"] for event in written(stream)] == ["a.c", "a.d"]


async def test_lines_are_written_together_once_the_loop_has_a_moment() -> None:
    stream = configured()
    logger = structlog.get_logger()
    for number in range(3):
        logger.info("a.b", number=number)
    assert stream.getvalue() == ""
    await asyncio.sleep(0)
    assert [event["number"] for event in written(stream)] == [0, 1, 2]


async def test_a_warning_is_written_at_once_and_in_order() -> None:
    stream = configured()
    structlog.get_logger().info("a.b")
    structlog.get_logger().warning("a.c")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["a.b", "a.c"]


def test_loggers_from_before_follow_a_new_destination() -> None:
    first = configured()
    logger = structlog.get_logger().bind()
    logger.info("a.b")
    second = configured()
    logger.info("a.c")
    assert [event["event"] for event in written(first)] == ["a.b"]
    assert [event["event"] for event in written(second)] == ["a.c"]


def test_a_log_that_cannot_be_written_stops_nobody() -> None:
    stream = configured()
    stream.close()
    structlog.get_logger().warning("a.b")


@pytest.mark.skipif(sys.platform == "win32", reason="pipes of POSIX")
def test_lines_that_nobody_reads_are_counted_and_told_of_once_somebody_does() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as reader, os.fdopen(writing, "w") as stream:
        log.configure(Log(format="json"), stream)
        before, number = log.dropped(), 0
        while log.dropped() == before:
            structlog.get_logger().info("a.b", number=number, text="x" * 1000)
            number += 1
        structlog.get_logger().error("finds.no_room")
        events: list[dict[str, Any]] = []
        while not events or events[-1]["event"] != "log.dropped":
            events.append(json.loads(reader.readline()))
        structlog.get_logger().info("finds.room")
        assert json.loads(reader.readline())["event"] == "finds.room"

    assert (events[-1]["level"], events[-1]["lines"]) == ("warning", 2)
    assert [event["number"] for event in events[:-1]] == list(range(number - 1))
    assert log.dropped() == before + 2


def test_lines_of_many_threads_are_written_once_each() -> None:
    stream = configured()

    def write(name: str) -> None:
        for number in range(300):
            structlog.get_logger().warning("a.b", name=name, number=number)

    threads = [threading.Thread(target=write, args=[name]) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    events = [(event["name"], event["number"]) for event in written(stream)]
    assert sorted(events) == [(name, number) for name in "abcd" for number in range(300)]


async def test_many_lines_in_one_turn_of_the_loop_do_not_pile_up() -> None:
    stream = configured()
    for _ in range(1000):
        log.request_done(
            request_id="a", method="GET", path="/", status=200, sent=0, received=0, caller="b", seconds=0.1
        )
    assert stream.getvalue().count("\n") == 512


_PRINTING_PYTHON = f"""
import threading, warnings
from krebit_proxy import log
from krebit_proxy.config import Log

class Odd:
    def __del__(self):
        raise ValueError("{MARKER}")

def fail():
    raise KeyError("{MARKER}")

log.configure(Log(format="json"))
log.install_hooks()
Odd()
thread = threading.Thread(target=fail)
thread.start()
thread.join()
warnings.warn("{MARKER}")
"""


def test_what_python_itself_would_print_goes_into_the_log_without_its_text() -> None:
    finished = subprocess.run(
        [sys.executable, "-c", _PRINTING_PYTHON], capture_output=True, text=True, timeout=60, check=True
    )
    events = [json.loads(line) for line in finished.stderr.splitlines()]
    assert MARKER not in finished.stderr
    assert [(event["event"], event["logger"]) for event in events] == [
        ("library.message", "python"),
        ("library.message", "python"),
        ("library.message", "py.warnings"),
    ]
    assert [event["error"] for event in events[:2]] == ["ValueError", "KeyError"]


def test_events_can_be_captured_whole() -> None:
    configured()
    logger = structlog.get_logger()
    logger.info("before.it")
    with capture_logs() as events:
        logger.info("a.b", number=1)
    assert events == [{"event": "a.b", "number": 1, "log_level": "info"}]


def test_a_number_that_json_does_not_know_is_still_a_line() -> None:
    stream = configured()
    structlog.get_logger().info("a.b", seconds=float("inf"), data=b"\xffx", names={"b", "a"})
    [event] = written(stream)
    assert (event["seconds"], event["data"], event["names"]) == (float("inf"), "\\xffx", ["a", "b"])
