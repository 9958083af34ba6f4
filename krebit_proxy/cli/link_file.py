"""A private file that leads a browser to a link with a key.

All users of a computer can read the arguments of its programs, for example with `ps`. So the browser does not get the
link as its argument, but the address of a file that only its user can read: a page that leads on to the link.
"""

import os
import signal
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Final, NoReturn

_PAGE: Final = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="referrer" content="no-referrer">
<meta http-equiv="refresh" content="0; url={link}">
<title>krebit-proxy setup</title>
<p><a href="{link}" rel="noreferrer">Continue to setup</a></p>
"""


@contextmanager
def leading_to(link: str) -> Iterator[Path]:
    """The file. It is removed at the end, also if a signal ends this program. Raises OSError."""
    with _ended_by_signals(), tempfile.TemporaryDirectory(prefix="krebit-proxy-setup-", dir=_parent()) as folder:
        page = Path(folder, "setup.html")
        page.touch(0o600, exist_ok=False)
        page.write_text(_PAGE.format(link=escape(link)), encoding="utf-8")
        yield page


def _parent() -> Path | None:
    """Where the browser can read a folder of ours. None: the folder for temporary files.

    A browser from a snap, such as Firefox on Ubuntu, sees the home folder without its hidden folders, and nothing else.
    """
    home, runtime = (Path(os.environ.get(name, "")) for name in ("HOME", "XDG_RUNTIME_DIR"))
    if home.is_absolute() and (home / "snap").is_dir():
        return home
    return runtime if runtime.is_absolute() and _is_ours(runtime) else None


def _is_ours(folder: Path) -> bool:
    """After `su`, the variable still names the folder of the other user."""
    try:
        found = folder.stat()
    except OSError:
        return False
    return found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP (the terminal closes) raise SystemExit meanwhile, as Ctrl-C raises KeyboardInterrupt."""

    def end(number: int, _: object) -> NoReturn:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, action in before.items():
            signal.signal(number, action)
