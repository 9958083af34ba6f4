import asyncio
import re
import shlex
import shutil
import signal
import sys
from pathlib import Path

import pytest
import yaml
from aiohttp import ClientSession

from krebit_proxy.sandbox import Options, Order, Sandbox
from krebit_proxy.sandbox.visitor import Visitor
from tests.fakes.command import Command, Finished, run, running, write_settings

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")


async def interrupted(command: Command) -> Finished:
    """Its end after Ctrl-C."""
    command.process.send_signal(signal.SIGINT)
    return await command.finished()


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


async def allow(printed: str) -> int:
    """Opens the printed link and consents, as a person does in a browser. Gives the status of the last page."""
    (link,) = re.findall(r"http://localhost:\d+/setup", printed)
    async with Visitor() as visitor:
        return (await visitor.open(await visitor.consent(link)))[0]


def calls_in(printed: str) -> list[str]:
    return re.findall(r"^ +(curl .*)$", printed, re.MULTILINE)


async def test_the_demo_walks_through_all_of_it_by_itself(tmp_path: Path) -> None:
    demo = await run("demo", "--once", folder=tmp_path)

    assert demo.status == 0, demo.out
    assert [line[0] for line in demo.out.splitlines()] == ["\N{CHECK MARK}"] * 9, demo.out


async def test_a_person_can_do_what_the_demo_says_and_sees_it_told(tmp_path: Path) -> None:
    async with running("demo", folder=tmp_path, merged=True) as demo:
        printed = await demo.until("Ctrl-C stops both")
        call, _, revoke = calls_in(printed)
        assert "setup_required" in await curl(call)
        assert await allow(printed) == 200
        await demo.until("Setup is done")
        assert "Astrid" in await curl(call)
        await curl(revoke)
        assert "Astrid" in await curl(call)
        await demo.until("You revoked")
        await demo.until("401 for GET /api/me")
        await demo.until("renewed its access token")
        finished = await interrupted(demo)

    assert finished.status == 0
    assert "Traceback" not in finished.out


async def test_a_kept_state_needs_no_second_setup(tmp_path: Path) -> None:
    async with running("demo", "--state", "state", folder=tmp_path, merged=True) as demo:
        await allow(await demo.until("Ctrl-C"))
        await demo.until("Setup is done")
        assert (await interrupted(demo)).status == 0
    async with running("demo", "--state", "state", folder=tmp_path, merged=True) as again:
        await again.until("the grant is still there")
        assert "Astrid" in await curl(calls_in(await again.until("Ctrl-C"))[0])
        assert (await interrupted(again)).status == 0


async def test_the_sandbox_alone_can_be_told_how_to_behave(tmp_path: Path) -> None:
    options = ("--port", "0", "--rotation", "grace", "--token-endpoint", "error")
    async with running("sandbox", *options, folder=tmp_path, merged=True) as sandbox:
        (url,) = set(re.findall(r"http://127\.0\.0\.1:\d+", await sandbox.until("Ctrl-C stops it")))
        async with ClientSession() as http, http.get(f"{url}/sandbox/state") as response:
            state = await response.json()
        assert (await interrupted(sandbox)).status == 0

    assert (state["rotation"], state["faults"]["token_endpoint"]) == ("grace", "error")


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
        (["--unauthorized-path", "admin"], "starts with /api/"),
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


async def test_the_demo_passes_faults_on_but_not_to_the_walk_through(tmp_path: Path) -> None:
    flags = ("--unauthorized-path", "/api/me")
    refused = await run("demo", "--once", *flags, folder=tmp_path)
    assert refused.status == 2
    assert "--once orders its own faults" in refused.err
    async with running("demo", *flags, folder=tmp_path, merged=True) as demo:
        (url,) = re.findall(r"(http://\S+)/sandbox/faults$", await demo.until("Ctrl-C stops both"), re.MULTILINE)[:1]
        async with ClientSession() as http, http.get(f"{url}/sandbox/state") as response:
            assert (await response.json())["faults"]["unauthorized_path"] == "/api/me"


async def test_the_sandbox_prints_the_settings_with_which_a_proxy_finds_it(tmp_path: Path) -> None:
    async with running("sandbox", "--port", "0", folder=tmp_path, merged=True) as sandbox:
        printed = await sandbox.until("Ctrl-C stops it")
        settings = yaml.safe_load("\n".join(re.findall(r"^    .*$", printed, re.MULTILINE)))
        write_settings(tmp_path, **settings, listen="localhost:0")
        finished = await run("check", folder=tmp_path)

    assert f"connection: {settings['upstream']['url'].removeprefix('http://')} answers" in finished.out


async def test_the_sandbox_refuses_to_be_seen_by_others(tmp_path: Path) -> None:
    sandbox = await run("sandbox", "--host", "0.0.0.0", folder=tmp_path)

    assert sandbox.status == 2
    assert "this machine only" in sandbox.err
    assert "127.0.0.1" in sandbox.err


async def test_a_taken_port_is_said_in_two_lines(tmp_path: Path) -> None:
    first = Sandbox(Options())
    await first.start()
    second = await run("sandbox", "--port", first.url.rpartition(":")[2], folder=tmp_path)
    await first.stop()

    assert second.status == 1
    assert len(second.err.splitlines()) == 2
    assert "--port 0" in second.err
