"""Marked values stand for every secret; after good and bad requests, nothing that anybody can see holds one.

Seen are: the log at its most talkative, what the standard library logs, standard output and error, every byte of every
answer of ours, the pages and the metrics, and the text of every object of the program.
"""

import asyncio
import contextlib
import gc
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from krebit_proxy.core.secret import Secret
from tests.fakes.client import Client, Ended, Response
from tests.fakes.proxy import RunningProxy, running_proxy
from tests.fakes.upstream import Call, Upstream, raw, response, unauthorized
from tests.fakes.waiting import eventually

pytestmark = pytest.mark.slow

MARK = "leaky"  # every secret begins with it, and nothing else does
HOST = b"Host: localhost:8321"
JSON = b"Content-Type: application/json"


class Scene:
    """The proxy, its upstream, and everything that was seen of them."""

    def __init__(self, proxy: RunningProxy, upstream: Upstream) -> None:
        self.proxy = proxy
        self.upstream = upstream
        self.seen: list[str] = []

    async def send(self, data: bytes, method: str = "GET") -> Response | None:
        """Sends raw bytes on a connection of their own; all that comes back is seen."""
        client = await self.proxy.connect()
        got = None
        with contextlib.suppress(Ended, OSError):
            await client.send(data)
            got = await client.response(method)
            self._see(got)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                self.seen.append(repr((await client.rest()).got))
        client.close()
        return got

    async def ask(self, method: str, target: str, *fields: bytes, content: bytes = b"") -> Response:
        client = await self.proxy.connect()
        client.authority = b"localhost:8321"
        got = await client.ask(method, target, *fields, content=content)
        client.close()
        self._see(got)
        return got

    def _see(self, got: Response) -> None:
        self.seen.append(got.raw.decode("latin-1"))
        self.seen.append(got.content.decode("latin-1"))

    async def look_at_pages(self) -> None:
        """What is shown to people and to monitoring."""
        for path in ("/", "/healthz", "/readyz", "/metrics", "/setup/done", "/setup/paste", "/nowhere"):
            for accept in (b"Accept: text/html", b"Accept: application/json"):
                await self.ask("GET", path, accept)


def texts_of_objects() -> Iterator[str]:
    """`repr` of every object of the program, as a debugger or an error report would show it."""
    gc.unfreeze()
    for thing in gc.get_objects():
        if str(type(thing).__module__).startswith("krebit_proxy"):
            yield repr(thing)


