"""Answers that come before the request is complete reach callers that send everything first and read afterwards."""

import asyncio
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fakes.client import Client
from tests.fakes.door import speaking_tls
from tests.fakes.proxy import RunningProxy, StartProxy
from tests.fakes.upstream import Call, Step, Upstream, response
from tests.fakes.waiting import DEADLINE

Framing = Callable[..., tuple[bytes, bytes, bytes]]  # head, a piece of content, and what ends it

SIZE = 24 << 20  # more than all buffers on the way hold
PIECE = bytes(1 << 16)
LONG = b"e" * (6 << 20)  # an answer that no buffer holds


def early(ending: str = "", content: bytes = b"too large") -> Step:
    """A step that answers 413 without reading the content, and then ends the connection or leaves it open."""

    async def step(call: Call) -> None:
        call.connection.record = False
        await call.receive()
        await call.send(response(413, content=content, reason=b"Too Large"))
        if ending == "closes":
            call.connection.close()
        elif ending == "resets":
            call.connection.reset()
        elif ending == "reads on":
            await call.read()
        else:
            await call.gone()

    return step


def chunked(client: Client, *fields: bytes, version: str = "1.1") -> tuple[bytes, bytes, bytes]:
    head = client.request("POST", "/api/x", b"Transfer-Encoding: chunked", *fields, version=version)
    return head, b"%x\r\n%b\r\n" % (len(PIECE), PIECE), b"0\r\n\r\n"


def sized(client: Client, *fields: bytes, version: str = "1.1") -> tuple[bytes, bytes, bytes]:
    length = b"Content-Length: %d" % SIZE
    return client.request("POST", "/api/x", length, *fields, version=version), PIECE, b""


async def send_all(client: Client, head: bytes, piece: bytes, last: bytes) -> None:
    await client.send(head)
    async with asyncio.timeout(DEADLINE):
        await client.pump(piece, SIZE // len(PIECE))
    await client.send(last)


@pytest.mark.parametrize("framing", [sized, chunked])
@pytest.mark.parametrize("ending", ["stays open", "closes", "resets", "reads on"])
async def test_who_sends_everything_first_gets_the_early_answer(
    client: Client, upstream: Upstream, framing: Framing, ending: str
) -> None:
    upstream.default = early(ending)
    await send_all(client, *framing(client))
    got = await client.response()

    assert (got.status, got.content) == (413, b"too large")


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_an_answer_that_no_buffer_holds_comes_too(client: Client, upstream: Upstream, version: str) -> None:
    upstream.default = early(content=LONG)
    await send_all(client, *sized(client, version=version))
    got = await client.response()

    assert (got.status, got.content == LONG) == (413, True)


@pytest.mark.parametrize("framing", [sized, chunked])
async def test_our_own_answer_comes_too(client: Client, framing: Framing) -> None:
    head, piece, last = framing(client)
    await send_all(client, head.replace(b"/api/x", b"/elsewhere"), piece, last)

    assert (await client.response()).status == 404


async def test_a_request_behind_the_content_does_not_cost_the_answer(client: Client, upstream: Upstream) -> None:
    upstream.default = early()
    head, piece, _ = sized(client)
    await send_all(client, head, piece, client.request("GET", "/api/y") * 50)

    assert (await client.response()).status == 413
    assert not (await client.rest()).reset


async def test_who_does_not_wait_for_100_gets_the_final_answer_too(client: Client, upstream: Upstream) -> None:
    async def refuse(call: Call) -> None:
        await call.send(response(413))
        await call.gone()

    upstream.default = refuse
    head, piece, _ = sized(client, b"Expect: 100-continue")
    await client.send(head)
    await upstream.called()
    await send_all(client, piece, piece, b"")

    assert (await client.response()).status == 413


async def test_over_tls_the_early_answer_comes_too(start_proxy: StartProxy, upstream: Upstream, tmp_path: Path) -> None:
    tls, context = speaking_tls(tmp_path)
    upstream.default = early(content=LONG)
    proxy = await start_proxy(**tls)

    assert await asyncio.to_thread(answer_in_tls, proxy, context) == (b"HTTP/1.1 413 Too Large", len(LONG))


def answer_in_tls(proxy: RunningProxy, context: ssl.SSLContext) -> tuple[bytes, int]:
    """Sends everything, then reads up to the end, as a blocking client does."""
    plain = socket.create_connection(("127.0.0.1", proxy.port), timeout=DEADLINE)
    with context.wrap_socket(plain, server_hostname="localhost") as sock:
        sock.sendall(b"POST /api/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % SIZE)
        for _ in range(SIZE // len(PIECE)):
            sock.sendall(PIECE)
        sock.sendall(b"GET /api/y HTTP/1.1\r\nHost: localhost\r\n\r\n")
        got = b""
        while piece := sock.recv(1 << 16):
            got += piece
    head, _, content = got.partition(b"\r\n\r\n")
    return head.partition(b"\r\n")[0], len(content)


# A transfer that breaks off


@pytest.mark.parametrize(
    ("framing", "version"),
    [(b"Content-Length: 100000", "1.1"), (b"Transfer-Encoding: chunked", "1.1"), (b"X: close-delimited", "1.0")],
)
async def test_half_a_response_ends_with_a_reset_after_all_that_came(
    client: Client, upstream: Upstream, framing: bytes, version: str
) -> None:
    arrived = asyncio.Event()

    async def half(call: Call) -> None:
        content = b"x" * 50_000
        if b"chunked" in framing:
            content = b"%x\r\n%b\r\n" % (len(content), content)
        await call.send(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n" + content)
        await arrived.wait()
        call.connection.reset()

    upstream.default = half
    await client.send(client.request("GET", "/api/x", version=version))
    await client.head()
    await client.exactly(50_000 if version == "1.0" or b"Length" in framing else 50_000 + len(b"c350\r\n\r\n"))
    arrived.set()

    assert (await client.rest()).reset


async def test_what_was_written_before_the_break_is_delivered_to_a_slow_reader(
    start_proxy: StartProxy, upstream: Upstream
) -> None:
    async def half(call: Call) -> None:
        await call.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 50_000)
        await asyncio.sleep(0.2)  # so that the proxy passes it on before the end
        call.connection.close()

    upstream.default = half
    proxy = await start_proxy()
    client = await proxy.connect(receive_buffer=8192)
    await client.send(client.request("GET", "/api/x"))
    await asyncio.wait_for(upstream.called(), DEADLINE)
    await asyncio.wait_for(upstream.connections[0].ended.wait(), DEADLINE)
    end = await client.rest()

    assert end.reset
    assert end.got.endswith(b"x" * 50_000)
