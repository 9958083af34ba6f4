import asyncio
import os
import re
import shlex
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import ClientSession

from krebit_proxy.sandbox import Options, Sandbox
from krebit_proxy.sandbox.visitor import Visitor
from tests.fakes.waiting import DEADLINE

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")


class Program:
    """`krebit-proxy` with some arguments, in a process of its own; standard error goes where standard output goes."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.printed = ""

    async def until(self, pattern: str) -> re.Match[str]:
        """Reads what it prints until there is `pattern` in it."""
        assert self._process.stdout is not None
        async with asyncio.timeout(6 * DEADLINE):
            while (match := re.search(pattern, self.printed)) is None:
                line = await self._process.stdout.readline()
                assert line, f"it ended without {pattern!r}:\n{self.printed}"
                self.printed += line.decode()
        return match

    async def exit(self) -> int:
        """Reads what is left, and gives the exit status."""
        assert self._process.stdout is not None
        async with asyncio.timeout(6 * DEADLINE):
            self.printed += (await self._process.stdout.read()).decode()
            return await self._process.wait()

    async def interrupt(self) -> int:
        """Ctrl-C."""
        self._process.send_signal(signal.SIGINT)
        return await self.exit()

    def end(self) -> None:
        if self._process.returncode is None:
            self._process.kill()


Start = Callable[..., Awaitable[Program]]


@pytest.fixture
async def program(tmp_path: Path) -> AsyncIterator[Start]:
    running: list[Program] = []

    async def start(*arguments: str) -> Program:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "krebit_proxy", *arguments),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=tmp_path,
            env=os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"},
        )
        running.append(Program(process))
        return running[-1]

    yield start
    for one in running:
        one.end()
        await one.exit()


async def test_the_demo_walks_through_all_of_it_by_itself(program: Start) -> None:
    demo = await program("demo", "--once")
    assert await demo.exit() == 0, demo.printed
    marks = [line[0] for line in demo.printed.splitlines()]
    assert marks == ["\N{CHECK MARK}"] * 9, demo.printed


async def curl(line: str) -> str:
    """Runs a printed line as a person would: curl itself where it is installed."""
    if shutil.which("curl"):
        words = shlex.split(line)
        process = await asyncio.create_subprocess_exec(words[0], "-s", *words[1:], stdout=asyncio.subprocess.PIPE)
        return (await process.communicate())[0].decode()
    words = line.split()
    form = dict([words[2].split("=")]) if words[1] == "-d" else None
    async with ClientSession() as http, http.request("POST" if form else "GET", words[-1], data=form) as response:
        return await response.text()


async def test_a_person_can_do_what_the_demo_says_and_sees_it_told(program: Start) -> None:
    demo = await program("demo")
    await demo.until("Ctrl-C stops both")
    setup_link = (await demo.until(r"http://localhost:\d+/setup"))[0]
    call, _, revoke = re.findall(r"^ +(curl .*)$", demo.printed, re.MULTILINE)
    assert "setup_required" in await curl(call)
    async with Visitor() as visitor:
        assert (await visitor.open(await visitor.consent(setup_link)))[0] == 200
    await demo.until("Setup is done")
    assert "Astrid" in await curl(call)
    await curl(revoke)
    assert "Astrid" in await curl(call)
    await demo.until("You revoked")
    await demo.until("401 for GET /api/me")
    await demo.until("renewed its access token")
    assert await demo.interrupt() == 0
    assert "Traceback" not in demo.printed


async def test_a_kept_state_needs_no_second_setup(program: Start, tmp_path: Path) -> None:
    folder = str(tmp_path / "state")
    demo = await program("demo", "--state", folder)
    setup_link = (await demo.until(r"http://localhost:\d+/setup"))[0]
    await demo.until("Ctrl-C")
    async with Visitor() as visitor:
        await visitor.open(await visitor.consent(setup_link))
    await demo.until("Setup is done")
    assert await demo.interrupt() == 0
    again = await program("demo", "--state", folder)
    await again.until("the grant is still there")
    await again.until("Ctrl-C")
    assert "Astrid" in await curl(re.findall(r"^ +(curl .*)$", again.printed, re.MULTILINE)[0])
    assert await again.interrupt() == 0


async def test_the_sandbox_alone_says_where_it_is_and_how_to_use_it(program: Start) -> None:
    sandbox = await program("sandbox", "--port", "0", "--rotation", "grace", "--token-endpoint", "error")
    await sandbox.until("Ctrl-C stops it")
    url = (await sandbox.until(r"http://127\.0\.0\.1:\d+"))[0]
    async with ClientSession() as http, http.get(f"{url}/sandbox/state") as response:
        state = await response.json()
    assert (state["rotation"], state["faults"]["token_endpoint"]) == ("grace", "error")
    assert await sandbox.interrupt() == 0


async def test_the_sandbox_refuses_to_be_seen_by_others(program: Start) -> None:
    sandbox = await program("sandbox", "--host", "0.0.0.0")
    assert await sandbox.exit() == 2
    assert "this machine only" in sandbox.printed
    assert "127.0.0.1" in sandbox.printed


async def test_a_taken_port_is_said_in_two_lines(program: Start) -> None:
    first = Sandbox(Options())
    await first.start()
    second = await program("sandbox", "--port", first.url.rpartition(":")[2])
    assert await second.exit() == 1
    await first.stop()
    assert len(second.printed.splitlines()) == 2
    assert "--port 0" in second.printed
