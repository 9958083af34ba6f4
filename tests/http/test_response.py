"""What the upstream answers, on its way to the caller."""

import asyncio
import contextlib
import gzip
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fakes.certificates import Authority
from tests.fakes.client import Client
from tests.fakes.proxy import StartProxy, proxy_process
from tests.fakes.upstream import Call, Upstream, answer, raw, response
from tests.fakes.waiting import DEADLINE, settled
from tests.http.responses import CHUNKS, assert_ours, relayed

# What the proxy itself may add to a response that has none of it.
OWN = {
    b"x-content-type-options",
    b"cross-origin-resource-policy",
    b"content-security-policy",
    b"connection",
    b"keep-alive",
    b"via",
    b"date",
}
CHUNKED = b"Transfer-Encoding: chunked"


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (200, b"OK"), (201, b"Created"), (202, b""), (206, b"Partial Content"), (226, b"IM Used"),
        (301, b"Moved"), (302, b"Found"), (303, b"See Other"), (307, b"Temporary"), (308, b"Permanent"),
        (400, b"Bad"), (404, b"Nothing here"), (409, b"Conflict"), (418, b"I'm a teapot"), (429, b"Slow down"),
        (451, b"caf\xe9"), (500, b"Oh"), (503, b"Later"), (599, b"Odd"),
    ],
)  # fmt: skip
async def test_status_and_reason_are_unchanged(client: Client, upstream: Upstream, status: int, reason: bytes) -> None:
    got = await relayed(client, upstream, response(status, b"Location: /api/elsewhere", reason=reason))

    assert (got.status, got.content, got.code) == (status, b"ok", "")
    assert got.reason == reason or not reason.isascii()
    assert len(upstream.calls) == 1


@pytest.mark.parametrize("status", [204, 304])
async def test_statuses_without_content_are_relayed_without_framing(
    client: Client, upstream: Upstream, status: int
) -> None:
    got = await relayed(client, upstream, response(status, content=b"", length=False, reason=b"Nothing"))

    assert (got.status, got.reason, got.framing) == (status, b"Nothing", "none")


async def test_a_location_on_the_upstream_comes_back_on_the_callers_origin(client: Client, upstream: Upstream) -> None:
    got = await relayed(client, upstream, response(302, f"Location: {upstream.url}/api/y?z=%7E".encode()))

    assert got.values(b"location") == [b"http://%s/api/y?z=%%7E" % client.authority]


async def test_a_location_elsewhere_is_unchanged(client: Client, upstream: Upstream) -> None:
    got = await relayed(client, upstream, response(302, b"Location: https://example.com:%d/y" % upstream.port))

    assert got.values(b"location") == [b"https://example.com:%d/y" % upstream.port]


async def test_repeated_fields_stay_separate(client: Client, upstream: Upstream) -> None:
    got = await relayed(client, upstream, response(200, b"Link: <a>", b"X-M: 1", b"Link: <b>, <c>", b"x-m: 2"))

    assert got.values(b"link") == [b"<a>", b"<b>, <c>"]
    assert got.values(b"x-m") == [b"1", b"2"]


async def test_cookies_are_dropped(client: Client, upstream: Upstream) -> None:
    got = await relayed(client, upstream, response(200, b"Set-Cookie: a=1", b"Set-Cookie: b=2"))

    assert got.values(b"set-cookie") == []


async def test_cookies_pass_line_by_line_when_told(start_proxy: StartProxy, upstream: Upstream) -> None:
    client = await (await start_proxy(access={"cookies": "forward"})).connect()
    lines = [b'a="x y"; Path=/; Expires=Wed, 09 Jun 2027 10:18:14 GMT', b"b=2"]
    got = await relayed(client, upstream, response(200, *(b"Set-Cookie: " + line for line in lines)))

    assert got.values(b"set-cookie") == lines


