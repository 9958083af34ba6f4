"""Which connection a request goes on, and what happens when it was dead."""

import asyncio
import os

import pytest

from krebit_proxy.errors import Refused
from krebit_proxy.upstream import Upstream
from tests.fakes.certificates import Authority
from tests.fakes.relay import Relay
from tests.fakes.waiting import DEADLINE, eventually
from tests.upstream.conftest import Open, Serve
from tests.upstream.scripted import GET, Peer, content_of, get, request, settings_for

both = pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])


@both
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"])
async def test_an_idempotent_request_on_a_dead_connection_is_sent_once_more(
    serve: Serve, upstream: Open, tls: bool, method: str
) -> None:
    heads: list[bytes] = []

    async def script(peer: Peer) -> None:
        heads.append(await peer.head())
        await peer.answer(b"" if method == "HEAD" and len(heads) > 1 else b"one")
        if len(heads) == 1:
            heads.append(await peer.head())  # and hangs up

    server = await serve(script, tls=tls)
    pool = upstream(server)
    assert await get(pool) == b"one"
    exchange = await pool.open(**request(method))
    assert (await exchange.response()).status == 200
    await content_of(exchange)
    exchange.release()
    assert [head.split(b" ")[0] for head in heads] == [b"GET", method.encode(), method.encode()]


@both
@pytest.mark.parametrize("method", ["POST", "PATCH"])
async def test_another_request_is_never_sent_twice(serve: Serve, upstream: Open, tls: bool, method: str) -> None:
    heads: list[bytes] = []

    async def script(peer: Peer) -> None:
        heads.append(await peer.head())
        await peer.answer()
        heads.append(await peer.head())

    pool = upstream(await serve(script, tls=tls))
    await get(pool)
    exchange = await pool.open(**request(method))
    with pytest.raises(Refused) as refused:
        await exchange.response()
    exchange.release()
    assert refused.value.code == "upstream_unreachable"
    assert len(heads) == 2


async def test_held_content_goes_with_the_second_try(serve: Serve, upstream: Open) -> None:
    contents: list[bytes] = []

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.answer()
        if not contents:
            await peer.head()
            contents.append(await peer.reader.readexactly(5))
            return
        await peer.head()
        await peer.answer()

    async def second(peer: Peer) -> None:
        await peer.head()
        contents.append(await peer.reader.readexactly(10))
        await peer.answer()

    server = await serve(script)
    pool = upstream(server)
    await get(pool)
    exchange = await pool.open(**request("PUT", 10))
    server.script = second
    exchange.send(b"hello")
    await eventually(lambda: contents)
    await eventually(lambda: len(server.peers) == 2)
    exchange.send(b"world")
    await exchange.drain()
    exchange.finish()
    assert (await exchange.response()).status == 200
    exchange.release()
    assert contents == [b"hello", b"helloworld"]


async def test_content_that_is_not_held_is_not_sent_again(serve: Serve, upstream: Open) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.answer()
        await peer.head()
        await peer.reader.readexactly(100_000)

    server = await serve(script)
    pool = upstream(server)
    await get(pool)
    exchange = await pool.open(**request("PUT", 100_000))
    exchange.send(b"x" * 100_000)
    exchange.finish()
    with pytest.raises(Refused):
        await exchange.response()
    exchange.release()
    assert len(server.peers) == 1


async def test_a_second_death_is_not_retried(serve: Serve, upstream: Open) -> None:
    heads: list[bytes] = []

    async def script(peer: Peer) -> None:
        heads.append(await peer.head())
        if len(heads) == 1:
            await peer.answer()
            heads.append(await peer.head())

    pool = upstream(await serve(script))
    await get(pool)
    exchange = await pool.open(GET, method="GET")
    with pytest.raises(Refused):
        await exchange.response()
    exchange.release()
    assert len(heads) == 3


async def cut_off_the_second_time(peer: Peer) -> None:
    """Answers one request, takes the next one, and goes."""
    await peer.head()
    await peer.answer()
    await peer.head()


async def test_the_retry_may_find_nobody(serve: Serve, upstream: Open) -> None:
    server = await serve(cut_off_the_second_time)
    pool = upstream(server, connect_timeout=1)
    await get(pool)
    exchange = await pool.open(GET, method="GET")
    server.listener.close()
    with pytest.raises(Refused, match="refuses connections"):
        await exchange.response()
    exchange.release()


async def test_giving_up_during_the_retry_leaves_no_exchange_behind(serve: Serve, upstream: Open) -> None:
    server = await serve(cut_off_the_second_time)
    pool = upstream(server)
    await get(pool)
    exchange = await pool.open(GET, method="GET")
    while exchange._link is not None:  # the very turn of the loop in which the retry starts
        await asyncio.sleep(0)
    exchange.abort()
    await eventually(lambda: repr(pool).endswith("0 active, 1 idle>"))  # the connection that was made for it


