"""`krebit-proxy` as people use it: a real process in a folder, with an environment that holds no settings."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

NOTHING: Final[Mapping[str, str]] = MappingProxyType({})
_DEADLINE: Final = 60.0  # seconds; for a slow machine, nothing is measured by it
_PROGRAM: Final = str(Path(sys.executable).with_name("krebit-proxy"))


def environment(home: Path) -> dict[str, str]:
    """An environment without settings, in which `krebit-proxy` is the one under test."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("KREBIT_PROXY_", "XDG_"))}
    for display in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        kept.pop(display, None)
    return kept | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(home),
        "COLUMNS": "100",
        "PYTHONIOENCODING": "utf-8",
    }


def write_settings(folder: Path, **settings: Any) -> Path:
    """A `config.yaml` in `folder`, with values for the three settings that every proxy needs."""
    path = folder / "config.yaml"
    needed = {"organization": "acme", "client_id": "app", "client_secret": "s3cret"}
    path.write_text(json.dumps(needed | settings))  # JSON is YAML
    path.chmod(0o600)
    return path


# A browser that tells what it got: its argument, the file that this names, and its environment. Then it opens the link.
_BROWSER: Final = f"""\
#!/bin/sh
file="${{1#file://}}"
printf %s "$*" > seen-argument
stat -c '%a %u' "$file" "$(dirname "$file")" > seen-modes
env > seen-environment
cp "$file" seen-page
exec {sys.executable} - <<'END'
import re, urllib.request
class Stay(urllib.request.HTTPRedirectHandler):
    redirect_request = lambda *_: None
link = re.search('url=(.*?)"', open("seen-page").read())[1]
try:
    urllib.request.build_opener(Stay).open(link)
except urllib.error.HTTPError as redirect:
    open("seen-status", "w").write(str(redirect.code))
END
"""


def write_browser(folder: Path) -> str:
    """A program for $BROWSER in `folder`."""
    path = folder / "browser"
    path.write_text(_BROWSER)
    path.chmod(0o700)
    return str(path)


@dataclass(frozen=True)
class Finished:
    """What came of a command: its exit status, and what it printed."""

    status: int
    out: str
    err: str


class Command:
    """A command that is running. `printed` is what was read of its output so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.printed = ""

    async def until(self, text: str) -> str:
        """Reads its output until there is `text` in it. Returns all that was printed so far."""
        assert self.process.stdout
        async with asyncio.timeout(_DEADLINE):
            while text not in self.printed:
                piece = await self.process.stdout.read(4096)
                assert piece, f"it ended without {text!r}:\n{self.printed}"
                self.printed += piece.decode()
        return self.printed

    def type(self, line: str) -> None:
        """A line on its input."""
        assert self.process.stdin
        self.process.stdin.write(f"{line}\n".encode())

    async def finished(self) -> Finished:
        """Its end. Whatever was read before is part of `out`."""
        async with asyncio.timeout(_DEADLINE):
            out, err = await self.process.communicate()
        return Finished(self.process.returncode or 0, self.printed + out.decode(), (err or b"").decode())


@asynccontextmanager
async def running(
    *arguments: str, folder: Path, merged: bool = False, variables: Mapping[str, str] = NOTHING
) -> AsyncIterator[Command]:
    """Starts a command in `folder`, with more variables. `merged`: standard error goes where standard output goes."""
    process = await asyncio.create_subprocess_exec(
        _PROGRAM,
        *arguments,
        cwd=folder,
        env=environment(folder) | dict(variables),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT if merged else asyncio.subprocess.PIPE,
    )
    try:
        yield Command(process)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
            await process.wait()


async def run(*arguments: str, folder: Path, variables: Mapping[str, str] = NOTHING) -> Finished:
    """Runs a command in `folder` to its end, with nothing on its input."""
    async with running(*arguments, folder=folder, variables=variables) as command:
        return await command.finished()


async def interrupted(command: Command) -> Finished:
    """Its end after Ctrl-C."""
    command.process.send_signal(signal.SIGINT)
    return await command.finished()
