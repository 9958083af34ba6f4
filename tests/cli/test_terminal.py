"""What is printed, and where."""

import io
import os
import sys

import pytest

from krebit_proxy.cli import terminal


def test_results_and_everything_else_go_different_ways(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.say("a result")
    terminal.note("beside it")

    assert capsys.readouterr() == ("a result\n", "beside it\n")


def test_a_complaint_is_what_is_wrong_and_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.complain("it broke", hint="mend it")

    assert capsys.readouterr().err.splitlines() == ["krebit-proxy: it broke", "what to do: mend it"]


def test_problems_with_settings_are_told_one_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.complain("first", "second")

    assert capsys.readouterr().err.splitlines()[1:] == ["  first", "  second"]


def test_control_characters_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.say("a\x1b[2Jb\x9b\r\nc\u202ed")

    assert capsys.readouterr().out == "a?[2Jb??\nc?d\n"


def test_what_is_told_comes_in_order_and_without_control_characters(capfd: pytest.CaptureFixture[str]) -> None:
    terminal.tell("one\x1b")
    terminal.say("two")
    terminal.tell("three")
    terminal.note("beside it")

    assert capfd.readouterr() == ("one?\ntwo\nthree\n", "beside it\n")


@pytest.mark.skipif(sys.platform == "win32", reason="pipes of POSIX")
def test_who_tells_something_does_not_wait_for_a_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as reader, os.fdopen(writing, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        for _ in range(100):
            terminal.tell("x" * 4095)

        assert len(reader.read(100 * 4096)) == 100 * 4096


@pytest.mark.parametrize(("encoding", "mark"), [("utf-8", "\N{CHECK MARK}"), ("ascii", "ok ")])
def test_a_terminal_without_ticks_gets_words(monkeypatch: pytest.MonkeyPatch, encoding: str, mark: str) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding, write_through=True))
    terminal.tick("settings", hint="nothing")

    assert written.getvalue().decode(encoding).splitlines() == [f"{mark} settings", "    nothing"]
