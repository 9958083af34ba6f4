"""Runs the transcripts beside this file, each in an empty folder, and compares what is printed, byte for byte.

A line `$ command` is run by the shell with krebit-proxy on its path; below it stand its output and, if it is not 0,
its exit status as `[status]`. `<< NAME` writes the lines up to the next `<<` into a file.
"""

import subprocess
from pathlib import Path

import pytest

from tests.fakes.command import environment

TRANSCRIPTS = sorted(Path(__file__).with_name("transcripts").glob("*.txt"))


def blocks(transcript: str) -> list[tuple[str, list[str]]]:
    """The lines that begin something, each with the lines below it."""
    found: list[tuple[str, list[str]]] = []
    for line in transcript.splitlines():
        if line.startswith(("$ ", "<<", "#")):
            found.append((line, []))
        else:
            found[-1][1].append(line)
    return found


def replayed(transcript: str, folder: Path) -> str:
    """The transcript as it comes out now: files are written and commands run in the order of the lines."""
    lines = []
    for head, written in blocks(transcript):
        below = written
        if head.startswith("<< "):
            (folder / head.removeprefix("<< ")).write_text("".join(f"{line}\n" for line in written))
        elif head.startswith("$ "):
            gap = written[-1:] if written[-1:] == [""] else []
            below = outcome(head.removeprefix("$ "), folder) + gap
        lines += [head, *below]
    return "".join(f"{line}\n" for line in lines)


def outcome(command: str, folder: Path) -> list[str]:
    """What a command prints, then its exit status if it is not 0."""
    shell = subprocess.run(
        ["sh", "-c", command],
        cwd=folder,
        env=environment(folder),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    lines = shell.stdout.replace(str(folder), "$PWD").splitlines()
    return [*lines, f"[{shell.returncode}]"] if shell.returncode else lines


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_commands_print_what_the_transcript_says(path: Path, tmp_path: Path) -> None:
    transcript = path.read_text(encoding="utf-8")

    assert replayed(transcript, tmp_path) == transcript
