"""What is printed, and how.

Results go to standard output, everything else to standard error. A complaint has two lines: what is wrong, and what to
do. There are no colours: ticks and crosses are enough, and survive a pipe. Part of a line may come from Krebit or from
a file. Control characters could take over the terminal, so they are replaced.
"""

import sys
from functools import cache
from typing import TextIO

import click

from krebit_proxy.outlet import Outlet, flush_all


def say(line: str = "") -> None:
    """Prints a line of the result."""
    flush_all()  # what was said before comes first
    click.echo(_plain(line))


def note(line: str) -> None:
    """Prints a line that is not part of the result, such as a question. Waits for a reader, but not for long."""
    flush_all()
    _outlet(sys.stderr).put([_plain(line)])
    flush_all()


def tell(line: str) -> None:
    """Prints a line of the result while servers run here. They go on, even if nobody reads it."""
    _outlet(sys.stdout).put([_plain(line)])


@cache
def _outlet(stream: TextIO) -> Outlet:
    return Outlet(stream)


def complain(*problems: str, hint: str = "") -> None:
    """Prints what is wrong, and what to do."""
    if len(problems) == 1:
        note(f"krebit-proxy: {problems[0]}")
    else:
        note("krebit-proxy: invalid settings:")
        for problem in problems:
            note(f"  {problem}")
    if hint:
        note(f"what to do: {hint}")


def tick(text: str, *, held: bool = True, hint: str = "") -> None:
    """Prints a line with a tick, or with a cross and what to do."""
    say(f"{_mark(held=held)} {text}")
    if hint:
        say(f"    {hint}")


def _mark(*, held: bool) -> str:
    marks = ("\N{CHECK MARK}", "\N{BALLOT X}")
    try:
        "".join(marks).encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        marks = ("ok ", "NOT")
    return marks[0] if held else marks[1]


def _plain(text: str) -> str:
    return "".join(char if char == "\n" or char.isprintable() else "?" for char in text)
