"""Cases 55 to 79: what the upstream answers, on its way to the caller."""

import asyncio
import contextlib
import gzip
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from krebit_proxy.tasks import spawn
from tests.fakes.certificates import Authority
from tests.fakes.client import Client, Ended, Response
from tests.fakes.proxy import StartProxy, proxy_process
from tests.fakes.upstream import Call, Step, Upstream, answer, raw, response
from tests.fakes.waiting import settled

# What the proxy itself may add to a response that has none of it.
OWN = {b"x-content-type-options", b"cross-origin-resource-policy", b"connection", b"via", b"date"}
CHUNKED = b"Transfer-Encoding: chunked"


async def relayed(
    client: Client, upstream: Upstream, *pieces: bytes, method: str = "GET", close: bool = False
) -> Response:
    """What the client gets of these bytes of the upstream."""
    upstream.script = [raw(*pieces, close=close)]
    return await client.ask(method, "/api/x")


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (200, b"OK"), (201, b"Created"), (202, b""), (206, b"Partial Content"), (226, b"IM Used"),
        (301, b"Moved"), (302, b"Found"), (303, b"See Other"), (307, b"Temporary"), (308, b"Permanent"),
        (400, b"Bad"), (404, b"Nothing here"), (409, b"Conflict"), (418, b"I'm a teapot"), (429, b"Slow down"),
        (451, b"caf\xe9"), (500, b"Oh"), (503, b"Later"), (599, b"Odd"),
    ],
)  # fmt: skip
async def test_case_055_status_and_reason_are_unchanged(
    client: Client, upstream: Upstream, status: int, reason: bytes
) -> None:
    got = await relayed(client, upstream, response(status, b"Location: /api/elsewhere", reason=reason))

    assert (got.status, got.content, got.code) == (status, b"ok", "")
    assert got.reason == reason or not reason.isascii()
    assert len(upstream.calls) == 1


@pytest.mark.parametrize("status", [204, 304])
async def test_case_055_responses_without_content(client: Client, upstream: Upstream, status: int) -> None:
    got = await relayed(client, upstream, response(status, content=b"", length=False, reason=b"Nothing"))

    assert (got.status, got.reason, got.framing) == (status, b"Nothing", "none")


async def test_case_055_location_on_the_upstream_comes_back_on_the_callers_origin(
    client: Client, upstream: Upstream
) -> None:
    got = await relayed(client, upstream, response(302, f"Location: {upstream.url}/api/y?z=%7E".encode()))

    assert got.values(b"location") == [b"http://%s/api/y?z=%%7E" % client.authority]


async def test_case_055_location_elsewhere_is_unchanged(client: Client, upstream: Upstream) -> None:
    got = await relayed(client, upstream, response(302, b"Location: https://example.com:%d/y" % upstream.port))

    assert got.values(b"location") == [b"https://example.com:%d/y" % upstream.port]


async def test_case_056_repeated_fields_stay_separate(client: Client, upstream: Upstream) -> None:
    got = await relayed(client, upstream, response(200, b"Link: <a>", b"X-M: 1", b"Link: <b>, <c>", b"x-m: 2"))

    assert got.values(b"link") == [b"<a>", b"<b>, <c>"]
    assert got.values(b"x-m") == [b"1", b"2"]


async def test_case_056_cookies_are_dropped(client: Client, upstream: Upstream) -> None:
    got = await relayed(client, upstream, response(200, b"Set-Cookie: a=1", b"Set-Cookie: b=2"))

    assert got.values(b"set-cookie") == []


async def test_case_056_cookies_pass_line_by_line_when_told(start_proxy: StartProxy, upstream: Upstream) -> None:
    client = await (await start_proxy(access={"cookies": "forward"})).connect()
    lines = [b'a="x y"; Path=/; Expires=Wed, 09 Jun 2027 10:18:14 GMT', b"b=2"]
    got = await relayed(client, upstream, response(200, *(b"Set-Cookie: " + line for line in lines)))

    assert got.values(b"set-cookie") == lines


