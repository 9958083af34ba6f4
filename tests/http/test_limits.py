"""Slow, silent, greedy and hopeless callers: each is bounded by a limit and told of once in the log."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from krebit_proxy.tasks import spawn
from tests.fakes.proxy import RunningProxy, StartProxy
from tests.fakes.upstream import Call, Upstream, answer, response
from tests.fakes.waiting import eventually, settled
from tests.http.shooting_range import LIMITS, echo


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(b"GET /api/x HTTP/1.1\r\nX: marker", id="head"),
        pytest.param(b"POST /api/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nmarker", id="content"),
    ],
)
async def test_many_slow_callers_do_not_keep_others_out(
    start_proxy: StartProxy, upstream: Upstream, first: bytes
) -> None:
    upstream.default = echo
    proxy = await start_proxy(limits={**LIMITS, "connections": 500})
    slow = [await proxy.connect() for _ in range(200)]
    await asyncio.gather(*(client.send(first) for client in slow))
    client = await proxy.connect()

    assert (await client.ask("GET", "/api/quick")).content == b"/api/quick"
    for client in slow:
        ended = await client.rest()
        assert ended.got == b"" or ended.got.startswith(b"HTTP/1.1 408 ")
    assert "marker" not in proxy.written()


async def test_a_caller_that_takes_no_answers_gets_no_more_of_them_and_is_ended(
    start_proxy: StartProxy, upstream: Upstream
) -> None:
    """It asks 2,000 times, one after the other, for 60 kB each, and reads nothing: 120 MB must not pile up here."""
    upstream.default = answer(content=bytes(60_000))
    proxy = await start_proxy(limits=LIMITS, upstream={"idle_timeout": 0.5})
    caller = await proxy.connect()
    with suppress(OSError):
        await caller.send(caller.request("GET", "/api/x") * 2_000)

    answered = await settled(lambda: len(upstream.calls), quiet=1)
    assert answered < 500
    ended = await caller.rest()
    assert ended.got.count(b"HTTP/1.1 200 OK") < 500


def refusals(proxy: RunningProxy) -> list[dict[str, object]]:
    """What the log says of requests and connections that did not work, debugging aside."""
    return [event for event in proxy.events() if event.get("level") != "debug" and "code" in event]


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"GET /api/x HTTP/1.1\r\nX", "request_timeout"),
        (b"POST /api/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nx", "request_timeout"),
        (b"GET /api/x HTTP/1.1\r\nHost: evil.example\r\n\r\n", "host_not_allowed"),
        (b"GET /other HTTP/1.1\r\nHost: localhost\r\n\r\n", "not_forwarded"),
        (b"GET /api/x HTTP/1.1\r\nHost: localhost\r\nX: \x01\r\n\r\n", "bad_request"),
        (b"GET /api/x HTTP/9.9\r\nHost: localhost\r\n\r\n", "version_not_supported"),
        (b"GET /api/x HTTP/1.1\r\nHost: localhost\r\nOrigin: null\r\n\r\n", "cross_site"),
        (b"garbage\r\n\r\n", "bad_request"),
    ],
    ids=["slow_head", "slow_content", "host", "path", "field", "version", "origin", "garbage"],
)
async def test_each_refusal_is_one_event(start_proxy: StartProxy, upstream: Upstream, sent: bytes, code: str) -> None:
    upstream.default = echo
    proxy = await start_proxy(limits=LIMITS)
    client = await proxy.connect()
    await client.send(sent)
    ended = await client.rest()

    assert ended.got == b"" or code.encode() in ended.got
    await eventually(lambda: refusals(proxy), what="an event in the log")
    assert [event["code"] for event in refusals(proxy)] == [code]


async def test_a_caller_too_many_is_one_event(start_proxy: StartProxy, upstream: Upstream) -> None:
    async def busy(call: Call) -> None:
        await call.gone()

    upstream.default = busy
    proxy = await start_proxy(limits={"connections": 1})
    first = await proxy.connect()
    await first.send(first.request("GET", "/api/x"))
    await upstream.called()
    other = await proxy.connect()
    await other.send(other.request("GET", "/api/x"))
    await other.rest()

    assert [event["code"] for event in refusals(proxy)] == ["overloaded"]


async def test_a_caller_that_takes_nothing_is_one_event(start_proxy: StartProxy, upstream: Upstream) -> None:
    async def much(call: Call) -> None:
        await call.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (1 << 30))
        with suppress(OSError):
            while not call.connection.closing:
                await call.send(b"m" * (1 << 16))

    upstream.default = much
    proxy = await start_proxy(upstream={"idle_timeout": 0.3})
    client = await proxy.connect(receive_buffer=4096)
    await client.send(client.request("GET", "/api/x"))
    await eventually(lambda: refusals(proxy), what="an event in the log")

    assert len(refusals(proxy)) == 1


TIMES = 12


async def slowly(take: Callable[[], Awaitable[object]]) -> None:
    """Takes a little, and again, for much longer than the idle timeout of these tests, which is two seconds.

    It is that long because a kernel tells the other side of free room only when there is much of it.
    """
    for _ in range(TIMES):
        await take()
        await asyncio.sleep(0.3)


@pytest.mark.slow
async def test_a_caller_that_takes_little_at_a_time_is_not_cut(start_proxy: StartProxy, upstream: Upstream) -> None:
    upstream.script = [answer(content=bytes(16 << 20))]
    client = await (await start_proxy(upstream={"idle_timeout": 2})).connect(receive_buffer=1 << 16)
    await client.send(client.request("GET", "/api/x"))
    head = await client.head()
    await slowly(lambda: client.exactly(1 << 16))
    await client.exactly((16 << 20) - (TIMES << 16))

    assert head.status == 200
    await client.still_open()


@pytest.mark.slow
async def test_an_upstream_that_takes_little_at_a_time_is_not_given_up(
    start_proxy: StartProxy, upstream: Upstream
) -> None:
    async def reluctant(call: Call) -> None:
        await slowly(lambda: call.receive(1 << 20))
        await call.read()
        await call.send(response(content=b"%d" % len(call.content)))

    upstream.script = [reluctant]
    client = await (await start_proxy(upstream={"idle_timeout": 2})).connect()
    await client.send(client.request("POST", "/api/x", b"Content-Length: %d" % (16 << 20)))
    pump = spawn(client.pump(bytes(1 << 20), 16), name="upload")
    got = await client.response()
    await pump

    assert (got.status, got.content) == (200, b"%d" % (16 << 20))
