"""No web page, and nobody by another name, drives the sandbox; tools and people's browsers do."""

from pathlib import Path

import pytest
from aiohttp import ClientSession

from tests.fakes.browser import Tab, chromium, needs_chromium
from tests.sandbox.app import App
from tests.sandbox.conftest import StartSandbox

CROSS_SITE = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "empty"}
LINK = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"Host": "evil.example"}, 421),
        ({"Host": "evil.example:8322"}, 421),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://localhost:3000"}, 403),
        (CROSS_SITE, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Referer": "http://evil.example/page"}, 403),
        ({"Referer": "http://localhost:3000/"}, 403),
        (LINK, 403),  # a form of another site, in a tab of its own
    ],
)
@pytest.mark.parametrize("path", ["/sandbox/faults", "/oauth/authorize", "/api/oauth/token"])
async def test_a_page_of_another_site_changes_nothing(
    start: StartSandbox, http: ClientSession, fields: dict[str, str], status: int, path: str
) -> None:
    sandbox = await start()
    async with http.post(f"{sandbox.url}{path}", data={"latency": "9"}, headers=fields) as response:
        assert response.status == status
        assert sandbox.url in await response.text()
    assert sandbox.faults.latency == 0
    assert sandbox.counters == {"refused_at_the_door": 1}


async def test_a_page_of_another_site_reads_nothing(start: StartSandbox, http: ClientSession) -> None:
    app = App(await start(), http)
    tokens = await app.authorized()
    for path in ("/sandbox/state", "/developer/my-apps", "/api/me"):
        headers = {"Authorization": f"Bearer {tokens['access_token']}", "Origin": "https://evil.example"}
        async with http.get(f"{app.sandbox.url}{path}", headers=headers) as response:
            assert response.status == 403
            assert "Access-Control-Allow-Origin" not in response.headers


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"Host": "evil.example"}, 421),
        ({"Referer": "http://evil.example/"}, 403),
        ({"Origin": "http://evil.example", "Connection": "Upgrade", "Upgrade": "websocket"}, 403),
        ({"Service-Worker": "script", "Sec-Fetch-Site": "same-origin"}, 403),
    ],
)
@pytest.mark.parametrize(
    "path", ["/", "/developer/my-apps", "/sandbox/state", "/sandbox/faults", "/oauth/authorize", "/api/me", "/nowhere"]
)
async def test_no_route_answers_a_rebound_name_or_a_page_of_another_site(
    start: StartSandbox, http: ClientSession, path: str, fields: dict[str, str], status: int
) -> None:
    sandbox = await start()
    async with http.get(f"{sandbox.url}{path}", headers=fields, allow_redirects=False) as response:
        assert response.status == status
        assert "localhost" not in (await response.text()).replace(sandbox.url, "")
    assert sandbox.counters == {"refused_at_the_door": 1}


@pytest.mark.parametrize("path", ["/sandbox/faults", "/oauth/authorize", "/api/me"])
async def test_a_preflight_allows_nobody_anything(start: StartSandbox, http: ClientSession, path: str) -> None:
    asks = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    async with http.options(f"{(await start()).url}{path}", headers=asks) as response:
        assert response.status == 403
        assert not [name for name in response.headers if name.lower().startswith("access-control-")]


async def test_a_link_leads_to_the_consent_page_and_its_own_form_is_taken(
    start: StartSandbox, http: ClientSession
) -> None:
    app = App(await start(), http)
    async with http.get(app.authorize_url(), headers=LINK) as response:
        assert response.status == 200
        ticket = (await response.text()).split('name="ticket" value="')[1].split('"')[0]
    own = {"Origin": app.sandbox.url, "Sec-Fetch-Site": "same-origin"}
    url, form = f"{app.sandbox.url}/oauth/authorize", {"ticket": ticket, "decision": "allow"}
    async with http.post(url, data=form, headers=own, allow_redirects=False) as response:
        assert response.status == 303


async def test_it_answers_to_every_name_of_this_machine(start: StartSandbox, http: ClientSession) -> None:
    sandbox = await start()
    for host in ("localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:8322", "krebit.localhost"):
        async with http.get(f"{sandbox.url}/sandbox/state", headers={"Host": host}) as response:
            assert response.status == 200


async def send(tab: Tab) -> None:
    """Sends the form, and waits for the page that answers."""
    await tab.run("window.before = true")
    await tab.click("button.yes")
    await tab.until("!window.before && document.readyState === 'complete'")


@needs_chromium[0]
@needs_chromium[1]
async def test_a_real_browser_orders_faults_on_the_page_and_cannot_from_another_origin(
    start: StartSandbox, tmp_path: Path
) -> None:
    sandbox, elsewhere = await start(), await start()
    async with chromium(tmp_path) as browser:
        tab = await browser.tab()
        await tab.goto(f"{sandbox.url}/sandbox/faults")
        await tab.fill("#replication_lag", "1.5")
        await tab.fill("#unauthorized_path", "/api/me")
        await send(tab)
        assert await tab.run("document.querySelector('#replication_lag').value") == "1.5"
        await tab.fill("#unauthorized_path", "me")
        await send(tab)
        assert "unauthorized_path" in await tab.run("document.querySelector('[role=alert]').innerText")
        assert not [message for message in tab.messages if "Content Security Policy" in message]

        await tab.goto(f"{elsewhere.url}/")
        request = f"fetch('{sandbox.url}/sandbox/faults', {{method: 'POST', mode: 'no-cors', body: 'latency=9'}})"
        await tab.run(f"{request}.catch(() => 0)")
    faults = sandbox.faults
    assert (faults.replication_lag, faults.unauthorized_path, faults.latency) == (1.5, "/api/me", 0)