async def test_case_057_hop_by_hop_fields_are_removed(client: Client, upstream: Upstream) -> None:
    got = await relayed(
        client, upstream,
        response(
            200, b"Connection: X-A, keep-alive", b"connection:  ,x-b ", b"X-A: 1", b"X-B: 2", b"X-C: 3",
            b"Keep-Alive: timeout=5", b"Proxy-Connection: keep-alive", b"Proxy-Authenticate: Basic", b"TE: gzip",
            b"Trailer: X-T", b"Upgrade: h2c",
        ),
    )  # fmt: skip

    assert set(got.names) - OWN == {b"x-c", b"content-length"}
    assert b"x-a" not in b",".join(got.values(b"connection")).lower()


@pytest.mark.parametrize(
    "line",
    [b"Access-Control-Allow-Origin: *", b"Access-Control-Expose-Headers: X", b"Timing-Allow-Origin: *"],
)
async def test_case_057_what_opens_answers_to_other_sites_is_removed(
    client: Client, upstream: Upstream, line: bytes
) -> None:
    got = await relayed(client, upstream, response(200, line))

    assert set(got.names) - OWN == {b"content-length"}
    assert got.values(b"x-content-type-options") == [b"nosniff"]
    assert got.values(b"cross-origin-resource-policy") == [b"same-origin"]


async def test_case_057_nosniff_is_not_given_twice(client: Client, upstream: Upstream) -> None:
    got = await relayed(
        client, upstream,
        response(200, b"X-Content-Type-Options: nosniff", b"Cross-Origin-Resource-Policy: cross-origin"),
    )  # fmt: skip

    assert got.values(b"x-content-type-options") == [b"nosniff"]
    assert got.values(b"cross-origin-resource-policy") == [b"same-origin"]


async def test_case_058_length_stays_length(client: Client, upstream: Upstream) -> None:
    got = await relayed(client, upstream, response(content=b"x" * 70_000))

    assert (got.framing, got.values(b"content-length"), got.content) == ("length", [b"70000"], b"x" * 70_000)
    assert got.values(b"transfer-encoding") == []


CHUNKS = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"3\r\nabc\r\n",
    b"A;x=y\r\n0123456789\r\n",
    b"0\r\n\r\n",
)


async def test_case_058_chunked_stays_chunked(client: Client, upstream: Upstream) -> None:
    got = await relayed(client, upstream, *CHUNKS)

    assert (got.framing, got.content) == ("chunked", b"abc0123456789")
    await client.still_open()


async def test_case_058_trailers_are_dropped(client: Client, upstream: Upstream) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n"
    upstream.script = [raw(head, b"2\r\nok\r\n0\r\nX-T: dropped\r\nSet-Cookie: dropped\r\n\r\n")]
    await client.send(client.request("GET", "/api/x"))
    got = await client.head()

    assert b"trailer" not in got.names
    assert await client.until(b"\r\n0\r\n\r\n") == b"2\r\nok\r\n0\r\n\r\n"
    following = await client.ask("GET", "/api/y")
    assert following.content == b"ok"
    assert b"dropped" not in following.raw


async def test_case_058_chunked_becomes_close_delimited_for_http_1_0(client: Client, upstream: Upstream) -> None:
    upstream.script = [raw(*CHUNKS)]
    await client.send(client.request("GET", "/api/x", b"Connection: keep-alive", version="1.0"))
    got = await client.response()

    assert (got.framing, got.content, got.closes) == ("close", b"abc0123456789", True)


async def test_case_059_close_delimited_content_is_complete(client: Client, upstream: Upstream) -> None:
    if upstream.url.startswith("https"):
        pytest.skip("the other test of this case is the one with TLS")
    got = await relayed(client, upstream, b"HTTP/1.1 200 OK\r\n\r\n", b"a" * 100_000, b"end", close=True)

    assert (got.framing, got.content) == ("chunked", b"a" * 100_000 + b"end")
    await client.still_open()


