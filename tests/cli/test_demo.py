"""`krebit-proxy demo`."""

import asyncio
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from aiohttp import ClientSession

from krebit_proxy.sandbox.visitor import Visitor
from tests.fakes.command import interrupted, run, running

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")


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
    assert [line[0] for line in demo.out.splitlines()] == ["\N{CHECK MARK}"] * 10, demo.out


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


async def test_the_demo_passes_faults_on_but_not_to_the_walk_through(tmp_path: Path) -> None:
    flags = ("--unauthorized-path", "/api/me")
    refused = await run("demo", "--once", *flags, folder=tmp_path)
    assert refused.status == 2
    assert "--once sets its own faults" in refused.err
    async with running("demo", *flags, folder=tmp_path, merged=True) as demo:
        (url,) = re.findall(r"(http://\S+)/sandbox/faults$", await demo.until("Ctrl-C stops both"), re.MULTILINE)[:1]
        async with ClientSession() as http, http.get(f"{url}/sandbox/state") as response:
            assert (await response.json())["faults"]["unauthorized_path"] == "/api/me"