@both
@pytest.mark.parametrize(
    "octets", [b"x", b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"], ids=["octet", "response"]
)
async def test_octets_on_an_idle_connection_end_it(serve: Serve, upstream: Open, tls: bool, octets: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.answer(b"mine")
        await idle.wait()
        peer.send(octets)
        await peer.gone()

    idle = asyncio.Event()
    server = await serve(script, tls=tls)
    pool = upstream(server)
    assert await get(pool) == b"mine"
    assert repr(pool).endswith("1 idle>")
    idle.set()
    await eventually(lambda: repr(pool).endswith("0 idle>"))
    assert await get(pool) == b"mine"
    assert len(server.peers) == 2


async def test_octets_that_the_loop_has_not_seen_yet_are_nobodys_answer(serve: Serve, upstream: Open) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.answer(b"mine")
        await peer.gone()

    server = await serve(script)
    pool = upstream(server)
    assert await get(pool) == b"mine"
    # Written to the socket here and now: the loop gets no turn before the next request takes the connection.
    sock = server.peers[0].writer.get_extra_info("socket")
    os.write(sock.fileno(), b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
    assert await get(pool) == b"mine"
    assert len(server.peers) == 2


@both
@pytest.mark.parametrize(
    "first",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokEXTRA",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ],
    ids=["surplus", "close", "1.0"],
)
async def test_a_connection_that_may_not_be_used_again_is_closed(
    serve: Serve, upstream: Open, tls: bool, first: bytes
) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        peer.send(first)
        await peer.gone()

    server = await serve(script, tls=tls)
    pool = upstream(server)
    for _ in range(2):
        assert await get(pool) == b"ok"
    assert len(server.peers) == 2


async def test_the_connection_used_last_is_used_first_and_old_ones_end(serve: Serve, upstream: Open) -> None:
    async def script(peer: Peer) -> None:
        while await peer.head():
            await peer.answer(b"%d" % server.peers.index(peer))

    server = await serve(script)
    pool = upstream(server, keepalive=0.3)
    one, two = [await pool.open(GET, method="GET") for _ in range(2)]
    for exchange in (one, two):
        await exchange.response()
        await content_of(exchange)
        exchange.release()
    assert await get(pool) == b"1"
    await eventually(lambda: repr(pool).endswith("0 idle>"))
    for _ in range(2):
        await asyncio.wait_for(server.finished.acquire(), DEADLINE)


async def test_an_expired_connection_is_not_used_even_if_nobody_looked(serve: Serve, upstream: Open) -> None:
    async def script(peer: Peer) -> None:
        while await peer.head():
            await peer.answer()

    server = await serve(script)
    pool = upstream(server)
    await get(pool)
    pool._idle[0].idle_since -= 60
    await get(pool)
    assert len(server.peers) == 2


async def answering(peer: Peer) -> None:
    while await peer.head():
        await peer.answer(b"mine")


async def test_who_waits_takes_the_first_connection_that_becomes_free(serve: Serve, authority: Authority) -> None:
    server = await serve(answering, tls=True)
    async with Relay(server.port) as relay:
        pool = Upstream(settings_for(f"https://localhost:{relay.port}", ca_file=authority.ca_file))
        first = await pool.open(GET, method="GET")
        await first.response()
        assert await content_of(first) == b"mine"
        relay.deaf = True
        second = pool.open(GET, method="GET")  # the connection that is made for it will never be ready
        first.release()
        assert (await second.response()).status == 200
        second.release()
        await pool.close()
    assert len(server.peers) == 1


async def test_who_gives_up_waiting_leaves_nothing_behind(serve: Serve, upstream: Open) -> None:
    server = await serve(answering)
    pool = upstream(server)
    waiting = asyncio.ensure_future(pool.open(GET, method="GET"))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait({waiting})
    assert waiting.cancelled()
    await eventually(lambda: repr(pool).endswith("0 active, 1 idle>"))
    assert await get(pool) == b"mine"
    assert len(server.peers) == 1


async def test_octets_behind_a_response_are_not_for_who_waits(serve: Serve, upstream: Open) -> None:
    server = await serve(answering)
    pool = upstream(server)
    first = await pool.open(GET, method="GET")
    await first.response()
    assert await content_of(first) == b"mine"
    second = pool.open(GET, method="GET")
    sock = server.peers[0].writer.get_extra_info("socket")
    os.write(sock.fileno(), b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
    first.release()
    await second.response()
    assert await content_of(second) == b"mine"
    second.release()


async def test_a_burst_does_not_shake_hands_all_at_once_and_all_are_told_in_time(serve: Serve) -> None:
    server = await serve(Peer.gone)
    pool = Upstream(settings_for(f"https://localhost:{server.port}", connect_timeout=1))
    exchanges = [pool.open(GET, method="GET") for _ in range(300)]
    answers = asyncio.gather(*(exchange.response() for exchange in exchanges), return_exceptions=True)
    codes = {getattr(answer, "code", answer) for answer in await asyncio.wait_for(answers, DEADLINE)}
    assert codes == {"upstream_unreachable"}
    assert 64 <= len(server.peers) <= 2 * 64  # the next may begin just before all that wait have waited long enough
    await pool.close()


async def test_a_closed_pool_keeps_nothing(serve: Serve, upstream: Open) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.answer()
        assert await peer.gone() == b""

    server = await serve(script)
    pool = upstream(server)
    exchange = await pool.open(GET, method="GET")
    await exchange.response()
    await content_of(exchange)
    pool._closed = True
    exchange.release()
    await asyncio.wait_for(server.finished.acquire(), DEADLINE)