async def test_case_059_close_delimited_content_with_close_notify(client: Client, upstream: Upstream) -> None:
    """A TLS end is complete with the alert that announces it (RFC 9112, 9.8); asyncio's `close` sends it."""
    got = await relayed(client, upstream, b"HTTP/1.0 200 OK\r\n\r\n", b"a" * 100_000, b"end", close=True)

    assert (got.framing, got.content) == ("chunked", b"a" * 100_000 + b"end")
    await client.still_open()


async def test_case_060_compressed_content_is_not_touched(client: Client, upstream: Upstream) -> None:
    content = gzip.compress(b"hello" * 1000)
    lines = (b"Content-Encoding: gzip", b'ETag: "abc"', b"Vary: Accept-Encoding", b"Content-Type: a/b")
    got = await relayed(client, upstream, response(200, *lines, content=content))

    assert got.content == content
    assert got.values(b"content-length") == [b"%d" % len(content)]
    assert [b"%s: %s" % field for field in got.fields if field[0].lower() not in OWN | {b"content-length"}] == [*lines]


async def test_case_061_head_keeps_the_length(client: Client, upstream: Upstream) -> None:
    got = await relayed(client, upstream, b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n", method="HEAD")

    assert got.values(b"content-length") == [b"1234"]
    await client.still_open()
    assert (await client.ask("GET", "/api/y")).content == b"ok"
    assert len(upstream.connections) == 1


async def test_case_061_head_of_a_chunked_response(client: Client, upstream: Upstream) -> None:
    got = await relayed(client, upstream, CHUNKS[0], method="HEAD")

    assert got.status == 200
    await client.still_open()
    assert (await client.ask("GET", "/api/y")).content == b"ok"


async def test_case_061_content_after_head_is_not_the_next_response(client: Client, upstream: Upstream) -> None:
    await relayed(client, upstream, response(content=b"HTTP/1.1 666 Evil\r\n\r\n"), method="HEAD")

    assert (await client.ask("GET", "/api/y")).content == b"ok"
    assert len(upstream.connections) == 2


@pytest.mark.parametrize("status", [204, 304])
@pytest.mark.parametrize("line", [b"", b"Content-Length: 0\r\n", b"Content-Length: 44\r\n"])
async def test_case_062_no_content_by_status(client: Client, upstream: Upstream, status: int, line: bytes) -> None:
    got = await relayed(client, upstream, b'HTTP/1.1 %d X\r\n%sETag: "a"\r\n\r\n' % (status, line))

    assert (got.status, got.values(b"etag"), got.framing) == (status, [b'"a"'], "none")
    await client.still_open()
    assert (await client.ask("GET", "/api/y")).content == b"ok"


async def test_case_063_nothing_is_added_or_replaced(client: Client, upstream: Upstream) -> None:
    lines = (b"Date: Mon, 01 Jan 2024 00:00:00 GMT", b"Server: krebit/1")
    got = await relayed(client, upstream, response(200, *lines))

    assert got.values(b"date") == [lines[0].partition(b": ")[2]]
    assert got.values(b"server") == [b"krebit/1"]
    assert set(got.names) - OWN == {b"server", b"content-length"}


async def test_case_063_no_content_type_or_server_is_invented(client: Client, upstream: Upstream) -> None:
    got = await relayed(client, upstream, response())

    assert set(got.names) - OWN == {b"content-length"}


async def test_case_064_ranges_pass(client: Client, upstream: Upstream) -> None:
    upstream.script = [
        answer(206, b"Content-Range: bytes 1-3/9", b"Accept-Ranges: bytes", content=b"abc", reason=b"Partial")
    ]
    got = await client.ask("GET", "/api/x", b"Range: bytes=1-3", b'If-Range: "e"')

    assert upstream.calls[0].values(b"range") == [b"bytes=1-3"]
    assert upstream.calls[0].values(b"if-range") == [b'"e"']
    assert (got.status, got.values(b"content-range"), got.content) == (206, [b"bytes 1-3/9"], b"abc")


async def test_case_064_conditions_pass(client: Client, upstream: Upstream) -> None:
    upstream.script = [answer(304, b'ETag: "e"', content=b"", length=False, reason=b"Not Modified")]
    got = await client.ask("GET", "/api/x", b'If-None-Match: W/"e", "f"')

    assert upstream.calls[0].values(b"if-none-match") == [b'W/"e", "f"']
    assert (got.status, got.values(b"etag"), got.framing) == (304, [b'"e"'], "none")


@pytest.mark.parametrize("chunked", [True, False])
async def test_case_065_events_pass_one_by_one(client: Client, upstream: Upstream, chunked: bool) -> None:
    seen = asyncio.Event()

    async def events(call: Call) -> None:
        framing = b"Transfer-Encoding: chunked\r\n" if chunked else b""
        await call.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream;charset=utf-8\r\n%s\r\n" % framing)
        for event in (b"data: 1\n\n", b"data: 2\n\n"):
            await call.send(b"9\r\n%s\r\n" % event if chunked else event)
            await asyncio.wait_for(seen.wait(), 5)
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
async def test_case_066_memory_is_bounded_while_the_caller_is_slow(
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


async def test_case_066_a_long_transfer_is_not_cut(start_proxy: StartProxy, upstream: Upstream) -> None:
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


@pytest.mark.parametrize("leave", [Client.close, Client.reset])
@pytest.mark.parametrize("answered", [False, True])
async def test_case_067_a_caller_that_leaves_ends_the_exchange(
    client: Client, upstream: Upstream, leave: object, answered: bool
) -> None:
    async def hold(call: Call) -> None:
        if answered:
            await call.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome")
        await call.gone()

    upstream.script = [hold]
    await client.send(client.request("GET", "/api/x"))
    call = await upstream.called()
    if answered:
        await client.until(b"some")
    assert callable(leave)
    leave(client)

    await asyncio.wait_for(call.connection.ended.wait(), 5)


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param((b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", b"part"), id="case_068_length"),
        pytest.param((b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b"p" * 500_000), id="case_068_large"),
        pytest.param((CHUNKS[0], b"4\r\npart\r\n"), id="case_069_between_chunks"),
        pytest.param((CHUNKS[0], b"8\r\npart"), id="case_069_inside_a_chunk"),
        pytest.param((CHUNKS[0], b"4\r\npart\r\n0\r\n"), id="case_069_before_the_last_line"),
        pytest.param((CHUNKS[0], b"4\r\npart\r\nZZ\r\n"), id="case_069_malformed_chunk"),
    ],
)
async def test_content_that_breaks_off_breaks_off_for_the_caller(
    client: Client, upstream: Upstream, pieces: tuple[bytes, ...], reset: bool
) -> None:
    async def step(call: Call) -> None:
        for piece in pieces:
            await call.send(piece)
        if reset:
            await arrived.wait()
            call.connection.reset()
        else:
            call.connection.close()

    arrived = asyncio.Event()
    upstream.script = [step]
    await client.send(client.request("GET", "/api/x"))
    head = await client.head()
    arrived.set()

    if (head.status, head.code) == (502, "upstream_invalid"):
        return  # what is malformed came so early that nothing had been relayed
    assert head.status == 200
    with pytest.raises(Ended):
        await client.content(head)


@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_case_070_a_reset_is_no_end_of_close_delimited_content(
    client: Client, upstream: Upstream, version: str
) -> None:
    arrived = asyncio.Event()

    async def step(call: Call) -> None:
        await call.send(b"HTTP/1.1 200 OK\r\n\r\npart")
        await arrived.wait()
        call.connection.reset()

    upstream.script = [step]
    await client.send(client.request("GET", "/api/x", version=version))
    head = await client.head()
    arrived.set()

    with pytest.raises(Ended):
        await client.content(head)


async def test_case_070_tls_that_ends_unannounced_is_no_end(client: Client, upstream: Upstream) -> None:
    """RFC 9112 9.8: without close_notify, close-delimited content "could be subject to truncation"."""
    if upstream.url.startswith("http:"):
        pytest.skip("this run has no TLS to the upstream")
    arrived = asyncio.Event()

    async def step(call: Call) -> None:
        await call.send(b"HTTP/1.1 200 OK\r\n\r\npart")
        await arrived.wait()
        call.connection.ended.set()
        call.connection.writer.transport.abort()  # an orderly TCP end, no alert before it

    upstream.script = [step]
    await client.send(client.request("GET", "/api/x"))
    head = await client.head()
    arrived.set()

    with pytest.raises(Ended):
        await client.content(head)


EXTRA = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(response(content=b"good"), id="length"),
        pytest.param(b"".join(CHUNKS), id="chunked"),
        pytest.param(response(204, content=b"", length=False), id="no_content"),
        pytest.param(response(content=b""), id="empty"),
    ],
)
@pytest.mark.parametrize("together", [True, False], ids=["together", "later"])
async def test_case_071_bytes_after_a_response_end_the_connection(
    client: Client, upstream: Upstream, first: bytes, together: bool
) -> None:
    async def step(call: Call) -> None:
        await call.send(first + EXTRA if together else first)
        if not together:
            await answered.wait()
            await call.send(EXTRA)
            await call.gone()

    answered = asyncio.Event()
    upstream.script = [step]
    got = await client.ask("GET", "/api/x")
    answered.set()
    if not together:
        await asyncio.wait_for(upstream.connections[0].ended.wait(), 5)
    following = await client.ask("GET", "/api/y")

    assert got.content in {b"good", b"abc0123456789", b""}
    assert following.content == b"ok"
    assert len(upstream.connections) == 2


