"""The content of a request streams through as it is, and what breaks off is seen to break off."""

import asyncio
import contextlib
import gzip
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from krebit_proxy.tasks import spawn
from tests.fakes.certificates import Authority
from tests.fakes.client import Client, Ended
from tests.fakes.proxy import StartProxy, proxy_process
from tests.fakes.upstream import Call, Gone, Upstream, answer, response
from tests.fakes.waiting import DEADLINE, settled

CHUNKED = b"Transfer-Encoding: chunked"


async def held(call: Call) -> None:
    """A step that reads what comes and never answers."""
    with contextlib.suppress(Gone):
        await call.read()
    await call.gone()


async def test_content_with_a_length_keeps_it(client: Client, upstream: Upstream) -> None:
    await client.ask("POST", "/api/x", content=b"hello")

    assert upstream.calls[0].values(b"content-length") == [b"5"]
    assert bytes(upstream.calls[0].content) == b"hello"


async def test_a_length_of_zero_stays(client: Client, upstream: Upstream) -> None:
    await client.ask("POST", "/api/x", b"Content-Length: 0")

    assert upstream.calls[0].values(b"content-length") == [b"0"]
    assert upstream.calls[0].values(b"transfer-encoding") == []


@pytest.mark.parametrize("method", ["DELETE", "GET", "PUT"])
async def test_no_content_is_not_framed_as_chunks(client: Client, upstream: Upstream, method: str) -> None:
    await client.ask(method, "/api/x")

    assert upstream.calls[0].values(b"transfer-encoding") == []
    assert upstream.calls[0].values(b"content-length") in ([], [b"0"])
    await client.still_open()


async def test_chunks_arrive_whole_and_their_extensions_end_here(client: Client, upstream: Upstream) -> None:
    content = (
        b'A;x=y;z="q;r"\r\n0123456789\r\n1 \r\nx\r\n'.replace(b"1 \r", b"1\r")
        + b"00f\r\nabcdefghijklmno\r\n0;end\r\n\r\n"
    )
    await client.send(client.request("POST", "/api/x", CHUNKED) + content)
    got = await client.response()

    assert got.status == 200
    assert bytes(upstream.calls[0].content) == b"0123456789xabcdefghijklmno"
    assert upstream.calls[0].values(b"transfer-encoding") == [b"chunked"]
    assert b";" not in bytes(upstream.calls[0].connection.received).partition(b"\r\n\r\n")[2]


async def test_empty_chunked_content_stays_empty(client: Client, upstream: Upstream) -> None:
    await client.send(client.request("POST", "/api/x", CHUNKED) + b"0\r\n\r\n")
    got = await client.response()

    assert (got.status, bytes(upstream.calls[0].content), upstream.calls[0].complete) == (200, b"", True)


async def test_a_get_with_content_is_forwarded_with_it(client: Client, upstream: Upstream) -> None:
    inner = b"GET /api/inner HTTP/1.1\r\nHost: a\r\n\r\n"
    await client.send(client.request("GET", "/api/x", content=inner) + client.request("GET", "/api/next"))
    first, second = await client.response(), await client.response()

    assert (first.status, second.status) == (200, 200)
    assert [(call.target, bytes(call.content)) for call in upstream.calls] == [
        (b"/api/x", inner),
        (b"/api/next", b""),
    ]


@pytest.mark.parametrize("chunked", [False, True])
async def test_content_arrives_before_its_end(client: Client, upstream: Upstream, chunked: bool) -> None:
    arrived = asyncio.Queue[bytes]()

    async def piecewise(call: Call) -> None:
        while piece := await call.receive():
            arrived.put_nowait(piece)
        await call.send(response())

    upstream.script = [piecewise]
    framing = CHUNKED if chunked else b"Content-Length: 5"
    await client.send(client.request("POST", "/api/x", framing))
    for letter in b"hello":
        await client.send(b"1\r\n%c\r\n" % letter if chunked else b"%c" % letter)
        assert await asyncio.wait_for(arrived.get(), DEADLINE) == b"%c" % letter
    await client.send(b"0\r\n\r\n" if chunked else b"")

    assert (await client.response()).status == 200


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the memory of a process from /proc")
async def test_memory_is_bounded_while_the_upstream_is_slow(
    tmp_path: Path, authority: Authority, server_tls: ssl.SSLContext | None, effort: Callable[[int, int], int]
) -> None:
    """100 MB (10 GB in a deep run) go to an upstream that first takes nothing: the upload stands still, and memory."""
    go = asyncio.Event()
    megabyte, size = b"m" * (1 << 20), effort(100, 10_000)

    async def slow(call: Call) -> None:
        call.connection.record = False
        await go.wait()
        total = 0
        while piece := await call.receive():
            total += len(piece)
        await call.send(response(content=b"%d" % total))

    async with (
        Upstream(server_tls) as upstream,
        proxy_process(upstream, tmp_path, upstream={"ca_file": str(authority.ca_file)}) as proxy,
    ):
        client = await proxy.connect()
        await client.ask("GET", "/api/warm")
        before = proxy.memory()
        upstream.script = [slow]
        await client.send(client.request("POST", "/api/x", b"Content-Length: %d" % (size << 20)))
        pump = spawn(client.pump(megabyte, size), name="upload")
        await settled(lambda: proxy.memory() + client.sent)
        while_waiting, waiting_at = proxy.memory(), client.sent
        go.set()
        await pump
        got = await client.response()
        client.close()
        after = proxy.memory()

    assert got.content == b"%d" % (size << 20)
    assert waiting_at < size << 20
    assert while_waiting - before < 20 << 20
    assert after - before < 20 << 20


