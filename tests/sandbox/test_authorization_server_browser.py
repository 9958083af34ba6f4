from pathlib import Path
from urllib.parse import urlsplit

import pytest
from aiohttp import web

from krebit_proxy.sandbox import Options, Sandbox
from tests.fakes.browser import chromium, needs_chromium

pytestmark = needs_chromium


@pytest.mark.parametrize(("button", "answer"), [("Allow", "code"), ("Deny", "error")])
async def test_the_page_lets_a_real_browser_follow_every_redirect_back_to_the_app(
    tmp_path: Path, button: str, answer: str
) -> None:
    came_back: list[str] = []

    async def callback(request: web.Request) -> web.Response:
        came_back.extend(request.query)
        raise web.HTTPSeeOther("/setup/done")

    async def done(_request: web.Request) -> web.Response:
        return web.Response(text="done")

    app = web.Application()
    app.add_routes([web.get("/setup/callback", callback), web.get("/setup/done", done)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    sandbox = Sandbox(Options(redirect_uri=f"http://localhost:{runner.addresses[0][1]}/setup/callback"))
    await sandbox.start()
    query = f"response_type=code&client_id={sandbox.client_id}&state=x"
    async with chromium(tmp_path) as browser:
        tab = await browser.tab()
        await tab.goto(f"{sandbox.url}/oauth/authorize?{query}")
        await tab.click(f"button[value={button.lower()}]")
        await tab.until("location.pathname === '/setup/done'")
        assert not [message for message in tab.messages if "Content Security Policy" in message]
        assert urlsplit(await tab.url()).hostname == "localhost"
    await sandbox.stop()
    await runner.cleanup()
    assert {answer, "state"} <= set(came_back)