def assert_ours(got: Response, status: int, *codes: str) -> None:
    assert got.status == status, got
    assert got.code in codes, got
    assert b"token-1" not in got.content + got.raw
    assert b"marker" not in got.content + got.raw


@pytest.mark.parametrize("step", [raw(close=True), raw(reset=True)], ids=["closes", "resets"])
async def test_case_072_no_answer(client: Client, upstream: Upstream, step: Step) -> None:
    upstream.default = step
    got = await client.ask("GET", "/api/x?query=marker", b"X: marker")

    assert_ours(got, 502, "upstream_unreachable", "upstream_invalid")
    await client.still_open()


async def test_case_072_nobody_listens(start_proxy: StartProxy, upstream: Upstream) -> None:
    proxy = await start_proxy()
    await upstream.shut()
    client = await proxy.connect()

    assert_ours(await client.ask("GET", "/api/x?query=marker"), 502, "upstream_unreachable")
    await client.still_open()


async def test_case_072_no_such_name(start_proxy: StartProxy) -> None:
    client = await (await start_proxy(to="https://krebit.invalid")).connect()

    assert_ours(await client.ask("GET", "/api/x?query=marker"), 502, "upstream_unreachable")


@pytest.mark.parametrize(
    ("names", "expired"), [(("other.example",), False), (("127.0.0.1",), True)], ids=["other_name", "expired"]
)
async def test_case_072_certificate_that_does_not_hold(
    start_proxy: StartProxy, authority: Authority, names: tuple[str], expired: bool
) -> None:
    async with Upstream(authority.server(*names, expired=expired)) as upstream:
        client = await (await start_proxy(to=upstream)).connect()

        assert_ours(await client.ask("GET", "/api/x?query=marker"), 502, "upstream_unreachable")
        assert not upstream.calls