async def test_hop_by_hop_fields_are_removed(client: Client, upstream: Upstream) -> None:
    got = await relayed(
        client, upstream,
        response(
            200, b"Connection: X-A, keep-alive", b"connection:  ,x-b ", b"X-A: 1", b"X-B: 2", b"X-C: 3",
            b"Keep-Alive: timeout=7, max=5", b"Proxy-Connection: keep-alive", b"Proxy-Authenticate: Basic", b"TE: gzip",
            b"Trailer: X-T", b"Upgrade: h2c",
        ),
    )  # fmt: skip

    assert set(got.names) - OWN == {b"x-c", b"content-length"}
    assert b"x-a" not in b",".join(got.values(b"connection")).lower()
    assert got.values(b"keep-alive") == [b"timeout=75"]  # ours


@pytest.mark.parametrize(
    "line",
    [b"Access-Control-Allow-Origin: *", b"Access-Control-Expose-Headers: X", b"Timing-Allow-Origin: *"],
)
async def test_what_opens_answers_to_other_sites_is_removed(client: Client, upstream: Upstream, line: bytes) -> None:
    got = await relayed(client, upstream, response(200, line))

    assert set(got.names) - OWN == {b"content-length"}
    assert got.values(b"x-content-type-options") == [b"nosniff"]
    assert got.values(b"cross-origin-resource-policy") == [b"same-origin"]


async def test_nosniff_is_not_given_twice(client: Client, upstream: Upstream) -> None:
    got = await relayed(
        client, upstream,
        response(200, b"X-Content-Type-Options: nosniff", b"Cross-Origin-Resource-Policy: cross-origin"),
    )  # fmt: skip

    assert got.values(b"x-content-type-options") == [b"nosniff"]
    assert got.values(b"cross-origin-resource-policy") == [b"same-origin"]


async def test_length_stays_length(client: Client, upstream: Upstream) -> None:
    got = await relayed(client, upstream, response(content=b"x" * 70_000))

    assert (got.framing, got.values(b"content-length"), got.content) == ("length", [b"70000"], b"x" * 70_000)
    assert got.values(b"transfer-encoding") == []


async def test_chunked_stays_chunked(client: Client, upstream: Upstream) -> None:
    got = await relayed(client, upstream, *CHUNKS)

    assert (got.framing, got.content) == ("chunked", b"abc0123456789")
    await client.still_open()


async def test_trailers_are_dropped(client: Client, upstream: Upstream) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n"
    upstream.script = [raw(head, b"2\r\nok\r\n0\r\nX-T: dropped\r\nSet-Cookie: dropped\r\n\r\n")]
    await client.send(client.request("GET", "/api/x"))
    got = await client.head()

    assert b"trailer" not in got.names
    assert await client.until(b"\r\n0\r\n\r\n") == b"2\r\nok\r\n0\r\n\r\n"
    following = await client.ask("GET", "/api/y")
    assert following.content == b"ok"
    assert b"dropped" not in following.raw


async def test_chunked_becomes_close_delimited_for_http_1_0(client: Client, upstream: Upstream) -> None:
    upstream.script = [raw(*CHUNKS)]
    await client.send(client.request("GET", "/api/x", b"Connection: keep-alive", version="1.0"))
    got = await client.response()

    assert (got.framing, got.content, got.closes) == ("close", b"abc0123456789", True)


async def test_close_delimited_content_is_complete(client: Client, upstream: Upstream) -> None:
    if upstream.url.startswith("https"):
        pytest.skip("the other test of this case is the one with TLS")
    got = await relayed(client, upstream, b"HTTP/1.1 200 OK\r\n\r\n", b"a" * 100_000, b"end", close=True)

    assert (got.framing, got.content) == ("chunked", b"a" * 100_000 + b"end")
    await client.still_open()


async def test_close_delimited_content_is_complete_with_a_close_notify(client: Client, upstream: Upstream) -> None:
    """A TLS end is complete with the alert that announces it (RFC 9112, 9.8); asyncio's `close` sends it."""
    got = await relayed(client, upstream, b"HTTP/1.0 200 OK\r\n\r\n", b"a" * 100_000, b"end", close=True)

    assert (got.framing, got.content) == ("chunked", b"a" * 100_000 + b"end")
    await client.still_open()


