"""Whatever can be read of a token response is kept: the next refresh presents its refresh token."""

import io
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from aiohttp import ClientSession, CookieJar

from krebit_proxy import log
from krebit_proxy.cli.demo import free_port
from krebit_proxy.config import Log
from krebit_proxy.program import Proxy
from tests.fakes.door import ask
from tests.fakes.odd_answers import OTHER_SHAPES, UNUSABLE, USABLE
from tests.fakes.proxy import RunningProxy, StartProxy, settings_of
from tests.fakes.resource_server import ResourceServer
from tests.fakes.token_answers import token_document, whole, written
from tests.fakes.upstream import Upstream
from tests.fakes.waiting import eventually

EXPIRED = {"expires_in": -5, "lifetime": 3600}


def answers(table: dict[str, bytes]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("answer", [pytest.param(answer, id=name) for name, answer in table.items()])


async def presented(upstream: Upstream, times: int) -> list[str]:
    """The refresh tokens of the first `times` token requests."""
    await eventually(lambda: len(upstream.tokens.requests) >= times, what=f"token request {times}")
    return upstream.tokens.presented[:times]


@answers(USABLE)
async def test_a_token_response_that_is_wrong_and_readable_serves_and_the_next_refresh_presents_its_refresh_token(
    start_proxy: StartProxy, upstream: Upstream, api: ResourceServer, answer: bytes
) -> None:
    upstream.tokens.failures = [answer]
    proxy = await start_proxy(grant=EXPIRED)
    assert (await ask(proxy, "GET", "/api/invoices/1")).status == 200
    assert api.tokens_on("/api/invoices/1") == [b"token-2"]

    api.revoke([b"token-2"])
    await ask(proxy, "GET", "/api/invoices/2")
    assert await presented(upstream, 2) == ["refresh-1", "refresh-2"]


@answers(UNUSABLE | OTHER_SHAPES)
async def test_the_refresh_token_is_kept_even_where_the_access_token_is_of_no_use(
    start_proxy: StartProxy, upstream: Upstream, api: ResourceServer, answer: bytes
) -> None:
    upstream.tokens.failures = [answer]
    proxy = await start_proxy(grant=EXPIRED)
    got = await ask(proxy, "GET", "/api/invoices/1")
    if got.status == 200 and api.tokens_on("/api/invoices/1") == [b"token-2"]:  # the reader could use it
        api.revoke([b"token-2"])
        await ask(proxy, "GET", "/api/invoices/2")
    assert await presented(upstream, 2) == ["refresh-1", "refresh-2"]
    await eventually(lambda: [event for event in proxy.events() if event["level"] in {"warning", "error"}])


@answers({name: answer for name, answer in UNUSABLE.items() if name != "access token an object"})  # which can be read
async def test_the_refresh_token_is_stored_before_it_is_presented(
    start_proxy: StartProxy, upstream: Upstream, api: ResourceServer, tmp_path: Path, answer: bytes
) -> None:
    held: list[str] = []

    class Watched(list[dict[str, str]]):
        """Looks into the store at the moment of each token request."""

        def append(self, form: dict[str, str]) -> None:
            held.append(stored(tmp_path / "proxy-0"))
            super().append(form)

    upstream.tokens.requests = Watched()
    upstream.tokens.failures = [answer]
    await start_proxy(grant=EXPIRED)
    await presented(upstream, 2)
    assert "refresh-2" not in held[0]
    assert "refresh-2" in held[1]


def stored(folder: Path) -> str:
    """All that the file store of a proxy in `folder` holds now."""
    return "".join(path.read_text() for path in folder.joinpath("grant").iterdir() if path.is_file())


async def authorized(proxy: RunningProxy) -> int:
    """Goes through setup as a browser does. The status of the page that it ends on."""
    origin = f"http://localhost:{proxy.port}"
    headers = {"Accept": "text/html"}
    async with ClientSession(cookie_jar=CookieJar(unsafe=True), headers=headers) as browser:
        async with browser.get(f"{origin}/setup", allow_redirects=False) as response:
            state = parse_qs(urlsplit(response.headers["Location"]).query)["state"][0]
        callback = f"{origin}/setup/callback?{urlencode({'code': 'good-code', 'state': state})}"
        async with browser.get(callback) as response:
            assert response.url.path == ("/setup/done" if response.status == 200 else "/setup/callback")
            return response.status


@answers(USABLE)
async def test_setup_succeeds_with_a_token_response_that_is_wrong_and_readable(
    upstream: Upstream, api: ResourceServer, tmp_path: Path, answer: bytes
) -> None:
    upstream.tokens.failures = [answer]
    port = free_port(0)
    where = {"listen": (f"localhost:{port}",), "redirect_uri": f"http://localhost:{port}/setup/callback"}
    settings = settings_of(upstream.url, tmp_path, **where)
    output = io.StringIO()
    log.configure(Log(format="json"), output)
    proxy = RunningProxy(Proxy(settings), settings, output)
    await proxy.proxy.start()
    try:
        assert await authorized(proxy) == 200
        assert (await ask(proxy, "GET", "/api/invoices/1")).status == 200
        assert api.tokens_on("/api/invoices/1") == [b"token-2"]
        api.revoke([b"token-2"])
        await ask(proxy, "GET", "/api/invoices/2")
        assert (await presented(upstream, 2))[1] == "refresh-2"
    finally:
        await proxy.stop()


async def test_an_answer_without_a_refresh_token_keeps_the_old_one(
    start_proxy: StartProxy, upstream: Upstream, api: ResourceServer
) -> None:
    upstream.tokens.failures = [whole(201, written(token_document(2, refresh_token=None)), "Content-Type: text/json")]
    proxy = await start_proxy(grant=EXPIRED)
    assert (await ask(proxy, "GET", "/api/invoices/1")).status == 200
    api.revoke([b"token-2"])
    await ask(proxy, "GET", "/api/invoices/2")
    assert await presented(upstream, 2) == ["refresh-1", "refresh-1"]