async def test_case_072_certificate_of_an_unknown_authority(start_proxy: StartProxy, tmp_path: Path) -> None:
    async with Upstream(Authority(tmp_path).server("127.0.0.1")) as upstream:
        client = await (await start_proxy(to=upstream)).connect()

        assert_ours(await client.ask("GET", "/api/x"), 502, "upstream_unreachable")


async def test_case_073_a_silent_upstream_is_a_timeout(start_proxy: StartProxy, upstream: Upstream) -> None:
    async def silent(call: Call) -> None:
        await call.gone()

    upstream.script = [silent]
    client = await (await start_proxy(upstream={"response_timeout": 0.3})).connect()

    assert_ours(await client.ask("GET", "/api/x?query=marker"), 504, "upstream_timeout")
    await asyncio.wait_for(upstream.calls[0].connection.ended.wait(), 5)
    await client.still_open()


async def test_case_073_silence_in_the_content_breaks_it_off(start_proxy: StartProxy, upstream: Upstream) -> None:
    async def silent(call: Call) -> None:
        await call.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\npart")
        await call.gone()

    upstream.script = [silent]
    client = await (await start_proxy(upstream={"idle_timeout": 0.3})).connect()
    await client.send(client.request("GET", "/api/x"))
    head = await client.head()

    with pytest.raises(Ended):
        await client.content(head)


