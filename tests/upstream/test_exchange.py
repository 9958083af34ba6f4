"""One request and its response over real sockets, plain and over TLS."""

import asyncio
import hashlib
import os

import pytest

from krebit_proxy.errors import Refused
from krebit_proxy.upstream import UpstreamBroken
from krebit_proxy.upstream.exchange import HIGH_WATER
from krebit_proxy.upstream.link import READ, READ_DENSE
from tests.fakes.waiting import DEADLINE, eventually, settled
from tests.upstream.conftest import Open, Serve
from tests.upstream.scripted import GET, Peer, content_of, get, request

both = pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
BIG = os.urandom(1 << 20) * 8


async def echo(peer: Peer) -> None:
    """Answers each request with its length-framed or absent content."""
    while head := await peer.head():
        length = int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0]) if b"Content-Length" in head else 0
        await peer.answer(await peer.reader.readexactly(length))


@both
async def test_many_requests_share_one_connection(serve: Serve, upstream: Open, tls: bool) -> None:
    server = await serve(echo, tls=tls)
    pool = upstream(server)
    for number in range(50):
        exchange = await pool.open(**request("POST", 4))
        exchange.send(b"%04d" % number)
        exchange.finish()
        head = await exchange.response()
        assert (head.status, head.length, await content_of(exchange)) == (200, 4, b"%04d" % number)
        exchange.release()
    assert len(server.peers) == 1
    assert repr(pool).endswith("0 active, 1 idle>")


@both
async def test_head_and_first_content_leave_together(serve: Serve, upstream: Open, tls: bool) -> None:
    first: list[bytes] = []

    async def script(peer: Peer) -> None:
        first.append(await peer.reader.read(1 << 16))
        await peer.answer()

    exchange = await upstream(await serve(script, tls=tls)).open(**request("POST", 5))
    exchange.send(b"hello")
    exchange.finish()
    await exchange.response()
    exchange.release()
    assert first[0].endswith(b"\r\n\r\nhello")


async def test_the_head_leaves_when_content_is_slow_to_come(serve: Serve, upstream: Open) -> None:
    seen = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        seen.set()
        assert await peer.reader.readexactly(5) == b"hello"
        await peer.answer()

    exchange = await upstream(await serve(script)).open(**request("POST", 5))
    await asyncio.wait_for(seen.wait(), DEADLINE)
    exchange.send(b"hello")
    exchange.finish()
    await exchange.response()
    exchange.release()


async def test_content_of_unknown_length_is_sent_in_chunks(serve: Serve, upstream: Open) -> None:
    received: list[bytes] = []

    async def script(peer: Peer) -> None:
        await peer.head()
        received.append(await peer.reader.readuntil(b"0\r\n\r\n"))
        await peer.answer()

    exchange = await upstream(await serve(script)).open(**request("POST", None))
    for data in (b"hello", b"", b"x" * 20):
        exchange.send(data)
    exchange.finish()
    await exchange.response()
    exchange.release()
    assert received == [b"5\r\nhello\r\n14\r\n" + b"x" * 20 + b"\r\n0\r\n\r\n"]


@pytest.mark.parametrize("sent", [b"abc", b"abcdef"], ids=["less", "more"])
async def test_content_that_does_not_match_its_length_ends_the_connection(
    serve: Serve, upstream: Open, sent: bytes
) -> None:
    server = await serve(echo)
    exchange = await upstream(server).open(**request("POST", 5))

    def send() -> None:
        exchange.send(sent)
        exchange.finish()

    with pytest.raises(ValueError, match="content than"):
        send()
    with pytest.raises(UpstreamBroken):
        await exchange.response()
    await asyncio.wait_for(server.finished.acquire(), DEADLINE)


