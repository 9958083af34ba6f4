"""The command line as a whole: each error becomes an exit status and two lines."""

import asyncio
import errno
import os
import sys
from pathlib import Path

import click
import pytest

from krebit_proxy import cli
from krebit_proxy.errors import ProxyError, SettingsError
from tests.fakes.command import environment


def failing(error: BaseException) -> click.Command:
    @click.command
    def fail() -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "status", "printed"),
    [
        (ProxyError("It broke.", hint="Mend it."), 1, ["krebit-proxy: It broke.", "what to do: Mend it."]),
        (SettingsError(["one"], hint="see"), 2, ["krebit-proxy: one", "what to do: see"]),
        (
            OSError(errno.ENOSPC, "No space left on device", "grant"),
            1,
            ["krebit-proxy: grant: No space left on device", "what to do: free some disk space"],
        ),
        (click.ClickException("no"), 1, ["krebit-proxy: no"]),
        (KeyboardInterrupt(), 1, ["krebit-proxy: stopped"]),
    ],
    ids=["ours", "settings", "system", "click", "ctrl-c"],
)
def test_an_error_is_said_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    status: int,
    printed: list[str],
) -> None:
    monkeypatch.setattr("krebit_proxy.cli.status.status", failing(error))

    assert cli.main(["status"]) == status
    captured = capsys.readouterr()
    assert (captured.out, captured.err.strip().splitlines()) == ("", printed)


def test_a_mistake_of_ours_shows_its_traceback_to_those_who_ask_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("krebit_proxy.cli.status.status", failing(RuntimeError("marker-secret")))

    assert cli.main(["status"]) == 1
    plain = capsys.readouterr().err
    assert "internal error: RuntimeError" in plain
    assert "marker-secret" not in plain
    assert "Traceback" not in plain
    assert cli.main(["--debug", "status"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_each_command_is_there_and_says_in_one_line_what_it_is_for() -> None:
    with click.Context(cli._krebit_proxy) as context:
        for name, summary in cli.COMMANDS.items():
            command = cli._krebit_proxy.get_command(context, name)
            assert command is not None
            assert (command.help or "").startswith(summary), name


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is Linux's")
async def test_a_complaint_that_cannot_be_printed_does_not_change_the_exit_status(tmp_path: Path) -> None:
    with os.fdopen(os.open("/dev/full", os.O_WRONLY), "w") as full:
        process = await asyncio.create_subprocess_exec(
            "krebit-proxy", "status", cwd=tmp_path, env=environment(tmp_path), stderr=full
        )

        assert await process.wait() == cli.WRONG_USE


@pytest.mark.skipif(sys.platform == "win32", reason="a folder in use cannot be deleted")
@pytest.mark.parametrize(
    "command",
    [
        "run",
        "check",
        "status",
        "setup --no-browser",
        "health",
        "logout",
        "notify test",
        "key new file",
        "key rotate",
        "grant import",
        "policy suggest file",
        "run --config config.yaml",
        "sandbox --state file",
        "demo --state folder",
        "init --organization a --client-id b --redirect-uri http://localhost:8321/x --client-secret-file c",
    ],
)
def test_a_working_folder_that_is_gone_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(folder)
    folder.rmdir()

    assert cli.main(command.split()) == 1
    assert capsys.readouterr().err.splitlines()[-2:] == [
        "krebit-proxy: the working folder no longer exists",
        "what to do: change to another folder (cd)",
    ]


def test_a_working_folder_that_is_gone_is_not_blamed_for_what_lies_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()

    assert cli.main(["run", "--config", str(tmp_path / "config.yaml")]) == 2
    assert f"{tmp_path}/config.yaml: cannot be read" in capsys.readouterr().err