async def test_case_073_a_caller_that_takes_nothing_is_ended(start_proxy: StartProxy, upstream: Upstream) -> None:
    async def much(call: Call) -> None:
        await call.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (1 << 30))
        with contextlib.suppress(OSError):
            while not call.connection.closing:
                call.connection.writer.write(b"m" * (1 << 16))
                await call.connection.writer.drain()
        call.connection.ended.set()

    upstream.script = [much]
    client = await (await start_proxy(upstream={"idle_timeout": 0.5})).connect(receive_buffer=4096)
    await client.send(client.request("GET", "/api/x"))
    call = await upstream.called()

    await asyncio.wait_for(call.connection.ended.wait(), 10)


OK = b"HTTP/1.1 200 OK\r\n"
BAD = {
    "garbage": b"garbage\r\n\r\n",
    "nothing_but_lines": b"\r\n\r\n\r\n",
    "http_0_9": b"<html>hello</html>",
    "http_2": b"HTTP/2 200 OK\r\nContent-Length: 0\r\n\r\n",
    "http_2_0": b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "status_099": b"HTTP/1.1 099 OK\r\nContent-Length: 0\r\n\r\n",
    "status_600": b"HTTP/1.1 600 OK\r\nContent-Length: 0\r\n\r\n",
    "status_999": b"HTTP/1.1 999 OK\r\nContent-Length: 0\r\n\r\n",
    "status_20": b"HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n",
    "status_2000": b"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
    "status_word": b"HTTP/1.1 OK\r\nContent-Length: 0\r\n\r\n",
    "length_foo": OK + b"Content-Length: foo\r\n\r\nok",
    "length_plus": OK + b"Content-Length: +2\r\n\r\nok",
    "length_minus": OK + b"Content-Length: -2\r\n\r\nok",
    "length_hex": OK + b"Content-Length: 0x2\r\n\r\nok",
    "length_underscore": OK + b"Content-Length: 0_2\r\n\r\nok",
    "length_empty": OK + b"Content-Length: \r\n\r\nok",
    "length_huge": OK + b"Content-Length: 99999999999999999999999\r\n\r\nok",
    "length_list": OK + b"Content-Length: 2, 2\r\n\r\nok",
    "lengths_differ": OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nok",
    "length_twice": OK + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nok",
    "length_and_chunked": OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked_and_length": OK + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n",
    "coding_foo": OK + b"Transfer-Encoding: foo\r\n\r\nok",
    "coding_gzip": OK + b"Transfer-Encoding: gzip\r\n\r\nok",
    "coding_gzip_chunked": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "coding_chunked_chunked": OK + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "coding_twice": OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "coding_identity": OK + b"Transfer-Encoding: identity\r\n\r\nok",
    "coding_empty": OK + b"Transfer-Encoding:\r\n\r\nok",
    "coding_in_1_0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "nul_in_value": OK + b"X: a\x00b\r\nContent-Length: 2\r\n\r\nok",
    "control_in_value": OK + b"X: a\x01b\r\nContent-Length: 2\r\n\r\nok",
    "escape_in_value": OK + b"X: a\x1bb\r\nContent-Length: 2\r\n\r\nok",
    "del_in_value": OK + b"X: a\x7fb\r\nContent-Length: 2\r\n\r\nok",
    "bare_cr_in_value": OK + b"X: a\rb: c\r\nContent-Length: 2\r\n\r\nok",
    "bare_lf": OK + b"X: a\nContent-Length: 2\r\n\r\nok",
    "bare_lf_everywhere": b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
    "folded": OK + b"X: a\r\n b\r\nContent-Length: 2\r\n\r\nok",
    "space_before_colon": OK + b"X : a\r\nContent-Length: 2\r\n\r\nok",
    "space_first": OK + b" X: a\r\nContent-Length: 2\r\n\r\nok",
    "no_colon": OK + b"X\r\nContent-Length: 2\r\n\r\nok",
    "no_name": OK + b": a\r\nContent-Length: 2\r\n\r\nok",
    "bad_name": OK + b"X(a): b\r\nContent-Length: 2\r\n\r\nok",
    "name_not_ascii": OK + b"X\xe9: b\r\nContent-Length: 2\r\n\r\nok",
    "control_in_reason": b"HTTP/1.1 200 O\x01K\r\nContent-Length: 2\r\n\r\nok",
    "cut_head": OK + b"Content-Len",
}