@both
@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
async def test_large_content_arrives_whole_and_memory_is_bounded(
    serve: Serve, upstream: Open, tls: bool, framing: str
) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        fields = {"length": b"Content-Length: %d\r\n" % len(BIG), "chunked": b"Transfer-Encoding: chunked\r\n"}
        peer.send(b"HTTP/1.1 200 OK\r\n%b\r\n" % fields.get(framing, b""))
        for start in range(0, len(BIG), 100_000):
            part = BIG[start : start + 100_000]
            peer.send(b"%x\r\n%b\r\n" % (len(part), part) if framing == "chunked" else part)
            await peer.writer.drain()
        if framing == "chunked":
            peer.send(b"0\r\n\r\n")
            await peer.writer.drain()

    exchange = await upstream(await serve(script, tls=tls)).open(GET, method="GET")
    await exchange.response()
    # Nobody reads: it fills up to the mark and stops, within one read.
    held = await settled(lambda: exchange._response.buffered)
    assert HIGH_WATER <= held <= 2 * HIGH_WATER
    digest = hashlib.sha256()
    while chunk := exchange.read_nowait() or await exchange.read():
        digest.update(chunk)
        assert exchange._response.buffered <= 2 * HIGH_WATER
    exchange.release()
    assert digest.digest() == hashlib.sha256(BIG).digest()


@both
async def test_an_upload_waits_for_an_upstream_that_does_not_read(serve: Serve, upstream: Open, tls: bool) -> None:
    go = asyncio.Event()
    digests: list[bytes] = []

    async def script(peer: Peer) -> None:
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]  # the transport of a stream reads
        await go.wait()
        peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
        await peer.head()
        digests.append(hashlib.sha256(await peer.reader.readexactly(len(BIG) * 2)).digest())
        await peer.answer()

    exchange = await upstream(await serve(script, tls=tls)).open(**request("POST", len(BIG) * 2))
    sent = 0

    async def send() -> None:
        nonlocal sent
        for start in range(0, len(BIG) * 2, 1 << 16):
            exchange.send((BIG * 2)[start : start + (1 << 16)])
            await exchange.drain()
            sent += 1 << 16
            assert exchange._link is not None
            assert exchange._link.buffered <= HIGH_WATER
        exchange.finish()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(send())
        assert await settled(lambda: sent) < len(BIG) * 2
        go.set()
    assert (await exchange.response()).status == 200
    exchange.release()
    assert digests == [hashlib.sha256(BIG * 2).digest()]


@both
@pytest.mark.parametrize("end", ["cut", "reset"])
@pytest.mark.parametrize(
    "start",
    [b"Content-Length: 10\r\n\r\nhalf", b"Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", b"\r\nhalf"],
    ids=["length", "chunked", "close"],
)
async def test_half_an_answer_is_never_a_clean_end(
    serve: Serve, upstream: Open, tls: bool, end: str, start: bytes
) -> None:
    cut = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        peer.send(b"HTTP/1.1 200 OK\r\n" + start)
        await cut.wait()
        getattr(peer, end)()

    pool = upstream(await serve(script, tls=tls))
    exchange = await pool.open(GET, method="GET")
    await exchange.response()
    assert await exchange.read() == b"half"
    cut.set()
    if end == "cut" and start == b"\r\nhalf" and not tls:
        # A FIN is all that plain HTTP has to end such an answer.
        assert await exchange.read() == b""
    else:
        with pytest.raises(UpstreamBroken):
            await exchange.read()
    exchange.release()
    assert repr(pool).endswith("0 active, 0 idle>")


async def test_over_tls_a_close_notify_ends_a_close_delimited_answer(serve: Serve, upstream: Open) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        peer.send(b"HTTP/1.1 200 OK\r\n\r\nall of it")

    assert await get(upstream(await serve(script, tls=True))) == b"all of it"


@both
async def test_a_head_of_60_kb_passes(serve: Serve, upstream: Open, tls: bool) -> None:
    cookies = b"".join(b"Set-Cookie: %d=%b\r\n" % (number, b"c" * 4000) for number in range(15))

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.answer(b"ok", cookies)

    exchange = await upstream(await serve(script, tls=tls)).open(GET, method="GET")
    head = await exchange.response()
    assert b"".join(b"%b: %b\r\n" % pair for pair in head.fields[1:]) == cookies
    assert await content_of(exchange) == b"ok"
    exchange.release()


