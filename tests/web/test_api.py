"""Forwarding where both directions are busy at once, or one of them ends in the middle."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fakes.client import Client
from tests.fakes.proxy import RunningProxy, running_proxy
from tests.fakes.upstream import Call, Upstream, answer, response
from tests.fakes.waiting import DEADLINE, eventually

CHUNKED = b"Transfer-Encoding: chunked"
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
async def proxy(upstream: Upstream, tmp_path: Path) -> AsyncIterator[RunningProxy]:
    async with running_proxy(upstream, tmp_path) as proxy:
        yield proxy


@pytest.fixture
async def client(proxy: RunningProxy) -> Client:
    return await proxy.connect()


async def echo(call: Call) -> None:
    """Answers at once, then sends back each piece of content as it comes."""
    await call.send(HEAD)
    while piece := await call.receive():
        await call.send(b"%x\r\n%b\r\n" % (len(piece), piece))
    await call.send(b"0\r\n\r\n")


async def test_content_goes_on_while_an_early_success_is_relayed(client: Client, upstream: Upstream) -> None:
    upstream.script = [echo]
    await client.send(client.request("POST", "/api/x", CHUNKED))
    await client.head()
    for piece in (b"one", b"two", b"three"):
        await client.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        assert await client.chunk() == piece
    await client.send(b"0\r\n\r\n")

    assert await client.chunk() == b""
    assert upstream.calls[0].complete


async def test_malformed_content_after_an_early_success_breaks_the_response_off(
    client: Client, upstream: Upstream
) -> None:
    upstream.script = [echo]
    await client.send(client.request("POST", "/api/x", CHUNKED) + b"3\r\none\r\n")
    await client.head()
    await client.chunk()
    await client.send(b"nonsense\r\n")
    end = await client.rest()

    assert b"0\r\n\r\n" not in end.got
    assert b"HTTP/1.1" not in end.got
    await eventually(lambda: upstream.calls[0].broken)


async def test_an_early_success_that_is_complete_ends_the_upload(client: Client, upstream: Upstream) -> None:
    async def soon(call: Call) -> None:
        await call.send(response(content=b"enough"))

    upstream.script = [soon]
    await client.send(client.request("POST", "/api/x", b"Content-Length: 1000000") + b"abc")
    got = await client.response()

    assert got.content == b"enough"
    assert got.closes


async def test_a_caller_that_leaves_while_a_401_is_read_leaves_nothing_behind(
    client: Client, upstream: Upstream
) -> None:
    async def endless(call: Call) -> None:
        await call.send(b"HTTP/1.1 401 No\r\nContent-Length: 100\r\n\r\nhalf")
        await call.gone()

    upstream.script = [endless]
    await client.send(client.request("GET", "/api/x"))
    call = await upstream.called()
    client.close()

    await eventually(lambda: call.connection.closing or call.broken)
    assert len(upstream.calls) == 1


async def test_a_connection_that_was_promoted_to_a_tunnel_is_reset_when_the_upstream_breaks(
    client: Client, upstream: Upstream
) -> None:
    async def breaks(call: Call) -> None:
        await call.send(b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello")
        await asyncio.wait_for(call.connection.until(b"bye"), DEADLINE)
        call.connection.reset()

    upstream.script = [breaks]
    await client.send(client.request("GET", "/api/x", b"Connection: Upgrade", b"Upgrade: websocket"))
    await client.until(b"hello")
    await client.send(b"bye")

    assert (await client.rest()).reset


async def test_an_offer_with_content_is_an_ordinary_request(client: Client, upstream: Upstream) -> None:
    upstream.script = [answer()]
    offer = client.request("POST", "/api/x", b"Connection: Upgrade", b"Upgrade: websocket", content=b"GET /api/y")
    await client.send(offer + client.request("GET", "/api/z"))
    answers = [await client.response(), await client.response()]

    assert [got.status for got in answers] == [200, 200]
    assert [call.target for call in upstream.calls] == [b"/api/x", b"/api/z"]
    assert bytes(upstream.calls[0].content) == b"GET /api/y"
    assert b"upgrade" not in upstream.calls[0].names


async def test_each_request_is_one_event_without_its_query(client: Client, proxy: RunningProxy) -> None:
    await client.ask("POST", "/api/x?secret=1", content=b"hello")
    await client.ask("GET", "/nowhere?secret=2")
    await eventually(lambda: len(proxy.events("request.done")) == 2)
    forwarded, refused = proxy.events("request.done")

    assert (forwarded["method"], forwarded["path"], forwarded["status"]) == ("POST", "/api/x", 200)
    assert (forwarded["received"], "code" in forwarded) == (5, False)
    assert (refused["path"], refused["status"], refused["code"]) == ("/nowhere", 404, "not_forwarded")
    assert forwarded["request_id"] != refused["request_id"]
    assert "secret" not in proxy.written().replace("marker-client-secret", "")