@pytest.mark.parametrize("sent", BAD.values(), ids=BAD.keys())
async def test_case_074_what_is_not_http_is_upstream_invalid(client: Client, upstream: Upstream, sent: bytes) -> None:
    upstream.script = [raw(sent, close=True)]
    got = await client.ask("GET", "/api/x?query=marker")

    assert_ours(got, 502, "upstream_invalid")
    assert (await client.ask("GET", "/api/y")).content == b"ok"
    assert len(upstream.connections) == 2
    assert len(upstream.calls) == 2


async def test_case_075_interim_responses_before_the_final(client: Client, upstream: Upstream) -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n"
    got = await relayed(client, upstream, hints, b"HTTP/1.1 102 Processing\r\n\r\n", response())

    assert (got.status, got.content) == (200, b"ok")
    assert {interim.status for interim in got.interim} <= {102, 103}
    await client.still_open()


async def test_case_075_interim_response_and_no_final(client: Client, upstream: Upstream) -> None:
    got = await relayed(client, upstream, b"HTTP/1.1 103 Early Hints\r\n\r\n", close=True)

    assert_ours(got, 502, "upstream_invalid", "upstream_unreachable")


async def test_case_075_a_hundred_nobody_asked_for(client: Client, upstream: Upstream) -> None:
    got = await relayed(client, upstream, b"HTTP/1.1 100 Continue\r\n\r\n", response())

    assert (got.status, got.content) == (200, b"ok")


async def test_case_076_an_upgrade_nobody_asked_for(client: Client, upstream: Upstream) -> None:
    switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: evil\r\n\r\n"
    got = await relayed(client, upstream, switch)

    assert_ours(got, 502, "upstream_invalid")
    assert (await client.ask("GET", "/api/y")).content == b"ok"
    assert len(upstream.connections) == 2


