"""`krebit-proxy setup`, and how a proxy that runs is asked about it."""

import json
import os
import re
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html import unescape
from pathlib import Path

import pytest
from aiohttp import ClientSession

from krebit_proxy.config import load
from krebit_proxy.core.grant import Intent
from krebit_proxy.sandbox import Sandbox
from krebit_proxy.sandbox.visitor import Visitor
from krebit_proxy.stores import open_store
from tests.cli.site import link_in, proxy, set_up_by_pasting, write
from tests.fakes.command import run, running, write_browser

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends signals")


async def test_setup_without_a_browser_takes_the_address_that_the_browser_ended_on(folder: Path) -> None:
    command = await set_up_by_pasting(folder)

    assert command.process.returncode == 0
    assert "Authorized." in command.printed
    status = json.loads((await run("status", "--json", folder=folder)).out)
    assert (status["running"], status["code"], status["generation"]) == (False, None, 1)
    assert status["expires_at"] > status["obtained_at"]


async def test_a_wrong_address_is_explained_and_asked_for_again(folder: Path) -> None:
    command = await set_up_by_pasting(folder, first="http://localhost/setup/callback?code=x&state=y")

    assert command.process.returncode == 0
    assert "krebit-proxy: This response belongs to another attempt" in command.printed
    assert "what to do: paste the whole address" in command.printed


async def test_a_denied_authorization_is_told(folder: Path) -> None:
    command = await set_up_by_pasting(folder, decision="deny")

    assert command.process.returncode == 1
    assert "access_denied" in command.printed


async def test_a_code_that_is_not_accepted_is_told(sandbox: Sandbox, folder: Path, port: int) -> None:
    write(folder, sandbox, port, client_secret="another")
    command = await set_up_by_pasting(folder)

    assert command.process.returncode == 1
    assert "client secret" in command.printed


async def test_setup_does_not_begin_while_the_store_cannot_keep_its_result(
    sandbox: Sandbox, folder: Path, port: int
) -> None:
    write(folder, sandbox, port, store="file:config.yaml")
    finished = await run("setup", "--no-browser", folder=folder)

    assert finished.status == 1
    assert finished.out == ""
    assert "config.yaml" in finished.err


async def test_status_tells_who_is_at_a_refresh_or_has_broken_one_off(folder: Path) -> None:
    await set_up_by_pasting(folder)
    settings = load(folder / "config.yaml", {})
    store = open_store(settings)
    held = await store.read()
    assert held is not None
    began = datetime.now(UTC) - timedelta(seconds=170)
    await store.write(1, replace(held, intent=Intent(began.timestamp(), "abcdef01", "elsewhere/7")))
    await store.close()
    alone = json.loads((await run("status", "--json", folder=folder)).out)
    async with proxy(folder):
        served = json.loads((await run("status", "--json", folder=folder)).out)
        lines = (await run("status", folder=folder)).out.splitlines()

    for status in (alone, served):
        assert status["lock_holder"] == "elsewhere/7"
        assert status["refresh_began_at"] == began.isoformat(timespec="seconds")
    assert served["lock_held"] is False
    assert any(
        re.fullmatch(r"lock +elsewhere/7 started a refresh .*, 3 minutes ago and has not finished", line)
        for line in lines
    )


async def test_a_running_proxy_is_set_up_and_asked(folder: Path, port: int) -> None:
    async with proxy(folder) as command:
        assert f"http://localhost:{port}/setup" in command.printed
        assert f"http://localhost:{port}/setup/callback" in command.printed
        assert (await run("health", folder=folder)).status == 0
        waited = await run("wait", "--for", "0", folder=folder)
        assert (waited.status, waited.err.splitlines()[0]) == (1, "krebit-proxy: This proxy is not authorized yet.")
        assert f"setup          http://localhost:{port}/setup" in (await run("status", folder=folder)).out

        async with running("wait", folder=folder) as waiting, Visitor() as visitor:
            link = link_in((await run("setup", folder=folder)).out)
            status, address, _ = await visitor.open(await visitor.consent(link))
            assert (status, address) == (200, f"http://localhost:{port}/setup/done")
            assert (await waiting.finished()).status == 0

        lines = (await run("status", folder=folder)).out.splitlines()
        assert lines[0] == "state          ready"
        assert any(line.startswith("access token   number 1, expires ") for line in lines)
        assert json.loads((await run("status", "--json", folder=folder)).out)["ready"] is True
        checked = await run("check", folder=folder)
        assert (checked.status, "\N{BALLOT X}" in checked.out) == (0, False)
        assert "grant: present, number 1" in checked.out


async def test_a_link_opens_setup_again_once_and_not_after_a_restart(folder: Path) -> None:
    await set_up_by_pasting(folder)
    async with proxy(folder):
        link = link_in((await run("setup", folder=folder)).out)
        assert [await opened(link), await opened(link)] == [303, 410]
    async with proxy(folder):
        assert await opened(link) == 410
        assert await opened(link_in((await run("setup", folder=folder)).out)) == 303


async def opened(link: str) -> int:
    """The status that a browser gets which has not been there before."""
    async with ClientSession() as session, session.get(link, allow_redirects=False) as answer:
        return answer.status


def leads_to(page: str) -> str:
    (link,) = re.findall(r'content="0; url=(.*?)"', page)
    return unescape(link)


async def test_the_browser_gets_the_link_by_a_private_file_that_is_gone_afterwards(folder: Path) -> None:
    variables = {"BROWSER": write_browser(folder), "XDG_RUNTIME_DIR": "", "SOME_TOKEN": "leaky", "PGPASSWORD": "leaky"}
    async with proxy(folder):
        finished = await run("setup", folder=folder, variables=variables)
        link = link_in(finished.out)
        assert (folder / "seen-status").read_text() == "303"

    argument = (folder / "seen-argument").read_text()
    page, user = Path(argument.removeprefix("file://")), str(os.geteuid())
    assert finished.status == 0
    assert link.partition("?key=")[2] not in argument
    assert not page.parent.exists()
    assert (folder / "seen-modes").read_text().split() == ["600", user, "700", user]
    assert leads_to((folder / "seen-page").read_text()) == link
    assert "leaky" not in (folder / "seen-environment").read_text()
    assert f"HOME={folder}" in (folder / "seen-environment").read_text().splitlines()
    assert finished.out.splitlines()[0] == "Continue in the browser, at"


async def test_where_no_browser_can_be_opened_the_person_opens_the_link(folder: Path) -> None:
    async with proxy(folder):
        missing = await run("setup", folder=folder, variables={"BROWSER": str(folder / "missing")})
        windows = await run("setup", folder=folder, variables={"BROWSER": "true", "WSL_DISTRO_NAME": "Ubuntu"})
        for finished in (missing, windows):
            assert finished.status == 0
            assert await opened(link_in(finished.out)) == 303

    assert "No browser could be opened. Open the link yourself" in missing.err
    assert windows.out.startswith("Open this one-time link in a browser")
