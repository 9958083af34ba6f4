"""Our own pages, as aiohttp serves them: what they are told of a request, and what becomes of their responses."""

import asyncio
import json

import pytest

from tests.fakes.proxy import StartProxy
from tests.fakes.waiting import eventually

ELSEWHERE = "https://elsewhere.example/back"


@pytest.mark.parametrize("target", ["http://localhost/setup", "http://localhost/setup?key=x"])
async def test_the_log_leads_to_the_admitted_authority_and_not_to_the_host_field(
    start: StartProxy, target: str
) -> None:
    proxy = await start(redirect_uri=ELSEWHERE, grant=None)
    client = await proxy.connect()
    await client.send(b"GET %b HTTP/1.1\r\nHost: evil.example\r\nVia: x\r\n\r\n" % target.encode())
    await client.response()

    assert "evil.example" not in proxy.written()


@pytest.mark.parametrize("path", ["/", "/setup/done", "/setup/paste", "/readyz", "/nowhere"])
@pytest.mark.parametrize("accept", [b"application/json", b"text/html"])
async def test_no_page_reflects_a_host_that_was_not_admitted(start: StartProxy, path: str, accept: bytes) -> None:
    proxy = await start(redirect_uri=ELSEWHERE)
    client = await proxy.connect()
    await client.send(
        b"GET http://localhost:7%b HTTP/1.1\r\nHost: evil.example\r\nAccept: %b\r\n\r\n" % (path.encode(), accept)
    )
    got = await client.response()

    assert b"evil.example" not in got.raw + got.content
    assert "evil.example" not in proxy.written()


async def test_a_page_shows_the_authority_of_the_target(start: StartProxy) -> None:
    proxy = await start(redirect_uri=ELSEWHERE)
    client = await proxy.connect()
    await client.send(b"GET http://localhost:7/ HTTP/1.1\r\nHost: evil.example\r\nAccept: application/json\r\n\r\n")

    assert json.loads((await client.response()).content)["example"] == "curl http://localhost:7/api/"


async def test_pages_keep_the_connection_as_http_has_it(start: StartProxy) -> None:
    proxy = await start()
    client = await proxy.connect()
    kept = await client.ask("GET", "/healthz")
    await client.send(b"GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    old = await client.response()
    await client.send(client.request("GET", "/healthz", b"Connection: close"))
    last = await client.response()

    assert kept.values(b"connection") == []
    assert old.values(b"connection") == [b"keep-alive"]
    assert last.closes
    assert (await client.rest()).got == b""


@pytest.mark.parametrize(
    "field",
    [
        b"Upgrade: websocket\r\nConnection: Upgrade",
        b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings",
        b"Content-Encoding: gzip",
        b"Cookie: " + b"a=b; " * 2500,
        b"X-\xc3\xa5: 1"[:2] + b"A: \xff\xfe",
        b"\r\n".join(b"X-%d: 1" % number for number in range(300)),
    ],
)
async def test_whatever_passes_admission_reaches_its_page(start: StartProxy, field: bytes) -> None:
    proxy = await start()
    client = await proxy.connect()
    got = await client.ask("GET", "/healthz", field)

    assert got.status == 200
    await client.still_open()


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_form_arrives_whole_in_either_framing(start: StartProxy, framing: str) -> None:
    proxy = await start(redirect_uri=ELSEWHERE)
    client = await proxy.connect()
    form = b"address=x"
    if framing == "length":
        sent = client.request("POST", "/setup/paste", content=form)
    else:
        sent = client.request("POST", "/setup/paste", b"Transfer-Encoding: chunked") + b"9\r\naddress=x\r\n0\r\n\r\n"
    for byte in sent:
        await client.send(bytes([byte]))

    assert (await client.response()).code == "setup_failed"
    await client.still_open()


async def test_nothing_of_a_page_stays_behind(start: StartProxy) -> None:
    proxy = await start()
    client = await proxy.connect()
    before = len(asyncio.all_tasks())
    for _ in range(20):
        assert (await client.ask("GET", "/")).status == 200

    await eventually(lambda: len(asyncio.all_tasks()) <= before)


@pytest.mark.parametrize("name", ["User-Agent", "Content-Type", "ETag", "Max-Forwards", "Server", "Content-Range"])
async def test_a_field_that_comes_twice_keeps_nobody_from_a_page(start: StartProxy, name: str) -> None:
    proxy = await start()
    client = await proxy.connect()
    field = name.encode() + b": 1"

    assert (await client.ask("GET", "/healthz", field, field)).status == 200
    assert proxy.events() == [event for event in proxy.events() if event["level"] != "error"]


async def test_what_is_no_valid_target_ends_the_connection(start: StartProxy) -> None:
    proxy = await start()
    client = await proxy.connect()
    got = await client.ask("GET", "/api/a#b")

    assert got.code == "bad_request"
    assert got.closes
