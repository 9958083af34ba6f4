"""`krebit-proxy sandbox`."""

import asyncio
import fcntl
import os
import re
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from aiohttp import ClientConnectionError, ClientSession

from krebit_proxy.cli.demo import free_port
from krebit_proxy.sandbox import Options, Order, Sandbox
from tests.fakes.command import environment, interrupted, run, running, write_settings
from tests.fakes.waiting import DEADLINE


async def test_the_sandbox_alone_can_be_told_how_to_behave(tmp_path: Path) -> None:
    options = ("--port", "0", "--rotation", "grace", "--token-endpoint", "error")
    async with running("sandbox", *options, folder=tmp_path, merged=True) as sandbox:
        (url,) = set(re.findall(r"http://127\.0\.0\.1:\d+", await sandbox.until("Ctrl-C stops it")))
        async with ClientSession() as http, http.get(f"{url}/sandbox/state") as response:
            state = await response.json()
        assert (await interrupted(sandbox)).status == 0

    assert (state["rotation"], state["faults"]["token_endpoint"]) == ("grace", "error")


async def test_the_sandbox_prints_the_settings_with_which_a_proxy_finds_it(tmp_path: Path) -> None:
    async with running("sandbox", "--port", "0", folder=tmp_path, merged=True) as sandbox:
        printed = await sandbox.until("Ctrl-C stops it")
        settings = yaml.safe_load("\n".join(re.findall(r"^    .*$", printed, re.MULTILINE)))
        write_settings(tmp_path, **settings, listen="localhost:0")
        finished = await run("check", folder=tmp_path)

    assert f"connection: {settings['upstream']['url'].removeprefix('http://')} responds" in finished.out


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="makes a pipe small")
async def test_a_sandbox_whose_lines_nobody_reads_goes_on_and_stops_in_order(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port(0)}"
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    process = await asyncio.create_subprocess_exec(
        "krebit-proxy", "sandbox", "--port", url[-5:], env=environment(tmp_path), stdout=writing
    )
    try:
        async with asyncio.timeout(2 * DEADLINE), ClientSession() as http:
            await answers(http, url, process)
            for _ in range(300):
                async with http.post(f"{url}/sandbox/faults", data={"revoke": "access"}) as response:
                    assert response.status == 200
            process.terminate()

            assert await process.wait() == 0
    finally:
        os.close(reading)
        os.close(writing)
        if process.returncode is None:
            process.kill()
            await process.wait()


async def answers(http: ClientSession, url: str, process: asyncio.subprocess.Process) -> None:
    while process.returncode is None:
        with suppress(ClientConnectionError):
            await http.get(f"{url}/sandbox/state")
            return
        await asyncio.sleep(0.01)


async def test_the_sandbox_refuses_to_be_seen_by_others(tmp_path: Path) -> None:
    sandbox = await run("sandbox", "--host", "0.0.0.0", folder=tmp_path)

    assert sandbox.status == 2
    assert "this computer only" in sandbox.err
    assert "127.0.0.1" in sandbox.err


async def test_a_taken_port_is_said_in_two_lines(tmp_path: Path) -> None:
    first = Sandbox(Options())
    await first.start()
    second = await run("sandbox", "--port", first.url.rpartition(":")[2], folder=tmp_path)
    await first.stop()

    assert second.status == 1
    assert len(second.err.splitlines()) == 2
    assert "--port 0" in second.err


async def test_every_fault_is_a_flag_of_the_sandbox(tmp_path: Path) -> None:
    wanted = {
        "replication_lag": 1.5,
        "unauthorized": 2,
        "unauthorized_path": "/api/admin/**",
        "token_endpoint": "limited",
        "times": 3,
        "retry_after": 600,
        "refusal": "BAD_REFRESH_TOKEN",
        "refusal_status": 401,
        "token_status": 201,
        "token_type": "jwt-bearer",
        "token_shape": "form",
        "refresh_lifetime": 90.0,
        "refresh_end": "fixed",
        "refresh_lifetime_name": "x_refresh_token_expires_in",
    }
    flags = [part for name, value in wanted.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    flags += ["--port", "0", "--unauthorized-for", "600"]
    async with running("sandbox", *flags, folder=tmp_path, merged=True) as sandbox:
        (url,) = set(re.findall(r"http://127\.0\.0\.1:\d+", await sandbox.until("Ctrl-C stops it")))
        async with ClientSession() as http, http.get(f"{url}/sandbox/state") as response:
            faults = (await response.json())["faults"]
    assert wanted.items() <= faults.items()
    assert 500 < faults["unauthorized_for"] <= 600
    assert set(faults) == set(Order.model_fields) - {"revoke"}


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--unauthorized-path", "admin"], "/api/"),
        (["--refusal", "sorry"], "invalid_request"),
        (["--token-status", "404"], "200<=x<=299"),
        (["--replication-lag", "nan"], "nan"),
    ],
)
async def test_a_fault_that_cannot_be_is_refused_in_plain_words(tmp_path: Path, flags: list[str], says: str) -> None:
    sandbox = await run("sandbox", "--port", "0", *flags, folder=tmp_path)
    assert sandbox.status == 2
    assert says in sandbox.err
    assert "Traceback" not in sandbox.err
