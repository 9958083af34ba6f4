"""`krebit-proxy run`: how it starts, and what stops it."""

import asyncio
import fcntl
import json
import os
import pty
import re
import signal
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from krebit_proxy.sandbox import Sandbox
from tests.cli.site import proxy, set_up_by_pasting, write
from tests.fakes.client import Client
from tests.fakes.command import environment, run
from tests.fakes.waiting import DEADLINE

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends signals")


@contextmanager
def hangup(action: signal.Handlers) -> Iterator[None]:
    """What programs that are started here do at SIGHUP; else it depends on how the tests were started."""
    before = signal.signal(signal.SIGHUP, action)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
async def test_a_signal_stops_the_proxy(folder: Path, name: str) -> None:
    with hangup(signal.SIG_DFL):
        async with proxy(folder) as command:
            command.process.send_signal(signal.Signals[name])
            finished = await command.finished()

    assert finished.status == 0
    assert [json.loads(line)["event"] for line in finished.out.splitlines()][-2:] == ["proxy.stopping", "proxy.stopped"]


async def test_a_proxy_that_nohup_started_outlives_its_terminal(folder: Path) -> None:
    with hangup(signal.SIG_IGN):
        async with proxy(folder) as command:
            command.process.send_signal(signal.SIGHUP)
            assert (await run("health", folder=folder)).status == 0
            command.process.send_signal(signal.SIGTERM)
            assert (await command.finished()).status == 0


async def test_a_proxy_without_standard_streams_serves_and_stops_in_order(folder: Path) -> None:
    start = "exec krebit-proxy run <&- >&- 2>&-"
    process = await asyncio.create_subprocess_shell(start, cwd=folder, env=environment(folder))
    async with asyncio.timeout(DEADLINE):
        while process.returncode is None and (await run("health", folder=folder)).status:
            pass
        if process.returncode is None:
            process.terminate()

        assert await process.wait() == 0


@contextmanager
def nobody(kind: str, folder: Path) -> Iterator[int]:
    """A descriptor that takes little or nothing of what is written into it."""
    if kind == "a full disk":
        ours, theirs = [], os.open("/dev/full", os.O_WRONLY)
    elif kind == "a paused terminal":
        reading, theirs = pty.openpty()
        termios.tcflow(theirs, termios.TCOOFF)
        ours = [reading]
    elif kind == "a FIFO without a reader":
        os.mkfifo(folder / "fifo")
        ours = [os.open(folder / "fifo", os.O_RDWR)]
        theirs = os.open(folder / "fifo", os.O_WRONLY)
    else:
        reading, theirs = os.pipe()
        ours = [reading]
        fcntl.fcntl(theirs, fcntl.F_SETPIPE_SZ, 4096)
        os.set_blocking(theirs, kind != "a pipe that does not block")
        if kind == "a reader that has gone":
            os.close(ours.pop())
    try:
        yield theirs
    finally:
        for descriptor in [*ours, theirs]:
            os.close(descriptor)


async def connected(process: asyncio.subprocess.Process, port: int) -> Client:
    """A connection to a proxy that has just been started."""
    while process.returncode is None:
        with suppress(OSError):
            return await Client.connect(port)
        await asyncio.sleep(0.01)
    raise AssertionError(f"it ended with {process.returncode}")


@pytest.mark.parametrize(
    "kind",
    [
        "a pipe that nobody reads",
        pytest.param("a pipe that does not block", marks=pytest.mark.slow),
        pytest.param("a FIFO without a reader", marks=pytest.mark.slow),
        "a paused terminal",
        pytest.param("a full disk", marks=pytest.mark.slow),
        pytest.param("a reader that has gone", marks=pytest.mark.slow),
    ],
)
async def test_a_log_that_nobody_takes_stops_nothing(folder: Path, port: int, kind: str) -> None:
    long = "x" * 4000
    with nobody(kind, folder) as stream:
        process = await asyncio.create_subprocess_exec(
            "krebit-proxy", "run", cwd=folder, env=environment(folder), stdout=stream, stderr=stream
        )
        try:
            async with asyncio.timeout(2 * DEADLINE):
                client = await connected(process, port)
                for number in range(40):
                    assert (await client.ask("GET", f"/api/{number}/{long}")).status == 503
                assert (await client.ask("GET", "/healthz")).status == 200
                metrics = (await client.ask("GET", "/metrics")).content.decode()
                client.close()
                process.terminate()

                assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    lost = float(re.findall(r"^krebit_proxy_log_dropped_total (.*)$", metrics, re.MULTILINE)[0])
    assert bool(lost) == (kind in {"a full disk", "a reader that has gone"})


async def test_a_second_signal_ends_it_at_once(sandbox: Sandbox, folder: Path, port: int) -> None:
    await set_up_by_pasting(folder)
    asked = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await reader.read()
        writer.close()

    upstream = await asyncio.start_server(silent, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{upstream.sockets[0].getsockname()[1]}"
    write(folder, sandbox, port, limits={"drain": 600}, upstream={"url": url})
    async with proxy(folder) as command, upstream:
        reader, writer = await asyncio.open_connection("localhost", port)
        writer.write(b"GET /api/me HTTP/1.1\r\nHost: localhost\r\n\r\n")
        async with asyncio.timeout(DEADLINE):
            await asked.wait()
        command.process.send_signal(signal.SIGTERM)
        await command.until("proxy.stopping")
        command.process.send_signal(signal.SIGTERM)
        finished = await command.finished()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()

    assert finished.status == -signal.SIGTERM
    assert "proxy.stopped" not in finished.out


async def test_a_port_that_is_taken_is_told_in_two_lines(folder: Path, port: int) -> None:
    taken = await asyncio.start_server(lambda *_: None, "127.0.0.1", port)
    finished = await run("run", folder=folder)
    taken.close()

    assert finished.status == 1
    complaint, advice = finished.err.splitlines()[-2:]
    assert complaint.startswith("krebit-proxy: ")
    assert str(port) in complaint
    assert advice.startswith("what to do: ")
