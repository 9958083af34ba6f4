"""Setup as a person goes through it: a real browser, the sandbox's consent page, and our pages."""

import io
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web

from krebit_proxy import log
from krebit_proxy.cli.link_file import leading_to
from krebit_proxy.config import Settings
from krebit_proxy.core.secret import Secret
from krebit_proxy.core.setup_key import mint_key
from krebit_proxy.program import Proxy
from krebit_proxy.sandbox import Options, Sandbox
from tests.fakes.browser import Browser, Tab, chromium, needs_chromium
from tests.fakes.waiting import eventually

pytestmark = needs_chromium

ALLOW, DENY = "button[value=allow]", "button[value=deny]"


@pytest.fixture(name="browser")
async def _browser(tmp_path: Path) -> AsyncIterator[Browser]:
    async with chromium(tmp_path / "profile", "--host-resolver-rules=MAP old.example ~NOTFOUND") as browser:
        yield browser


@dataclass
class Site:
    """The whole proxy, as a browser sees it."""

    port: int
    output: io.StringIO

    async def is_ready(self) -> bool:
        url = f"http://127.0.0.1:{self.port}/readyz"
        async with ClientSession() as session, session.get(url) as answer:
            return answer.status == 200

    def events(self, name: str) -> list[dict[str, Any]]:
        log.flush()
        log.flush()
        events = [json.loads(line) for line in self.output.getvalue().splitlines()]
        return [event for event in events if event["event"] == name]


@asynccontextmanager
async def site_with_sandbox(
    folder: Path, redirect_uri: str = "http://localhost:PORT/setup/callback"
) -> AsyncIterator[tuple[Site, Sandbox]]:
    """The proxy, not set up, in front of the sandbox. `PORT` in the redirect URI is the proxy's."""
    listener = socket.create_server(("127.0.0.1", 0))
    port, output = listener.getsockname()[1], io.StringIO()
    redirect_uri = redirect_uri.replace("PORT", str(port))
    async with AsyncExitStack() as stack:
        stack.callback(listener.close)
        sandbox = Sandbox(Options(redirect_uri=redirect_uri))
        await sandbox.start()
        stack.push_async_callback(sandbox.stop)
        settings = Settings.model_validate(
            {
                "organization": "sandbox",
                "client_id": sandbox.client_id,
                "client_secret": Secret(sandbox.client_secret),
                "redirect_uri": redirect_uri,
                "listen": (f"fd:{listener.fileno()}",),
                "store": f"file:{folder / 'grant'}",
                "upstream": {"url": sandbox.url},
                "log": {"format": "json"},
            }
        )
        log.configure(settings.log, output)
        proxy = Proxy(settings)
        await proxy.start()
        stack.push_async_callback(proxy.stop)
        yield Site(port, output), sandbox


async def leave(tab: Tab, selector: str, part_of_url: str) -> None:
    """Clicks, and waits for the page that comes of it."""
    await tab.click(selector)
    await tab.until(f"location.href.includes('{part_of_url}') && document.readyState === 'complete'")


async def test_a_person_connects_in_two_clicks_from_whatever_name_of_this_computer(
    browser: Browser, tmp_path: Path
) -> None:
    async with site_with_sandbox(tmp_path) as (site, sandbox):
        tab = await browser.tab()
        await tab.goto(f"http://127.0.0.1:{site.port}/")
        await leave(tab, "a.go", "/oauth/authorize")
        await leave(tab, ALLOW, "/setup/done")

        assert await tab.url() == f"http://localhost:{site.port}/setup/done"
        assert "Connected to sandbox" in await tab.text()
        assert await site.is_ready()
        assert sandbox.counters["token_requests"] == 1
        assert tab.messages == []


async def test_the_private_file_of_the_command_leads_to_setup_and_its_key_then_opens_nothing(
    browser: Browser, tmp_path: Path
) -> None:
    async with site_with_sandbox(tmp_path) as (site, sandbox):
        origin = f"http://localhost:{site.port}"
        async with ClientSession() as session, session.get(f"{origin}/healthz") as answer:
            term = (await answer.json())["run"]
        key = mint_key(Secret(sandbox.client_secret), term=term, now=time.time(), nonce=b"n" * 16)
        tab = await browser.tab()
        with leading_to(f"{origin}/setup?key={key}") as page:
            await tab.goto(page.as_uri())
            await tab.until("location.href.includes('/oauth/authorize') && document.readyState === 'complete'")
        assert not page.exists()
        assert await tab.run("document.referrer") == ""
        await leave(tab, ALLOW, "/setup/done")
        assert await site.is_ready()
        async with ClientSession() as session, session.get(f"{origin}/setup?key={key}") as answer:
            assert answer.status == 410
        assert tab.messages == []