@both
async def test_an_early_answer_comes_while_content_is_still_sent(serve: Serve, upstream: Open, tls: bool) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        peer.send(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig")
        await peer.gone()

    server = await serve(script, tls=tls)
    pool = upstream(server)
    exchange = await pool.open(**request("POST", 1 << 30))
    exchange.send(b"x" * 1000)
    assert (await exchange.response()).status == 413
    assert await content_of(exchange) == b"big"
    with pytest.raises(UpstreamBroken):
        await exchange.drain()
    exchange.release()
    await asyncio.wait_for(server.finished.acquire(), DEADLINE)
    assert repr(pool).endswith("0 active, 0 idle>")


@both
async def test_an_early_answer_survives_the_reset_that_follows_it(serve: Serve, upstream: Open, tls: bool) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        peer.send(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig")
        await peer.writer.drain()
        # Closing with content unread makes the system send RST.

    exchange = await upstream(await serve(script, tls=tls)).open(**request("POST", 1 << 30))

    async def send_for_ever() -> None:
        while True:
            exchange.send(b"x" * 65536)
            await exchange.drain()
            await asyncio.sleep(0)

    with pytest.raises(UpstreamBroken):
        await send_for_ever()
    assert (await exchange.response()).status == 413
    assert await content_of(exchange) == b"big"
    exchange.release()


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"", "upstream_unreachable"),
        (b"HTTP/1.1 200 O", "upstream_invalid"),
        (b"HTTP/1.1 103 Early Hints\r\n\r\n", "upstream_invalid"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n", "upstream_invalid"),
        (b"SSH-2.0-OpenSSH\r\n", "upstream_invalid"),
        (b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", "upstream_invalid"),
    ],
)
@both
async def test_no_valid_head_is_refused(serve: Serve, upstream: Open, tls: bool, answer: bytes, code: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        peer.send(answer)

    server = await serve(script, tls=tls)
    exchange = await upstream(server).open(GET, method="GET")
    with pytest.raises(Refused) as refused:
        await exchange.response()
    exchange.release()
    assert refused.value.code == code
    assert len(server.peers) == 1


async def test_interim_answers_are_skipped(serve: Serve, upstream: Open) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        peer.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
        await peer.writer.drain()
        await peer.answer(b"ok")

    assert await get(upstream(await serve(script))) == b"ok"


async def test_events_come_one_by_one(serve: Serve, upstream: Open) -> None:
    more = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n")
        await more.wait()
        peer.send(b"9\r\ndata: 2\n\n\r\n0\r\n\r\n")

    exchange = await upstream(await serve(script)).open(GET, method="GET")
    await exchange.response()
    assert await exchange.read() == b"data: 1\n\n"
    assert exchange.read_nowait() is None
    more.set()
    assert await exchange.read() == b"data: 2\n\n"
    assert await exchange.read() == b""
    exchange.release()


async def test_small_chunks_are_read_in_small_parts(serve: Serve, upstream: Open) -> None:
    """Parsing takes time, in which nobody else gets a turn."""

    async def script(peer: Peer) -> None:
        await peer.head()
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 300_000 + b"0\r\n\r\n")
        await peer.head()
        await peer.answer(BIG)
        await peer.gone()

    pool = upstream(await serve(script))
    exchange = await pool.open(GET, method="GET")
    await exchange.response()
    sizes = []
    while chunk := exchange.read_nowait() or await exchange.read():
        sizes.append(len(chunk))
    exchange.release()
    assert sum(sizes) == 300_000
    assert max(sizes[len(sizes) // 2 :]) <= READ_DENSE // 6 + 1
    assert await get(pool) == BIG
    assert pool._idle[0].most == READ


@both
async def test_giving_up_ends_the_connection_at_once(serve: Serve, upstream: Open, tls: bool) -> None:
    server = await serve(Peer.gone, tls=tls)
    exchange = await upstream(server).open(**request("POST", 100))
    exchange.send(b"some")
    exchange.abort()
    await asyncio.wait_for(server.finished.acquire(), DEADLINE)
    with pytest.raises(UpstreamBroken):
        await exchange.read()


async def test_a_caller_that_is_cancelled_may_abort(serve: Serve, upstream: Open) -> None:
    server = await serve(Peer.gone)
    exchange = await upstream(server).open(GET, method="GET")
    waiting = asyncio.ensure_future(exchange.response())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    exchange.abort()
    await asyncio.wait_for(server.finished.acquire(), DEADLINE)


@both
async def test_after_a_switch_raw_octets_go_both_ways(serve: Serve, upstream: Open, tls: bool) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        peer.send(b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nhello")
        while data := await peer.reader.read(100):
            peer.send(data.upper())
            if data == b"end":
                return

    exchange = await upstream(await serve(script, tls=tls)).open(GET, method="GET", upgrade=True)
    head = await exchange.response()
    assert (head.status, head.has_content) == (101, False)
    assert await exchange.read() == b"hello"
    exchange.send(b"raw\r\n")
    assert await exchange.read() == b"RAW\r\n"
    exchange.send(b"end")
    assert await content_of(exchange) == b"END"
    exchange.release()


async def test_continue_lets_the_content_go(serve: Serve, upstream: Open) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await peer.reader.readexactly(5)
        await peer.answer()

    exchange = await upstream(await serve(script)).open(**request("POST", 5))
    assert await exchange.continued(10)
    exchange.send(b"hello")
    exchange.finish()
    await exchange.response()
    exchange.release()


async def test_without_a_word_the_content_goes_after_a_while(serve: Serve, upstream: Open) -> None:
    exchange = await upstream(await serve(Peer.gone)).open(**request("POST", 5))
    assert await exchange.continued(0.02)
    exchange.abort()


async def test_a_final_answer_in_place_of_continue_keeps_the_content_back(serve: Serve, upstream: Open) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.answer()
        assert await peer.gone() == b""

    exchange = await upstream(await serve(script)).open(**request("POST", 5))
    assert not await exchange.continued(10)
    assert (await exchange.response()).status == 200
    exchange.release()


async def test_silence_before_the_head_is_a_timeout(serve: Serve, upstream: Open) -> None:
    pool = upstream(await serve(Peer.gone), response_timeout=0.05)
    exchange = await pool.open(GET, method="GET")
    with pytest.raises(Refused, match="did not respond") as refused:
        await exchange.response()
    exchange.release()
    assert refused.value.code == "upstream_timeout"


async def test_the_time_for_an_answer_starts_when_the_content_ends(serve: Serve, upstream: Open) -> None:
    pool = upstream(await serve(Peer.gone), response_timeout=0.05, idle_timeout=0.4)
    exchange = await pool.open(**request("POST", 10))
    exchange.send(b"hello")
    started = pool.time()
    with pytest.raises(Refused, match="sent and took nothing"):
        await exchange.response()
    assert pool.time() - started >= 0.4
    exchange.release()


@both
async def test_a_slow_reader_is_not_cut_by_the_upstreams_clock(serve: Serve, upstream: Open, tls: bool) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.answer(BIG)
        await peer.gone()

    pool = upstream(await serve(script, tls=tls), idle_timeout=0.1)
    exchange = await pool.open(GET, method="GET")
    await exchange.response()
    await settled(lambda: exchange._response.buffered, quiet=0.3)
    assert await content_of(exchange) == BIG
    exchange.release()


async def test_an_upstream_that_takes_nothing_is_idle(serve: Serve, upstream: Open) -> None:
    async def script(peer: Peer) -> None:
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]  # the transport of a stream reads
        await over.wait()

    over = asyncio.Event()
    pool = upstream(await serve(script), idle_timeout=0.1)
    exchange = await pool.open(**request("POST", 1 << 30))

    async def send_for_ever() -> None:
        while True:
            exchange.send(b"x" * 65536)
            await exchange.drain()

    with pytest.raises(UpstreamBroken):
        await send_for_ever()
    with pytest.raises(Refused, match="sent and took nothing"):
        await exchange.response()
    exchange.release()
    over.set()


async def test_a_response_that_stops_is_idle(serve: Serve, upstream: Open) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab")
        await peer.gone()

    exchange = await upstream(await serve(script), idle_timeout=0.1).open(GET, method="GET")
    await exchange.response()
    with pytest.raises(UpstreamBroken, match="sent and took nothing"):
        await content_of(exchange)
    exchange.release()


async def test_closing_the_pool_breaks_open_exchanges_off(serve: Serve, upstream: Open) -> None:
    server = await serve(Peer.gone)
    pool = upstream(server)
    exchange = await pool.open(GET, method="GET")
    await eventually(lambda: server.peers)
    await pool.close()
    with pytest.raises(UpstreamBroken):
        await exchange.response()