@pytest.fixture(params=["json", "console"])
async def scene(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> AsyncIterator[Scene]:
    caplog.set_level(logging.DEBUG)
    grant = {"token": "leaky-access-1", "refresh_token": "leaky-refresh-1"}
    limits = {"header_timeout": 0.3, "body_timeout": 0.3}
    log = {"level": "debug", "format": request.param}
    async with (
        Upstream() as upstream,
        running_proxy(
            upstream,
            tmp_path,
            grant=grant,
            limits=limits,
            log=log,
            client_secret=Secret("leaky-client-secret"),
            upstream={"connect_timeout": 0.3, "response_timeout": 0.3},
        ) as proxy,
    ):
        upstream.tokens.names = ("leaky-access", "leaky-refresh")
        scene = Scene(proxy, upstream)
        yield scene
        await scene.look_at_pages()
        scene.seen += texts_of_objects()
    out, err = capfd.readouterr()
    scene.seen += [proxy.written(), caplog.text, out, err]
    assert proxy.written(), "nothing was logged, so nothing is proven"
    for text in scene.seen:
        assert MARK not in text, text[max(0, text.index(MARK) - 200) :][:400]


async def test_nothing_leaks_from_good_requests(scene: Scene) -> None:
    fields = (b"Authorization: Bearer leaky", b"Cookie: a=leaky", b"X-Api-Key: leaky", b"X: leaky")
    for method in ("GET", "POST", "DELETE"):
        got = await scene.ask(method, "/api/x?q=leaky", *fields, content=b"leaky" if method == "POST" else b"")
        assert got.status == 200
    assert {call.token for call in scene.upstream.calls} == {b"leaky-access-1"}


async def test_nothing_leaks_from_a_replay(scene: Scene) -> None:
    scene.upstream.script = [unauthorized]
    assert (await scene.ask("POST", "/api/x?q=leaky", content=b"leaky")).status == 200
    assert scene.upstream.calls[-1].token == b"leaky-access-2"


@pytest.mark.parametrize(
    "data",
    [
        b"leaky\r\n\r\n",
        b"GET /api/x?q=leaky HTTP/9.9\r\nHost: localhost\r\n\r\n",
        b"GET /api/x?q=leaky HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer leaky\x01\r\n\r\n",
        b"GET /api/x?q=leaky HTTP/1.1\r\nHost: localhost\r\nAuthorization : Bearer leaky\r\n\r\n",
        b"GET /api/x?q=leaky HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        b"GET /api/x?q=leaky HTTP/1.1\r\nHost: localhost\r\nOrigin: https://leaky.example\r\n\r\n",
        b"GET /api/x?q=leaky HTTP/1.1\r\nHost: localhost\r\nX: " + b"leaky" * 5000 + b"\r\n\r\n",
        b"GET /api/x?q=" + b"leaky" * 5000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /api/../x?q=leaky HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /other?q=leaky HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET http://leaky:leaky@localhost/api/x?q=leaky HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"TRACE /api/x?q=leaky HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer leaky\r\n\r\n",
        b"POST /api/x?q=leaky HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nleaky\r\n",
        b"POST /api/x?q=leaky HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: leaky\r\n\r\n",
        b"POST /api/x?q=leaky HTTP/1.1\r\nHost: localhost\r\nContent-Length: leaky\r\n\r\n",
        b"POST /api/x?q=leaky HTTP/1.1\r\nHost: localhost\r\nExpect: leaky\r\nContent-Length: 1\r\n\r\n",
        b"POST /api/x?q=leaky HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nleaky",
        b"GET /api/x?q=leaky HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer leaky",
    ],
    ids=range(18),
)
async def test_nothing_leaks_from_bad_requests(scene: Scene, data: bytes) -> None:
    got = await scene.send(data)
    assert got is None or 400 <= got.status < 600


async def silent(call: Call) -> None:
    await call.gone()


@pytest.mark.parametrize(
    "step",
    [
        raw(close=True),
        raw(reset=True),
        raw(b"leaky\r\n\r\n", close=True),
        raw(b"HTTP/1.1 200 OK\r\nX-Leaky: leaky\x01\r\n\r\n", close=True),
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: leaky\r\n\r\n", close=True),
        raw(b"HTTP/1.1 leaky OK\r\n\r\n", close=True),
        silent,
    ],
    ids=["closes", "resets", "garbage", "field", "length", "status", "silent"],
)
async def test_nothing_leaks_when_the_upstream_fails(scene: Scene, step: Callable[[Call], Awaitable[None]]) -> None:
    scene.upstream.default = step
    got = await scene.ask("GET", "/api/x?q=leaky", b"X: leaky")

    assert got.status in {502, 504}


async def test_nothing_leaks_when_the_upstream_is_not_there(scene: Scene) -> None:
    await scene.upstream.shut()

    assert (await scene.ask("GET", "/api/x?q=leaky", b"X: leaky")).status == 502


# What a token endpoint may say when it fails; some repeat what they were sent.
REFRESH, CODE = b"leaky-refresh-1", b"leaky-authcode1"  # of one length
ECHO = REFRESH + b" leaky-client-secret"
TOKEN_FAILURES = {
    "invalid_grant": response(400, JSON, content=b'{"error":"invalid_grant"}'),
    "invalid_grant_echo": response(
        400, JSON, content=b'{"error":"invalid_grant","error_description":"no such token: %s"}' % ECHO
    ),
    "invalid_client": response(401, JSON, content=b'{"error":"invalid_client","error_description":"%s"}' % ECHO),
    "unavailable": response(503, b"Retry-After: 1", content=ECHO),
    "page": response(200, b"Content-Type: text/html", content=b"<p>" + ECHO),
    "list": response(200, JSON, content=b'["%s"]' % ECHO),
    "challenge": response(403, b"Content-Type: text/html", content=b"<title>%s</title>" % ECHO),
    "rotated": response(
        200, JSON, content=b'{"access_token":"leaky 9","refresh_token":"leaky-refresh-1","x":"%s"}' % ECHO
    ),
    "bad_token": response(200, JSON, content=b'{"access_token":"leaky\\r\\nX: y","token_type":"Bearer"}'),
    "cut": b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + ECHO,
    "redirect": response(307, b"Location: https://leaky.example/?" + ECHO.replace(b" ", b"&")),
    "garbage": ECHO + b"\r\n\r\n",
}


@pytest.mark.parametrize("scene", ["json"], indirect=True)
@pytest.mark.parametrize("failure", TOKEN_FAILURES.values(), ids=TOKEN_FAILURES)
async def test_nothing_leaks_when_a_refresh_fails(scene: Scene, failure: bytes) -> None:
    scene.upstream.script = [unauthorized]
    scene.upstream.tokens.failures = [failure] * 3
    scene.upstream.tokens.ends = True
    got = await scene.ask("GET", "/api/x?q=leaky")

    assert got.status == 503
    assert scene.upstream.tokens.requests[0]["refresh_token"] == "leaky-refresh-1"


async def authorized_by_browser(scene: Scene) -> tuple[str, bytes]:
    """Makes setup needed, starts it; returns the state and the cookie line."""
    scene.upstream.script = [unauthorized]
    scene.upstream.tokens.failures = [TOKEN_FAILURES["invalid_grant"]]
    await scene.ask("GET", "/api/x")
    started = await scene.ask("GET", "/setup")
    assert started.status == 303, started
    (location,) = started.values(b"location")
    (state,) = parse_qs(urlsplit(location.decode()).query)["state"]
    cookies = [value.partition(b";")[0] for value in started.values(b"set-cookie")]
    return state, b"Cookie: " + b"; ".join(cookies)


async def test_nothing_leaks_from_setup(scene: Scene) -> None:
    state, cookie = await authorized_by_browser(scene)
    got = await scene.ask("GET", f"/setup/callback?code=leaky-authcode1&state={state}", cookie)

    assert (got.status, got.values(b"location")) == (303, [b"/setup/done"])
    assert scene.upstream.tokens.requests[-1]["code"] == "leaky-authcode1"
    assert scene.upstream.tokens.requests[-1]["client_secret"] == "leaky-client-secret"
    assert (await scene.ask("GET", "/api/x")).status == 200


@pytest.mark.parametrize("failure", TOKEN_FAILURES.values(), ids=TOKEN_FAILURES)
async def test_nothing_leaks_when_setup_fails(scene: Scene, failure: bytes) -> None:
    state, cookie = await authorized_by_browser(scene)
    scene.upstream.tokens.failures = [failure.replace(REFRESH, CODE)] * 3
    scene.upstream.tokens.ends = True
    got = await scene.ask("GET", f"/setup/callback?code=leaky-authcode1&state={state}", cookie, b"Accept: text/html")

    assert got.status >= 400


@pytest.mark.parametrize(
    "query",
    [
        "code=leaky-authcode1&state=leaky-state",
        "code=leaky-authcode1",
        "code=leaky-authcode1&code=leaky-authcode1&state=leaky-state",
        "error=access_denied&error_description=no&code=leaky-authcode1&state=leaky-state",
        "code=leaky-authcode1&state=leaky-state&iss=leaky&%ff",
    ],
)
async def test_nothing_leaks_from_answers_that_nobody_asked_for(scene: Scene, query: str) -> None:
    _, cookie = await authorized_by_browser(scene)
    for accept in (b"Accept: text/html", b"Accept: application/json"):
        got = await scene.ask("GET", f"/setup/callback?{query}", cookie, accept)
        assert got.status == 400
        form = f"address=http%3A%2F%2Flocalhost%3A8321%2Fsetup%2Fcallback%3F{query.replace('&', '%26')}".encode()
        await scene.ask(
            "POST", "/setup/paste", cookie, accept, b"Content-Type: application/x-www-form-urlencoded", content=form
        )


async def test_nothing_leaks_when_a_caller_leaves_during_a_refresh(scene: Scene) -> None:
    scene.upstream.script = [unauthorized]
    scene.upstream.tokens.open.clear()
    client: Client = await scene.proxy.connect()
    await client.send(client.request("POST", "/api/x?q=leaky", content=b"leaky"))
    await eventually(lambda: scene.upstream.tokens.requests)
    client.reset()
    scene.upstream.tokens.open.set()
    assert (await scene.ask("GET", "/api/y?q=leaky")).status == 200
