"""Setup as a person goes through it: a real browser, the sandbox's consent page, and our pages."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from krebit_proxy.core.secret import Secret
from krebit_proxy.sandbox import Options, Sandbox
from tests.fakes.browser import Browser, Tab, chromium, needs_chromium
from tests.fakes.setup_site import Site, setup_site
from tests.fakes.waiting import eventually

pytestmark = needs_chromium

ALLOW, DENY = "button[value=allow]", "button[value=deny]"


@pytest.fixture(name="browser")
async def _browser(tmp_path: Path) -> AsyncIterator[Browser]:
    async with chromium(tmp_path / "profile", "--host-resolver-rules=MAP old.example ~NOTFOUND") as browser:
        yield browser


@asynccontextmanager
async def site_with_sandbox(
    folder: Path, redirect_uri: str = "http://localhost:PORT/setup/callback"
) -> AsyncIterator[tuple[Site, Sandbox]]:
    listener = socket.create_server(("127.0.0.1", 0))
    redirect_uri = redirect_uri.replace("PORT", str(listener.getsockname()[1]))
    sandbox = Sandbox(Options(redirect_uri=redirect_uri))
    await sandbox.start()
    given = {"redirect_uri": redirect_uri, "client_id": sandbox.client_id, "organization": "sandbox"}
    secret = Secret(sandbox.client_secret)
    try:
        async with setup_site(sandbox.url, folder, listener=listener, client_secret=secret, **given) as site:
            yield site, sandbox
    finally:
        await sandbox.stop()


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
        assert site.credentials.status().ready
        assert sandbox.counters["token_requests"] == 1
        assert tab.messages == []
        assert {origin for _, _, origin in site.seen} == {""}  # nothing in it that admission could take for an attack


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

        assert "The authorization was not allowed at Krebit" in await tab.text()
        assert sandbox.counters["token_requests"] == 0

        await leave(tab, "a.go", "/oauth/authorize")
        await leave(tab, ALLOW, "/setup/done")
        assert site.credentials.status().ready


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
        await tab.until("document.body.innerText.includes('The answer has no code.')")
        await tab.fill("textarea", history["entries"][-1]["url"])
        await leave(tab, "button", "/setup/done")

        assert site.credentials.status().ready
        # What admission goes by: a page without a referrer policy that allows it would say null here.
        origins = {origin for method, _, origin in site.seen if method == "POST"}
        assert origins == {f"http://localhost:{site.port}"}


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
            await eventually(lambda: len(site.seen) >= 3, what="three requests")
            await eventually(lambda: [text for text in tab.messages if "frame-ancestors" in text])

        assert site.events("setup.started") == []
        assert len(site.events("setup.refused")) == 2


async def test_two_proxies_on_one_computer_do_not_disturb_each_other(browser: Browser, tmp_path: Path) -> None:
    async with site_with_sandbox(tmp_path / "a") as (one, _), site_with_sandbox(tmp_path / "b") as (two, _):
        tabs = {site: await browser.tab() for site in (one, two)}
        for site, tab in tabs.items():
            await tab.goto(f"http://localhost:{site.port}/setup")
        for tab in tabs.values():
            await leave(tab, ALLOW, "/setup/done")

        assert one.credentials.status().ready
        assert two.credentials.status().ready