async def test_compressed_content_stays_compressed(client: Client, upstream: Upstream) -> None:
    content = gzip.compress(b"hello" * 100)
    await client.ask("POST", "/api/x", b"Content-Encoding: gzip", content=content)
    call = upstream.calls[0]

    assert bytes(call.content) == content
    assert call.values(b"content-length") == [b"%d" % len(content)]
    assert call.values(b"content-encoding") == [b"gzip"]


async def test_what_claims_to_be_compressed_is_not_looked_at(client: Client, upstream: Upstream) -> None:
    got = await client.ask("POST", "/api/x", b"Content-Encoding: gzip", content=b"not gzip")

    assert (got.status, bytes(upstream.calls[0].content)) == (200, b"not gzip")


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("leave", [Client.close, Client.reset])
async def test_a_caller_that_leaves_ends_the_upload(
    client: Client, upstream: Upstream, chunked: bool, leave: object
) -> None:
    upstream.script = [held]
    framing = CHUNKED if chunked else b"Content-Length: 100"
    await client.send(client.request("POST", "/api/x", framing) + (b"5\r\nhello\r\n" if chunked else b"hello"))
    call = await upstream.called()
    assert callable(leave)
    leave(client)
    await asyncio.wait_for(call.connection.ended.wait(), DEADLINE)

    assert call.broken
    assert not call.complete


async def test_an_early_answer_comes_at_once(start_proxy: StartProxy, upstream: Upstream) -> None:
    async def too_large(call: Call) -> None:
        await call.send(response(413, content=b"too large", reason=b"Too Large"))
        await call.gone()

    upstream.script = [too_large]
    proxy = await start_proxy()
    client = await proxy.connect()
    await client.send(client.request("POST", "/api/x", b"Content-Length: 1000000") + b"some")
    got = await client.response()

    assert (got.status, got.content) == (413, b"too large")
    other = await proxy.connect()
    assert (await other.ask("GET", "/api/y")).status == 200
    assert upstream.calls[0].connection is not upstream.calls[1].connection


async def test_content_and_next_request_in_one_packet(client: Client, upstream: Upstream) -> None:
    upstream.script = [answer(content=b"one"), answer(content=b"two")]
    await client.send(
        client.request("POST", "/api/1", content=b"hello") + client.request("POST", "/api/2", content=b"you")
    )
    first, second = await client.response(), await client.response()

    assert (first.content, second.content) == (b"one", b"two")
    assert [bytes(call.content) for call in upstream.calls] == [b"hello", b"you"]


@pytest.mark.parametrize("together", [True, False])
async def test_trailers_are_dropped(client: Client, upstream: Upstream, together: bool) -> None:
    first = (
        client.request("POST", "/api/x", CHUNKED)
        + b"1\r\nx\r\n0\r\nX-Leak: marker\r\nAuthorization: Bearer marker\r\n\r\n"
    )
    second = client.request("GET", "/api/next")
    await client.send(first + second if together else first)
    got = await client.response()
    with contextlib.suppress(Ended, OSError):  # closing after trailers is a way not to mix them up
        await client.send(b"" if together else second)
        await client.response()

    assert got.status in {200, 400}
    for call in upstream.calls:
        assert b"marker" not in call.connection.received
        assert set(call.names) <= {b"host", b"via", b"authorization", b"transfer-encoding"}


@pytest.mark.parametrize(
    "bad",
    [
        *(b"ZZZ\r\nx\r\n", b"-1\r\nx\r\n", b"0x1\r\nx\r\n", b"1\nx\r\n", b"1;\n\r\nx\r\n", b"1\r\nxx\r\n"),
        *(b"1\r\nx\n", b"f" * 17 + b"\r\n", b"\r\n", b"0\r\nbad trailer\r\n\r\n"),
    ],
)
async def test_a_malformed_chunk_ends_both_sides(client: Client, upstream: Upstream, bad: bytes) -> None:
    upstream.script = [held]
    await client.send(client.request("POST", "/api/x", CHUNKED) + b"5\r\nhello\r\n")
    call = await upstream.called()
    await client.send(bad)
    ended = await client.rest()
    await asyncio.wait_for(call.connection.ended.wait(), DEADLINE)

    assert ended.got == b"" or ended.got.startswith(b"HTTP/1.1 400 ")
    assert call.broken
    assert len(upstream.calls) == 1


@pytest.mark.parametrize("framing", [CHUNKED, b"Content-Length: 100"], ids=["chunked", "length"])
async def test_content_that_does_not_come_is_a_timeout(
    start_proxy: StartProxy, upstream: Upstream, framing: bytes
) -> None:
    upstream.script = [held]
    proxy = await start_proxy(limits={"body_timeout": 0.3})
    client = await proxy.connect()
    await client.send(client.request("POST", "/api/x", framing) + b"5\r\nhello\r\n")
    call = await upstream.called()
    ended = await client.rest()
    await asyncio.wait_for(call.connection.ended.wait(), DEADLINE)

    assert ended.got == b"" or ended.got.startswith(b"HTTP/1.1 408 ")
    assert call.broken