async def test_going_back_and_reloading_spends_no_second_code(browser: Browser, tmp_path: Path) -> None:
    async with site_with_sandbox(tmp_path) as (site, sandbox):
        tab = await browser.tab()
        await tab.goto(f"http://localhost:{site.port}/setup")
        await leave(tab, ALLOW, "/setup/done")
        entries = (await tab.call("Page.getNavigationHistory"))["entries"]
        await tab.call("Page.reload")
        await tab.until("document.readyState === 'complete'")

        assert not any("code=" in entry["url"] for entry in entries)
        assert "Connected" in await tab.text()
        assert sandbox.counters["token_requests"] == 1


async def test_who_does_not_allow_it_reads_why_and_can_start_again(browser: Browser, tmp_path: Path) -> None:
    async with site_with_sandbox(tmp_path) as (site, sandbox):
        tab = await browser.tab()
        await tab.goto(f"http://localhost:{site.port}/setup")
        await leave(tab, DENY, "/setup/callback")

        assert "The authorization was denied at Krebit" in await tab.text()
        assert sandbox.counters["token_requests"] == 0

        await leave(tab, "a.go", "/oauth/authorize")
        await leave(tab, ALLOW, "/setup/done")
        assert await site.is_ready()


async def test_an_address_that_leads_elsewhere_is_pasted(browser: Browser, tmp_path: Path) -> None:
    async with site_with_sandbox(tmp_path, "https://old.example/cb") as (site, _):
        tab = await browser.tab()
        await tab.goto(f"http://localhost:{site.port}/setup")
        await tab.until("document.querySelector('textarea')")
        await tab.click("a.go")
        krebit = await browser.tab_opened_by_a_page("/oauth/authorize")
        await krebit.until("document.querySelector('button')")
        await krebit.click(ALLOW)
        await krebit.until("location.protocol === 'chrome-error:'")
        history = await krebit.call("Page.getNavigationHistory")

        await tab.fill("textarea", "https://sandbox.krebit.se/")
        await tab.click("button")
        await tab.until("document.body.innerText.includes('The address has no code.')")
        await tab.fill("textarea", history["entries"][-1]["url"])
        await leave(tab, "button", "/setup/done")

        assert await site.is_ready()


@asynccontextmanager
async def page_of_another_program(content: str) -> AsyncIterator[str]:
    """The address of a page that another web server on this computer serves."""

    async def answer(_: web.BaseRequest) -> web.Response:
        return web.Response(text=content, content_type="text/html")

    runner = web.ServerRunner(web.Server(answer, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()


async def test_a_page_of_another_program_cannot_start_setup_in_a_frame_or_by_a_prefetch(
    browser: Browser, tmp_path: Path
) -> None:
    async with site_with_sandbox(tmp_path) as (site, _):
        own = f"http://localhost:{site.port}"
        hostile = f'<link rel=prefetch href="{own}/setup"><iframe src="{own}/setup"></iframe><iframe src="{own}/">'
        async with page_of_another_program(hostile) as url:
            tab = await browser.tab()
            await tab.goto(url)
            await eventually(lambda: len(site.events("request.done")) >= 3, what="three requests")

        assert site.events("setup.started") == []
        assert all(event["status"] >= 400 for event in site.events("request.done"))


async def test_two_proxies_on_one_computer_do_not_disturb_each_other(browser: Browser, tmp_path: Path) -> None:
    async with site_with_sandbox(tmp_path / "a") as (one, _), site_with_sandbox(tmp_path / "b") as (two, _):
        tabs = [await browser.tab(), await browser.tab()]
        for site, tab in zip((one, two), tabs, strict=True):
            await tab.goto(f"http://localhost:{site.port}/setup")
        for tab in tabs:
            await leave(tab, ALLOW, "/setup/done")

        assert await one.is_ready()
        assert await two.is_ready()
