"""What is printed, and where."""

import io
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


@pytest.mark.parametrize(("encoding", "mark"), [("utf-8", "\N{CHECK MARK}"), ("ascii", "ok ")])
def test_a_terminal_without_ticks_gets_words(monkeypatch: pytest.MonkeyPatch, encoding: str, mark: str) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding, write_through=True))
    terminal.tick("settings", hint="nothing")

    assert written.getvalue().decode(encoding).splitlines() == [f"{mark} settings", "    nothing"]