async def test_compressed_content_is_not_touched(client: Client, upstream: Upstream) -> None:
    content = gzip.compress(b"hello" * 1000)
    lines = (b"Content-Encoding: gzip", b'ETag: "abc"', b"Vary: Accept-Encoding", b"Content-Type: a/b")
    got = await relayed(client, upstream, response(200, *lines, content=content))

    assert got.content == content
    assert got.values(b"content-length") == [b"%d" % len(content)]
    assert [b"%s: %s" % field for field in got.fields if field[0].lower() not in OWN | {b"content-length"}] == [*lines]


async def test_the_answer_to_head_keeps_its_length(client: Client, upstream: Upstream) -> None:
    got = await relayed(client, upstream, b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n", method="HEAD")

    assert got.values(b"content-length") == [b"1234"]
    await client.still_open()
    assert (await client.ask("GET", "/api/y")).content == b"ok"
    assert len(upstream.connections) == 1


async def test_the_answer_to_head_may_be_chunked_and_ends_with_its_head(client: Client, upstream: Upstream) -> None:
    got = await relayed(client, upstream, CHUNKS[0], method="HEAD")

    assert got.status == 200
    await client.still_open()
    assert (await client.ask("GET", "/api/y")).content == b"ok"


async def test_content_after_head_is_not_the_next_response(client: Client, upstream: Upstream) -> None:
    await relayed(client, upstream, response(content=b"HTTP/1.1 666 Evil\r\n\r\n"), method="HEAD")

    assert (await client.ask("GET", "/api/y")).content == b"ok"
    assert len(upstream.connections) == 2


@pytest.mark.parametrize("status", [204, 304])
@pytest.mark.parametrize("line", [b"", b"Content-Length: 0\r\n", b"Content-Length: 44\r\n"])
async def test_204_and_304_end_with_their_head_whatever_length_they_claim(
    client: Client, upstream: Upstream, status: int, line: bytes
) -> None:
    got = await relayed(client, upstream, b'HTTP/1.1 %d X\r\n%sETag: "a"\r\n\r\n' % (status, line))

    assert (got.status, got.values(b"etag"), got.framing) == (status, [b'"a"'], "none")
    await client.still_open()
    assert (await client.ask("GET", "/api/y")).content == b"ok"


async def test_date_and_server_of_the_upstream_stay(client: Client, upstream: Upstream) -> None:
    lines = (b"Date: Mon, 01 Jan 2024 00:00:00 GMT", b"Server: krebit/1")
    got = await relayed(client, upstream, response(200, *lines))

    assert got.values(b"date") == [lines[0].partition(b": ")[2]]
    assert got.values(b"server") == [b"krebit/1"]
    assert set(got.names) - OWN == {b"server", b"content-length"}


async def test_no_content_type_or_server_is_invented(client: Client, upstream: Upstream) -> None:
    got = await relayed(client, upstream, response())

    assert set(got.names) - OWN == {b"content-length"}


async def test_a_range_and_its_answer_pass(client: Client, upstream: Upstream) -> None:
    upstream.script = [
        answer(206, b"Content-Range: bytes 1-3/9", b"Accept-Ranges: bytes", content=b"abc", reason=b"Partial")
    ]
    got = await client.ask("GET", "/api/x", b"Range: bytes=1-3", b'If-Range: "e"')

    assert upstream.calls[0].values(b"range") == [b"bytes=1-3"]
    assert upstream.calls[0].values(b"if-range") == [b'"e"']
    assert (got.status, got.values(b"content-range"), got.content) == (206, [b"bytes 1-3/9"], b"abc")


async def test_a_condition_and_its_answer_pass(client: Client, upstream: Upstream) -> None:
    upstream.script = [answer(304, b'ETag: "e"', content=b"", length=False, reason=b"Not Modified")]
    got = await client.ask("GET", "/api/x", b'If-None-Match: W/"e", "f"')

    assert upstream.calls[0].values(b"if-none-match") == [b'W/"e", "f"']
    assert (got.status, got.values(b"etag"), got.framing) == (304, [b'"e"'], "none")


@pytest.mark.parametrize("chunked", [True, False])
async def test_events_pass_one_by_one(client: Client, upstream: Upstream, chunked: bool) -> None:
    seen = asyncio.Event()

    async def events(call: Call) -> None:
        framing = b"Transfer-Encoding: chunked\r\n" if chunked else b""
        await call.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream;charset=utf-8\r\n%s\r\n" % framing)
        for event in (b"data: 1\n\n", b"data: 2\n\n"):
            await call.send(b"9\r\n%s\r\n" % event if chunked else event)
            await asyncio.wait_for(seen.wait(), DEADLINE)
            seen.clear()
        await call.send(b"0\r\n\r\n" if chunked else b"")
        call.connection.close()

    upstream.script = [events]
    await client.send(client.request("GET", "/api/x"))
    assert (await client.head()).values(b"content-type") == [b"text/event-stream;charset=utf-8"]
    for event in (b"data: 1\n\n", b"data: 2\n\n"):
        assert await client.chunk() == event  # the next one does not exist yet
        seen.set()
    assert await client.chunk() == b""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the memory of a process from /proc")
async def test_memory_is_bounded_while_the_caller_is_slow(
    tmp_path: Path, authority: Authority, server_tls: ssl.SSLContext | None, effort: Callable[[int, int], int]
) -> None:
    """1 GB (10 in a deep run) is on its way to a caller that takes nothing at first, and then a part (or all)."""
    sent, size, taken = [0], effort(1 << 10, 10 << 10), effort(64, 10 << 10)

    async def endless(call: Call) -> None:
        await call.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (size << 20))
        with contextlib.suppress(OSError):
            for _ in range(size):
                call.connection.writer.write(b"m" * (1 << 20))
                await call.connection.writer.drain()
                sent[0] += 1
        await call.gone()

    async with (
        Upstream(server_tls) as upstream,
        proxy_process(upstream, tmp_path, upstream={"ca_file": str(authority.ca_file)}) as proxy,
    ):
        client = await proxy.connect(receive_buffer=1 << 16)
        await client.ask("GET", "/api/warm")
        before = proxy.memory()
        upstream.script = [endless]
        await client.send(client.request("GET", "/api/x"))
        await client.head()
        await settled(lambda: proxy.memory() + sent[0])
        stalled, stalled_at = proxy.memory(), sent[0]
        for _ in range(taken):
            await client.exactly(1 << 20)
        flowing = proxy.memory()
        client.close()

    assert stalled_at < 64
    assert sent[0] > stalled_at
    assert stalled - before < 20 << 20
    assert flowing - before < 20 << 20


