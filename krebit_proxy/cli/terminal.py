"""What is printed, and how.

Results go to standard output, everything else to standard error. A complaint is one line of what is wrong and one of
what to do. Nothing here is coloured: ticks and crosses say enough, and survive a pipe.
"""

import sys

import click


def say(line: str = "") -> None:
    """A line of the result."""
    click.echo(line)


def note(line: str) -> None:
    """A line beside the result, e.g. what is waited for."""
    click.echo(line, err=True)


def complain(*problems: str, hint: str = "") -> None:
    """What is wrong, and what to do."""
    if len(problems) == 1:
        note(f"krebit-proxy: {_plain(problems[0])}")
    else:
        note("krebit-proxy: these settings cannot work:")
        for problem in problems:
            note(f"  {_plain(problem)}")
    if hint:
        note(f"what to do: {_plain(hint)}")


def tick(text: str, *, held: bool = True, hint: str = "") -> None:
    """A line with a tick, or with a cross and what to do."""
    say(f"{_mark(held=held)} {_plain(text)}")
    if hint:
        say(f"    {_plain(hint)}")


def _mark(*, held: bool) -> str:
    marks = ("\N{CHECK MARK}", "\N{BALLOT X}")
    try:
        "".join(marks).encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        marks = ("ok ", "NOT")
    return marks[0] if held else marks[1]


def _plain(text: str) -> str:
    """Without control characters, which could take over the terminal; part of it may come from elsewhere."""
    return "".join(char if char == "\n" or char.isprintable() else "?" for char in text)
