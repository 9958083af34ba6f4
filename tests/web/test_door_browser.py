"""A hostile page in a real Chromium: it tries all that a page can, reads nothing, and nothing reaches the upstream."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from aiohttp import web

from tests.fakes.browser import Browser, Tab, chromium, needs_chromium
from tests.fakes.proxy import RunningProxy, running_proxy
from tests.fakes.upstream import Upstream, answer

pytestmark = needs_chromium

# What the upstream would give away, and fields with which many APIs would let any page read it.
GENEROUS: Final = answer(
    200,
    b"Content-Type: text/javascript",
    b"Access-Control-Allow-Origin: *",
    b"Timing-Allow-Origin: *",
    b"Cross-Origin-Resource-Policy: cross-origin",
    content=b"window.leaked = 'the accounts'",
)

# Each attack ends in what the page got to see: "" for nothing.
ATTACKS: Final = {
    "fetch": "fetch(API).then(r => r.text())",
    "fetch without a Referer": "fetch(API, {referrerPolicy: 'no-referrer'}).then(r => r.text())",
    "fetch no-cors": "fetch(API, {mode: 'no-cors'}).then(r => r.text())",
    "simple POST": "fetch(API, {method: 'POST', body: 'x=1', mode: 'no-cors'}).then(r => r.text())",
    "text/plain POST": "fetch(API, {method: 'POST', body: '{}'}).then(r => r.text())",
    "preflighted PUT": "fetch(API, {method: 'PUT', body: 'x'}).then(r => r.text())",
    "preflighted field": "fetch(API, {headers: {'X-Krebit-Proxy': '1'}}).then(r => r.text())",
    "beacon": "new Promise(done => { navigator.sendBeacon(API, 'x'); setTimeout(done, 200, '') })",
    "image": "element('img', API)",
    "script": "element('script', API).then(() => window.leaked || '')",
    "style sheet": "element('link', API)",
    "video": "element('video', API)",
    "iframe": "frame(API)",
    "iframe of the status page": "frame(PAGE)",
    "iframe of setup": "frame(PAGE + 'setup')",
    "sandboxed frame, Origin null": "sandboxed(`fetch(${JSON.stringify(API)}).then(r => r.text())`)",
    "WebSocket": "socket(API.replace('http', 'ws'))",
    "EventSource": "source(API)",
    "worker": "work(`fetch(${JSON.stringify(API)}).then(r => r.text())`)",
    "form": "form(API, 'POST')",
    "form GET": "form(API, 'GET')",
    "form text/plain": "form(API, 'POST', 'text/plain')",
    "metrics": "fetch(PAGE + 'metrics').then(r => r.text())",
    "status": "fetch(PAGE, {headers: {Accept: 'application/json'}}).then(r => r.text())",
}

TOOLS: Final = """
const after = (ms, value) => new Promise(done => setTimeout(done, ms, value));
const element = (tag, url) => Promise.race([after(3000, ''), new Promise(done => {
  const node = document.createElement(tag);
  if (tag === 'link') { node.rel = 'stylesheet'; node.href = url } else { node.src = url }
  node.onload = () => done('loaded ' + tag); node.onloadeddata = node.onload; node.onerror = () => done('');
  document.body.append(node);
})]);
const inside = frame => { try { return frame.contentDocument.body.innerText } catch { return '' } };
const frame = url => new Promise(done => {
  const node = document.createElement('iframe');
  node.onload = () => done(inside(node)); node.src = url; document.body.append(node);
});
const told = () => new Promise(done => addEventListener('message', event => done(event.data), {once: true}));
const sandboxed = code => {
  const answer = told(), node = document.createElement('iframe');
  node.sandbox = 'allow-scripts';
  node.srcdoc = `<script>${code}.catch(() => '').then(text => parent.postMessage(text, '*'))<\\/script>`;
  document.body.append(node);
  return answer;
};
const socket = url => new Promise(done => {
  const node = new WebSocket(url); node.onopen = () => done('open'); node.onerror = () => done('');
});
const source = url => new Promise(done => {
  const node = new EventSource(url);
  node.onmessage = event => done(event.data); node.onerror = () => { node.close(); done('') };
});
const work = code => new Promise(done => {
  const worker = new Worker(URL.createObjectURL(new Blob([`${code}.catch(() => '').then(text => postMessage(text))`])));
  worker.onmessage = event => done(event.data);
});
const form = (url, method, enctype) => new Promise(done => {
  const target = document.createElement('iframe'), node = document.createElement('form');
  target.name = 'target' + Math.random(); node.target = target.name;
  node.action = url; node.method = method; if (enctype) node.enctype = enctype;
  node.innerHTML = '<input name=amount value=1000>';
  document.body.append(target, node);
  target.onload = () => done(inside(target)); node.submit();
});
"""


@dataclass
class Stage:
    """A proxy, and pages of other origins in one browser."""

    browser: Browser
    proxy: RunningProxy
    port: int

    async def page(self, host: str) -> Tab:
        tab = await self.browser.tab()
        await tab.goto(f"http://{host}:{self.port}/")
        return tab

    async def attempt(self, tab: Tab, attack: str, *, host: str = "localhost") -> Any:
        """What the page got to see by one of the attacks on the proxy."""
        own = f"http://{host}:{self.proxy.port}/"
        script = f"(() => {{ const PAGE = {json.dumps(own)}, API = PAGE + 'api/accounts'; return {attack} }})()"
        async with asyncio.timeout(30):
            return await tab.run(f"Promise.resolve({script}).catch(() => '')")


async def _blank(_request: web.Request) -> web.Response:
    return web.Response(text=f"<!doctype html><body><script>{TOOLS}</script>", content_type="text/html")


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream() as upstream:
        upstream.default = GENEROUS
        yield upstream


@pytest.fixture
async def stage(upstream: Upstream, tmp_path: Path) -> AsyncIterator[Stage]:
    app = web.Application()
    app.router.add_get("/", _blank)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = int(runner.addresses[0][1])
    access = {"allowed_origins": [f"http://app.localhost:{port}"], "allowed_hosts": ["nas.example"]}
    # All names lead to this machine, as a rebound name would. nas.example is as a name of the local network: the proxy
    # answers to it, and as it is plain http, the browser leaves out Fetch metadata.
    rules = "--host-resolver-rules=MAP *.example 127.0.0.1, MAP *.localhost 127.0.0.1"
    unguarded = "--disable-features=LocalNetworkAccessChecks"  # the browser's own guard is not what is tested
    async with (
        running_proxy(upstream, tmp_path, access=access) as proxy,
        chromium(tmp_path / "profile", rules, unguarded) as browser,
    ):
        yield Stage(browser, proxy, port)
    await runner.cleanup()


async def test_a_hostile_page_reads_nothing_and_reaches_nothing(stage: Stage, upstream: Upstream) -> None:
    tab = await stage.page("evil.example")
    seen = {name: await stage.attempt(tab, attack) for name, attack in ATTACKS.items()}
    assert {name: text for name, text in seen.items() if text} == {}
    assert [(call.method, call.target) for call in upstream.calls] == []
    # The attacks did arrive, so that it was the door that stopped them.
    refused = [event for event in stage.proxy.events("request.done") if event.get("code") == "cross_site"]
    assert len(refused) >= len(ATTACKS) - 2


async def test_a_page_of_another_port_of_this_host_fares_no_better(stage: Stage, upstream: Upstream) -> None:
    tab = await stage.page("localhost")
    seen = {name: await stage.attempt(tab, attack) for name, attack in ATTACKS.items()}
    assert {name: text for name, text in seen.items() if text} == {}
    assert upstream.calls == []


async def test_it_fares_no_better_where_browsers_leave_out_fetch_metadata(stage: Stage, upstream: Upstream) -> None:
    tab = await stage.page("evil.example")
    seen = {name: await stage.attempt(tab, attack, host="nas.example") for name, attack in ATTACKS.items()}
    assert {name: text for name, text in seen.items() if text} == {}
    assert [(call.method, call.target) for call in upstream.calls] == []
    await tab.goto(f"http://nas.example:{stage.proxy.port}/api/accounts")  # while a person gets there
    assert [call.target for call in upstream.calls if b"favicon" not in call.target] == [b"/api/accounts"]
    assert not upstream.calls[0].values(b"sec-fetch-site")


async def test_a_rebound_name_gets_nothing_by_its_own_origin(stage: Stage, upstream: Upstream) -> None:
    tab = await stage.browser.tab()
    await tab.call("Page.setBypassCSP", enabled=True)  # as if the page came from before the name was rebound
    await tab.goto(f"http://evil.example:{stage.proxy.port}/")
    assert "access.allowed_hosts" in await tab.text()
    assert await stage.attempt(tab, "fetch(API).then(r => r.status)", host="evil.example") == 421
    assert upstream.calls == []


async def test_a_link_to_the_api_is_refused_and_one_to_the_status_page_is_not(stage: Stage, upstream: Upstream) -> None:
    tab = await stage.page("evil.example")
    for path, text in (("api/accounts", "another web site"), ("", "krebit-proxy")):
        await tab.run(f"location.href = 'http://localhost:{stage.proxy.port}/{path}'")
        await tab.until(f"document.body && document.body.innerText.includes({json.dumps(text)})")
        await tab.goto(f"http://evil.example:{stage.port}/")
    assert upstream.calls == []


SCRIPT: Final = b"document.documentElement.setAttribute('ran', 'yes'); fetch('/api/accounts')"
HTML: Final = b"<p>Pay!</p><script>" + SCRIPT + b"</script>"
XHTML: Final = b'<html xmlns="http://www.w3.org/1999/xhtml"><p>Pay!</p><script>' + SCRIPT + b"</script></html>"
SVG: Final = b'<svg xmlns="http://www.w3.org/2000/svg"><text>Pay!</text><script>' + SCRIPT + b"</script></svg>"
PARTS: Final = b"--b\r\nContent-Type: text/html\r\n\r\n" + HTML + b"\r\n--b\r\n"
UPLOADS: Final = [
    ([b"text/html"], HTML),
    ([b"text/plain, text/html"], HTML),
    ([b"text/plain", b"text/html"], HTML),
    ([b"application/json", b"text/html"], HTML),
    ([b"application/json;, text/html"], HTML),
    ([b"text/html;application/json"], HTML),
    ([b"*/*"], HTML),
    ([], HTML),
    ([b"multipart/x-mixed-replace; boundary=b"], PARTS),
    ([b"application/xhtml+xml"], XHTML),
    ([b"text/xml"], XHTML),
    ([b"text/xsl"], XHTML),
    ([b"application/xslt+xml"], XHTML),
    ([b"video/mp4+xml"], XHTML),
    ([b"image/svg+xml"], SVG),
    ([b"text/plain"], HTML),
    ([b"application/json"], HTML),
    ([b"application/problem+json"], HTML),
]


@pytest.mark.parametrize("host", ["localhost", "nas.example"])
async def test_what_somebody_has_uploaded_cannot_act(stage: Stage, upstream: Upstream, host: str) -> None:
    tab, acted = await stage.browser.tab(), []
    for number, (kinds, content) in enumerate(UPLOADS):
        upstream.default = answer(200, *[b"Content-Type: " + kind for kind in kinds], content=content)
        target = f"/api/files/{number}"
        opened = await tab.call("Page.navigate", url=f"http://{host}:{stage.proxy.port}{target}")
        if "errorText" in opened:  # the browser stores it as a file
            continue
        await tab.until(f"location.pathname === '{target}' && document.readyState === 'complete'")
        if await tab.run("document.documentElement.getAttribute('ran')"):
            acted.append(kinds)
    assert acted == []
    targets = {call.target for call in upstream.calls}
    assert {b"/api/files/0", b"/api/files/%d" % (len(UPLOADS) - 1)} <= targets
    assert b"/api/accounts" not in targets


async def test_a_page_of_an_allowed_origin_works(stage: Stage, upstream: Upstream) -> None:
    upstream.default = answer(200, b"X-Total: 7", content=b"the accounts")
    tab = await stage.page("app.localhost")
    assert await stage.attempt(tab, "fetch(API).then(r => r.text())") == "the accounts"
    assert await stage.attempt(tab, "fetch(API).then(r => r.headers.get('X-Total'))") == "7"
    put = "fetch(API, {method: 'PUT', body: '{}', headers: {'Content-Type': 'application/json'}})"
    assert await stage.attempt(tab, f"{put}.then(r => r.status)") == 200
    assert [call.method for call in upstream.calls] == [b"GET", b"GET", b"PUT"]