async def test_a_long_transfer_is_not_cut(start_proxy: StartProxy, upstream: Upstream) -> None:
    """It takes longer than every limit, and no gap in it is as long as one."""

    async def long(call: Call) -> None:
        await call.send(b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n")
        for letter in b"long running":
            await asyncio.sleep(0.1)
            await call.send(b"%c" % letter)

    limits = {"header_timeout": 0.6, "body_timeout": 0.6, "keepalive": 0.6}
    proxy = await start_proxy(upstream={"response_timeout": 0.6, "idle_timeout": 0.6, "keepalive": 0.6}, limits=limits)
    client = await proxy.connect()
    upstream.script = [long]

    assert (await client.ask("GET", "/api/x")).content == b"long running"


@pytest.mark.parametrize("name", [b"Set-Cookie", b"X-Large"])
async def test_a_huge_field_of_the_upstream_is_relayed_or_refused_whole(
    start_proxy: StartProxy, upstream: Upstream, name: bytes
) -> None:
    client = await (await start_proxy(access={"cookies": "forward"})).connect()
    got = await relayed(client, upstream, response(200, name + b": " + b"v" * 60_000))

    assert got.status in {200, 502}
    if got.status == 200:
        assert got.values(name) == [b"v" * 60_000]
    else:
        assert_ours(got, 502, "upstream_invalid")


async def test_bytes_of_a_value_that_are_not_utf_8_arrive(client: Client, upstream: Upstream) -> None:
    value = b"caf\xe9 \xff\x80"
    got = await relayed(client, upstream, response(200, b"X-V: " + value, "X-U: blåbär".encode()))

    assert got.values(b"x-v") == [value]
    assert got.values(b"x-u") == ["blåbär".encode()]
