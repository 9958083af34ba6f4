"""What is printed, and how.

Results go to standard output, everything else to standard error. A complaint is one line of what is wrong and one of
what to do. Nothing here is coloured: ticks and crosses say enough, and survive a pipe. Control characters, which could
take over the terminal, are not printed: part of a line may come from elsewhere.
"""

import sys

import click


def say(line: str = "") -> None:
    """A line of the result."""
    click.echo(_plain(line))


def note(line: str) -> None:
    """A line beside the result, e.g. what is waited for."""
    click.echo(_plain(line), err=True)


def complain(*problems: str, hint: str = "") -> None:
    """What is wrong, and what to do."""
    if len(problems) == 1:
        note(f"krebit-proxy: {problems[0]}")
    else:
        note("krebit-proxy: these settings cannot work:")
        for problem in problems:
            note(f"  {problem}")
    if hint:
        note(f"what to do: {hint}")


def tick(text: str, *, held: bool = True, hint: str = "") -> None:
    """A line with a tick, or with a cross and what to do."""
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
