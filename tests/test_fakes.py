"""The raw client and the scripted upstream speak to each other: what they show of a proxy can be believed."""

import asyncio
import ssl
from pathlib import Path

import pytest

from tests.fakes.certificates import Authority
from tests.fakes.client import Client, Ended
from tests.fakes.messages import read_requests
from tests.fakes.upstream import Call, Upstream, answer, raw, response
from tests.fakes.waiting import DEADLINE


async def test_a_request_and_its_answer_arrive_byte_for_byte() -> None:
    async with Upstream() as upstream:
        upstream.script = [raw(b"HTTP/1.1 201 Yes\r\nX: caf\xe9\r\nContent-Length: 3\r\n\r\nabc")]
        client = await Client.connect(upstream.port)
        got = await client.ask("POST", "/api/%7E?", b"X-A: 1", content=b"hello")
        client.close()
    call = upstream.calls[0]

    assert (got.status, got.reason, got.values(b"x"), got.content) == (201, b"Yes", [b"caf\xe9"], b"abc")
    assert call.head.raw + call.content == bytes(call.connection.received)
    assert (call.target, bytes(call.content), call.complete) == (b"/api/%7E?", b"hello", True)


async def test_chunked_content_is_read_both_ways_and_the_connection_stays_usable() -> None:
    async with Upstream() as upstream:
        upstream.script = [raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n")]
        client = await Client.connect(upstream.port)
        await client.send(b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\n\r\n")
        first, second = await client.response(), await client.ask("HEAD", "/b")
        client.close()

    assert (first.content, first.framing, second.status, second.framing) == (b"abc", "chunked", 200, "none")
    assert bytes(upstream.calls[0].content) == b"abc"
    assert len(upstream.connections) == 1


@pytest.mark.parametrize("reset", [False, True])
async def test_the_client_tells_a_reset_from_an_end(reset: bool) -> None:
    async with Upstream() as upstream:
        upstream.script = [raw(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab", close=not reset, reset=reset)]
        client = await Client.connect(upstream.port)
        with pytest.raises(Ended) as ended:
            await client.ask("GET", "/")
        client.close()

    assert ended.value.reset is reset


async def test_the_upstream_tells_when_the_other_side_is_gone() -> None:
    seen: list[str] = []

    async def wait(call: Call) -> None:
        await call.gone()
        seen.append("reset" if call.connection.reset_by_peer else "end")

    async with Upstream() as upstream:
        upstream.default = wait
        for leave in (Client.close, Client.reset):
            client = await Client.connect(upstream.port)
            await client.send(client.request("GET", "/"))
            call = await upstream.called(len(seen) + 1)
            leave(client)
            await asyncio.wait_for(call.connection.ended.wait(), DEADLINE)

    assert seen == ["end", "reset"]


async def test_what_is_not_valid_is_a_fault() -> None:
    upstream = Upstream()
    await upstream.__aenter__()
    client = await Client.connect(upstream.port)
    await client.send(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
    await client.closed()
    client.close()

    with pytest.raises(AssertionError, match="Host"):
        await upstream.stop()


async def test_the_token_endpoint_is_answered_apart() -> None:
    async with Upstream() as upstream:
        upstream.script = [answer(418)]
        client = await Client.connect(upstream.port)
        token = await client.ask("POST", "/api/oauth/token", content=b"grant_type=refresh_token&refresh_token=a")
        api = await client.ask("GET", "/api/x")
        client.close()

    assert b'"token-2"' in token.content
    assert (api.status, len(upstream.calls)) == (418, 1)
    assert upstream.tokens.requests == [{"grant_type": "refresh_token", "refresh_token": "a"}]


async def test_the_upstream_serves_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with Upstream(authority.server("127.0.0.1")) as upstream:
        trusting = ssl.create_default_context(cafile=str(authority.ca_file))
        reader, writer = await asyncio.open_connection("127.0.0.1", upstream.port, ssl=trusting)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert await reader.readexactly(len(response())) == response()
        writer.close()
        await writer.wait_closed()


def test_pipelined_bytes_are_read_by_the_letter() -> None:
    first = b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nT: v\r\n\r\n"
    reading = read_requests(first + b"GET /b HTTP/1.1\r\nHost: a\r\n\r\nGET /c")

    assert [(head.target, content) for head, content in reading.requests] == [(b"/a", b"x"), (b"/b", b"")]
    assert not reading.malformed


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n",
    ],
)
def test_a_strict_reader_takes_nothing_else(data: bytes) -> None:
    reading = read_requests(data)

    assert reading.malformed
    assert not reading.requests
