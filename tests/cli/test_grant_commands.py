"""The commands around the grant, as processes, against the sandbox."""

import asyncio
import json
import re
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web

from krebit_proxy.cli.demo import free_port
from krebit_proxy.config import load
from krebit_proxy.core.grant import Intent
from krebit_proxy.sandbox import Options, Sandbox
from krebit_proxy.sandbox.visitor import Visitor
from krebit_proxy.stores import open_store
from tests.fakes.certificates import Authority
from tests.fakes.command import Command, environment, run, running, write_settings
from tests.fakes.waiting import DEADLINE

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends signals")


@pytest.fixture
async def port() -> int:
    return free_port(0)


@pytest.fixture
async def sandbox(port: int) -> AsyncIterator[Sandbox]:
    """With our redirect URI, and tokens that outlive every test."""
    stand_in = Sandbox(Options(redirect_uri=f"http://localhost:{port}/setup/callback"))
    await stand_in.start()
    yield stand_in
    await stand_in.stop()


@pytest.fixture
async def folder(sandbox: Sandbox, port: int, tmp_path: Path) -> Path:
    """A folder with settings for the sandbox."""
    write(tmp_path, sandbox, port)
    return tmp_path


def write(folder: Path, sandbox: Sandbox, port: int, **more: Any) -> None:
    of_sandbox = {
        "organization": sandbox.options.organization,
        "client_id": sandbox.client_id,
        "client_secret": sandbox.client_secret,
        "redirect_uri": sandbox.options.redirect_uri,
        "listen": f"localhost:{port}",
        "upstream": {"url": sandbox.url},
        "log": {"format": "json"},
    }
    write_settings(folder, **of_sandbox | more)


@asynccontextmanager
async def proxy(folder: Path) -> AsyncIterator[Command]:
    async with running("run", folder=folder, merged=True) as command:
        await command.until("proxy.started")
        yield command


def link_in(text: str) -> str:
    """The one line that is a link."""
    (link,) = {line.strip() for line in text.splitlines() if line.strip().startswith("http") and "?" in line}
    return link


async def set_up_by_pasting(folder: Path, *, decision: Any = "allow", first: str = "") -> Command:
    async with running("setup", "--no-browser", folder=folder) as command, Visitor() as visitor:
        link = link_in(await command.until("Address: "))
        if first:
            command.type(first)
        command.type(await visitor.consent(link, decision))
        finished = await command.finished()
        command.printed = finished.out + finished.err
        return command


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
    assert "krebit-proxy: This answer belongs to another attempt" in command.printed
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


async def test_logout_revokes_and_forgets(sandbox: Sandbox, folder: Path, port: int) -> None:
    write(folder, sandbox, port, oauth={"revoke_url": f"{sandbox.url}/oauth/revoke"})
    await set_up_by_pasting(folder)

    assert (await run("logout", folder=folder)).out == "Deleted the grant.\n"
    assert sandbox.counters["revocations"] > 0
    assert json.loads((await run("status", "--json", folder=folder)).out)["code"] == "setup_required"
    assert (await run("logout", folder=folder)).out == "There is no grant to delete.\n"


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


async def test_a_proxy_on_a_unix_socket_is_asked_there(sandbox: Sandbox, folder: Path, port: int) -> None:
    (folder / "run").mkdir(mode=0o700)
    write(folder, sandbox, port, listen=f"unix:{folder}/run/socket", redirect_uri="https://elsewhere.example/cb")
    async with proxy(folder) as command:
        assert "krebit-proxy setup --no-browser" in command.printed
        assert (await run("health", folder=folder)).status == 0
        assert "not authorized yet" in (await run("wait", "--for", "0", folder=folder)).err
        assert "setup          krebit-proxy setup --no-browser" in (await run("status", folder=folder)).out
        finished = await run("setup", folder=folder)
        assert (finished.status, finished.err.splitlines()[0]) == (
            1,
            "krebit-proxy: no browser can reach the address that the proxy listens on",
        )
        assert "does not lead to this proxy, which is fine" in (await run("check", folder=folder)).out


async def test_a_browser_is_opened_on_the_link_without_a_shell(folder: Path) -> None:
    browser = folder / "browser"
    browser.write_text('#!/bin/sh\necho "$1" > opened\n')
    browser.chmod(0o700)
    async with proxy(folder):
        finished = await run("setup", folder=folder, variables={"BROWSER": str(browser)})

    assert finished.out.splitlines()[0] == "Continue in the browser, at"
    assert (folder / "opened").read_text().strip() == link_in(finished.out)


async def test_a_proxy_that_speaks_tls_is_asked_in_tls(sandbox: Sandbox, folder: Path, port: int) -> None:
    Authority(folder).server("proxy.example")
    certificate = folder / "proxy.example.pem"
    certificate.chmod(0o600)
    uri = "https://elsewhere.example/cb"
    write(folder, sandbox, port, tls_cert_file=str(certificate), redirect_uri=uri)
    async with proxy(folder) as command:
        assert f'"open":"https://localhost:{port}/setup"' in command.printed
        assert (await run("health", folder=folder)).status == 0
        assert "not authorized yet" in (await run("wait", "--for", "0", folder=folder)).err
        assert f"setup          https://localhost:{port}/setup" in (await run("status", folder=folder)).out
        status = json.loads((await run("status", "--json", folder=folder)).out)
        assert status["example"] == f"curl https://localhost:{port}/api/"
        assert f"https://localhost:{port}/setup?key=" in (await run("setup", folder=folder)).out


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


@pytest.mark.parametrize("text", ["<h1>It works!</h1>", '{"status": "ok"}'])
async def test_another_program_on_the_port_is_not_taken_for_the_proxy(folder: Path, port: int, text: str) -> None:
    async def answer(_: web.BaseRequest) -> web.Response:
        return web.Response(text=text)

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    finished = await run("health", folder=folder)
    await runner.cleanup()

    assert finished.status == 1
    assert finished.err.splitlines() == [
        f"krebit-proxy: another program answers at localhost:{port}",
        "what to do: stop that program, or change `listen`",
    ]


async def test_what_is_said_on_the_port_does_not_take_over_the_terminal(folder: Path, port: int) -> None:
    names = ("code", "detail", "hint", "organization", "client_id", "redirect_uri")

    async def answer(_: web.BaseRequest) -> web.Response:
        document = dict.fromkeys(names, "\x1b[2J\x9b1m\x07 it")
        return web.json_response(document, headers={"Server": "krebit-proxy"})

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    finished = await run("status", folder=folder)
    await runner.cleanup()

    assert "organization   ?[2J?1m? it" in finished.out
    assert finished.out.replace("\n", "").isprintable()