WEBSOCKET = (b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: AAAA")


async def test_case_077_an_upgrade_that_is_granted_is_a_tunnel(client: Client, upstream: Upstream) -> None:
    async def tunnel(call: Call) -> None:
        assert call.values(b"upgrade") == [b"websocket"]
        assert [value.lower() for value in call.values(b"connection")] == [b"upgrade"]
        await call.send(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Accept: BBBB\r\n\r\n\x81\x02hi"
        )
        while True:
            await call.send(await call.connection.some(1 << 16))

    upstream.script = [tunnel]
    await client.send(client.request("GET", "/api/x", *WEBSOCKET))
    head = await client.head()

    assert (head.status, head.values(b"upgrade")) == (101, [b"websocket"])
    assert [value.lower() for value in head.values(b"connection")] == [b"upgrade"]
    assert head.values(b"sec-websocket-accept") == [b"BBBB"]
    assert await client.exactly(4) == b"\x81\x02hi"
    for piece in (b"\x00\xff\r\n\r\nGET /", b"x" * 300_000):
        pump = spawn(client.pump(piece, 1), name="tunnel")
        assert await client.exactly(len(piece)) == piece
        await pump
    client.close()
    await asyncio.wait_for(upstream.calls[0].connection.ended.wait(), 5)


async def test_case_077_a_tunnel_ends_with_the_upstream(client: Client, upstream: Upstream) -> None:
    upstream.script = [
        raw(b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", b"last", close=True)
    ]
    await client.send(client.request("GET", "/api/x", *WEBSOCKET))

    assert (await client.head()).status == 101
    assert await client.exactly(4) == b"last"
    await client.closed()


async def test_case_077_bytes_sent_with_the_request_reach_the_tunnel(client: Client, upstream: Upstream) -> None:
    early = asyncio.Queue[bytes]()

    async def tunnel(call: Call) -> None:
        await call.send(b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        early.put_nowait(await call.connection.some(100))
        await call.gone()

    upstream.script = [tunnel]
    await client.send(client.request("GET", "/api/x", *WEBSOCKET) + b"early")

    assert (await client.head()).status == 101
    assert await asyncio.wait_for(early.get(), 5) == b"early"
    client.close()


@pytest.mark.parametrize("status", [200, 403, 426])
async def test_case_077_an_upgrade_that_is_not_granted_leaves_a_clean_connection(
    client: Client, upstream: Upstream, status: int
) -> None:
    upstream.script = [answer(status, content=b"plain")]
    got = await client.ask("GET", "/api/x", *WEBSOCKET)

    assert (got.status, got.content) == (status, b"plain")
    assert (await client.ask("GET", "/api/y")).content == b"ok"


async def test_case_078_the_offer_of_h2c_is_left_aside(client: Client, upstream: Upstream) -> None:
    offer = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA")
    got = await client.ask("GET", "/api/x", *offer)
    following = await client.ask("POST", "/api/y", content=b"hello")

    assert (got.status, got.content, following.status) == (200, b"ok", 200)
    assert upstream.calls[0].values(b"http2-settings") == []
    assert b"h2c" not in b",".join(upstream.calls[0].values(b"upgrade")).lower()
    assert bytes(upstream.calls[1].content) == b"hello"


async def test_case_078_the_offer_with_the_next_request_in_one_packet(client: Client, upstream: Upstream) -> None:
    offer = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA")
    await client.send(client.request("GET", "/api/x", *offer) + client.request("GET", "/api/y"))
    first, second = await client.response(), await client.response()

    assert (first.content, second.content) == (b"ok", b"ok")
    assert [call.target for call in upstream.calls] == [b"/api/x", b"/api/y"]


@pytest.mark.parametrize("name", [b"Set-Cookie", b"X-Large"])
async def test_case_079_a_huge_field_of_the_upstream(start_proxy: StartProxy, upstream: Upstream, name: bytes) -> None:
    client = await (await start_proxy(access={"cookies": "forward"})).connect()
    got = await relayed(client, upstream, response(200, name + b": " + b"v" * 60_000))

    assert got.status in {200, 502}
    if got.status == 200:
        assert got.values(name) == [b"v" * 60_000]
    else:
        assert_ours(got, 502, "upstream_invalid")


async def test_case_079_a_head_without_end_is_not_collected(client: Client, upstream: Upstream) -> None:
    async def flood(call: Call) -> None:
        await call.send(b"HTTP/1.1 200 OK\r\n")
        for number in range(20_000):
            if call.connection.closing:
                break
            await call.send(b"X-%d: %s\r\n" % (number, b"v" * 1000))
        await call.gone()

    upstream.script = [flood]
    got = await client.ask("GET", "/api/x")

    assert_ours(got, 502, "upstream_invalid")


async def test_bytes_of_a_value_that_are_not_utf_8_arrive(client: Client, upstream: Upstream) -> None:
    value = b"caf\xe9 \xff\x80"
    got = await relayed(client, upstream, response(200, b"X-V: " + value, "X-U: blåbär".encode()))

    assert got.values(b"x-v") == [value]
    assert got.values(b"x-u") == ["blåbär".encode()]
