"""A caller that waits for 100 (Continue) before it sends its content."""

import asyncio

import pytest

from tests.fakes.client import Client
from tests.fakes.proxy import StartProxy
from tests.fakes.upstream import Call, Upstream, response
from tests.fakes.waiting import DEADLINE

EXPECT = b"Expect: 100-continue"


async def continuing(call: Call) -> None:
    """A step that accepts the head before it reads the content."""
    if call.values(b"expect"):
        await call.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    await call.read()
    await call.send(response(content=b"%d" % len(call.content)))


async def ignoring(call: Call) -> None:
    """A step that never says 100."""
    await call.read()
    await call.send(response(content=b"%d" % len(call.content)))


async def interim(client: Client) -> int:
    return (await client.head()).status


@pytest.mark.parametrize("value", [b"100-continue", b"100-Continue", b"100-CONTINUE"])
async def test_an_accepted_expectation_lets_the_content_go(client: Client, upstream: Upstream, value: bytes) -> None:
    upstream.script = [continuing]
    await client.send(client.request("POST", "/api/x", b"Expect: " + value, b"Content-Length: 5"))
    assert await interim(client) == 100
    await client.send(b"hello")
    got = await client.response()

    assert (got.status, got.content, got.interim) == (200, b"5", [])
    assert bytes(upstream.calls[0].content) == b"hello"
    await client.still_open()


@pytest.mark.parametrize("status", [403, 413, 417])
async def test_a_refused_expectation_sends_no_content(client: Client, upstream: Upstream, status: int) -> None:
    async def refuse(call: Call) -> None:
        await call.send(response(status, content=b"no", reason=b"No"))
        await call.gone()

    upstream.script = [refuse]
    await client.send(client.request("POST", "/api/x", EXPECT, b"Content-Length: 5"))
    got = await client.response()

    assert (got.status, got.content, got.interim) == (status, b"no", [])
    client.close()
    await asyncio.wait_for(upstream.calls[0].connection.ended.wait(), DEADLINE)
    assert upstream.calls[0].connection.received.endswith(b"\r\n\r\n")


async def test_an_ignored_expectation_goes_on_by_itself(client: Client, upstream: Upstream) -> None:
    upstream.script = [ignoring]
    await client.send(client.request("POST", "/api/x", EXPECT, b"Content-Length: 5"))
    assert await interim(client) == 100
    await client.send(b"hello")
    got = await client.response()

    assert (got.status, got.content) == (200, b"5")
    await client.still_open()


async def test_http_1_0_gets_no_interim_response(client: Client, upstream: Upstream) -> None:
    upstream.script = [continuing]
    await client.send(client.request("POST", "/api/x", EXPECT, content=b"hello", version="1.0"))
    got = await client.response()

    assert (got.status, got.content, got.interim) == (200, b"5", [])


@pytest.mark.parametrize("value", [b"other", b"100-continue, other", b"200-ok", b"100-continue\r\nExpect: other"])
async def test_any_other_expectation_is_a_417(client: Client, upstream: Upstream, value: bytes) -> None:
    await client.send(client.request("POST", "/api/x", b"Expect: " + value, b"Content-Length: 5"))
    got = await client.response()

    assert (got.status, got.code, got.interim) == (417, "expectation_failed", [])
    assert not upstream.calls


@pytest.mark.parametrize("step", [continuing, ignoring])
async def test_content_that_comes_with_its_expectation_arrives_once(
    client: Client, upstream: Upstream, step: object
) -> None:
    assert callable(step)
    upstream.script = [step]
    await client.send(client.request("POST", "/api/x", EXPECT, content=b"hello"))
    got = await client.response()

    assert (got.status, got.content, got.interim) == (200, b"5", [])
    await client.still_open()


async def test_an_expectation_without_content_waits_for_nothing(start_proxy: StartProxy, upstream: Upstream) -> None:
    client = await (await start_proxy()).connect()
    got = await client.ask("GET", "/api/x", EXPECT)

    # RFC 9110 10.1.1: a client must not expect so without content; one that does is not left waiting.
    assert (got.status, got.content) == (200, b"ok")
    await client.still_open()


async def test_a_refused_head_gets_no_100(client: Client, upstream: Upstream) -> None:
    await client.send(client.request("POST", "/other", EXPECT, b"Content-Length: 5"))
    got = await client.response()

    assert (got.status, got.code, got.interim) == (404, "not_forwarded", [])
    assert not upstream.opened
