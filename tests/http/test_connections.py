"""Connections on both sides, from the first to the last."""

import asyncio
import contextlib
import signal
from pathlib import Path

import pytest

from krebit_proxy.tasks import spawn
from tests.fakes.client import Client, Ended
from tests.fakes.proxy import RunningProxy, StartProxy, proxy_process
from tests.fakes.upstream import Call, Step, Upstream, answer, raw, response
from tests.fakes.waiting import DEADLINE, eventually


async def test_a_hundred_requests_share_one_connection_on_each_side(client: Client, upstream: Upstream) -> None:
    for number in range(100):
        assert (await client.ask("GET", f"/api/{number}")).content == b"ok"

    assert [call.target for call in upstream.calls] == [b"/api/%d" % number for number in range(100)]
    assert len(upstream.connections) == 1


IDEMPOTENT = ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"]
CLOSE, RESET = raw(close=True), raw(reset=True)


@pytest.mark.parametrize("lose", [CLOSE, RESET], ids=["closed", "reset"])
@pytest.mark.parametrize("method", IDEMPOTENT)
async def test_an_idempotent_request_on_a_stale_connection_is_sent_again(
    client: Client, upstream: Upstream, method: str, lose: Step
) -> None:
    """The upstream ends the idle connection at the moment in which the request arrives on it."""
    upstream.script = [answer(), lose]
    await client.ask("GET", "/api/first")
    got = await client.ask(method, "/api/second")

    assert got.status == 200
    assert [call.target for call in upstream.calls] == [b"/api/first", b"/api/second", b"/api/second"]
    assert len(upstream.connections) == 2


@pytest.mark.parametrize("lose", [CLOSE, RESET], ids=["closed", "reset"])
@pytest.mark.parametrize("method", ["POST", "PATCH"])
async def test_any_other_request_on_a_stale_connection_is_sent_once(
    client: Client, upstream: Upstream, method: str, lose: Step
) -> None:
    upstream.script = [answer(), lose]
    await client.ask("GET", "/api/first")
    got = await client.ask(method, "/api/second", content=b"hello")

    assert got.status == 502
    assert got.code in {"upstream_unreachable", "upstream_invalid"}
    assert len(upstream.calls) == 2
    await client.still_open()


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_connection_that_was_closed_while_idle_is_not_used(
    client: Client, upstream: Upstream, method: str
) -> None:
    upstream.script = [raw(response(), close=True)]
    await client.ask("GET", "/api/first")
    await asyncio.wait_for(upstream.connections[0].ended.wait(), DEADLINE)
    got = await client.ask(method, "/api/second", content=b"hello" if method == "POST" else b"")

    assert got.status in ({200} if method == "GET" else {200, 502})
    assert len(upstream.calls) <= 2


@pytest.mark.parametrize("lose", [CLOSE, RESET], ids=["closed", "reset"])
@pytest.mark.parametrize(("method", "most"), [*((method, 2) for method in IDEMPOTENT), ("POST", 1), ("PATCH", 1)])
async def test_a_failing_request_is_not_repeated_for_ever(
    client: Client, upstream: Upstream, method: str, most: int, lose: Step
) -> None:
    upstream.default = lose
    got = await client.ask(method, "/api/x")

    assert got.status == 502
    assert len(upstream.calls) <= most


async def test_a_fresh_connection_that_fails_is_not_tried_again(client: Client, upstream: Upstream) -> None:
    """No transport retry but of an idempotent request on a connection that was already open."""
    upstream.default = CLOSE
    await client.ask("GET", "/api/x")

    assert len(upstream.calls) == 1


async def test_a_response_that_began_is_not_tried_again(client: Client, upstream: Upstream) -> None:
    upstream.script = [answer(), raw(b"HTTP/1.1 200", close=True)]
    await client.ask("GET", "/api/first")
    got = await client.ask("GET", "/api/second")

    assert got.status == 502
    assert len(upstream.calls) == 2


async def test_pipelined_requests_are_answered_in_order(client: Client, upstream: Upstream) -> None:
    async def numbered(call: Call) -> None:
        await call.send(response(content=call.target))

    upstream.default = numbered
    await client.send(b"".join(client.request("GET", f"/api/{number}") for number in range(40)))
    contents = [(await client.response()).content for _ in range(40)]

    assert contents == [b"/api/%d" % number for number in range(40)]


async def test_pipelined_requests_of_mixed_outcome_are_answered_in_order(client: Client, upstream: Upstream) -> None:
    await client.send(
        client.request("GET", "/api/1")
        + client.request("GET", "/other")
        + client.request("POST", "/api/2", content=b"hello")
        + client.request("HEAD", "/api/3")
        + client.request("GET", "/healthz")
    )
    statuses = [(await client.response(method)).status for method in ("GET", "GET", "POST", "HEAD", "GET")]

    assert statuses == [200, 404, 200, 200, 200]


@pytest.mark.parametrize("line", [b"Connection: keep-alive", b"Connection: close", b"X: 1"])
async def test_content_of_unknown_length_for_http_1_0_ends_with_the_connection(
    client: Client, upstream: Upstream, line: bytes
) -> None:
    upstream.script = [raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")]
    await client.send(client.request("GET", "/api/x", line, version="1.0"))
    got = await client.response()

    assert (got.framing, got.content) == ("close", b"ok")
    assert b"transfer-encoding" not in got.names


async def test_content_of_known_length_for_http_1_0_may_keep_the_connection(client: Client, upstream: Upstream) -> None:
    await client.send(client.request("GET", "/api/x", b"Connection: keep-alive", version="1.0"))
    got = await client.response()

    assert (got.framing, got.content) == ("length", b"ok")
    if b"keep-alive" in [value.lower() for value in got.values(b"connection")]:
        assert (await client.ask("GET", "/api/y")).content == b"ok"
    else:
        await client.closed()


async def test_a_caller_that_half_closes_gets_its_answer_or_an_end(client: Client, upstream: Upstream) -> None:
    await client.send(client.request("GET", "/api/x"))
    client.half_close()
    ended = await client.rest()

    assert ended.got == b"" or ended.got.endswith(b"\r\n\r\nok")
    assert len(upstream.calls) <= 1


async def connected(proxy: RunningProxy, number: int) -> list[Client]:
    return [await proxy.connect() for _ in range(number)]


async def test_idle_connections_do_not_keep_others_out(start_proxy: StartProxy) -> None:
    proxy = await start_proxy(limits={"keepalive": 1})
    idle = []
    for _ in range(200):
        idle.append(await proxy.connect())
        await idle[-1].still_open()
    client = await proxy.connect()

    assert (await client.ask("GET", "/api/x")).content == b"ok"
    await asyncio.gather(*(client.closed() for client in idle))


async def test_connections_that_never_ask_are_ended(start_proxy: StartProxy) -> None:
    proxy = await start_proxy(limits={"header_timeout": 0.5})
    silent = await connected(proxy, 20)

    for client in silent:
        ended = await client.rest()
        assert ended.got == b"" or ended.got.startswith(b"HTTP/1.1 408 ")
    assert len(proxy.events("connection.timed_out")) == 20


@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_the_first_answer_tells_how_long_the_connection_may_be_idle(
    start_proxy: StartProxy, version: str
) -> None:
    """And it stays open for a second more, so that no request meets the end of it."""
    proxy = await start_proxy(limits={"keepalive": 1.5})
    client = await proxy.connect()
    ask = client.request("GET", "/api/x", b"Connection: keep-alive", version=version)
    await client.send(ask)
    first = await client.response()
    await asyncio.sleep(1.6)
    await client.send(ask)
    second = await client.response()

    assert (first.values(b"keep-alive"), first.values(b"connection")) == ([b"timeout=1"], [b"keep-alive"])
    assert second.values(b"keep-alive") == []
    assert (await client.rest()).got == b""


async def test_an_answer_that_closes_tells_no_limit(client: Client) -> None:
    assert (await client.ask("GET", "/api/x", b"Connection: close")).values(b"keep-alive") == []


async def test_less_than_a_second_is_not_told(start_proxy: StartProxy) -> None:
    client = await (await start_proxy(limits={"keepalive": 0.9})).connect()

    assert (await client.ask("GET", "/api/x")).values(b"keep-alive") == []


async def test_at_the_limit_the_longest_idle_makes_room(start_proxy: StartProxy) -> None:
    proxy = await start_proxy(limits={"connections": 5})
    idle = await connected(proxy, 5)
    for _ in range(10):
        idle.reverse()
        for client in idle:  # the last that came is idle for longest, though perhaps by less than a millisecond
            await client.still_open()
        newcomer = await proxy.connect()

        assert (await newcomer.ask("GET", "/api/x")).content == b"ok"
        await idle.pop(0).closed()
        idle.append(newcomer)


async def test_at_the_limit_with_all_busy_one_more_is_told_overloaded(
    start_proxy: StartProxy, upstream: Upstream
) -> None:
    go = asyncio.Event()

    async def busy(call: Call) -> None:
        await go.wait()
        await call.send(response())

    upstream.default = busy
    proxy = await start_proxy(limits={"connections": 3})
    busy_clients = await connected(proxy, 3)
    for client in busy_clients:
        await client.send(client.request("GET", "/api/x"))
    await upstream.called(3)
    client = await proxy.connect()
    await client.send(client.request("GET", "/api/x"))
    got = await client.response()

    assert (got.status, got.code) == (503, "overloaded")
    assert got.values(b"retry-after")[0].isdigit()
    await client.closed()
    go.set()
    for client in busy_clients:
        assert (await client.response()).content == b"ok"
    assert len(upstream.calls) == 3


async def test_a_stop_finishes_the_request_in_flight(tmp_path: Path) -> None:
    go = asyncio.Event()

    async def slow(call: Call) -> None:
        await go.wait()
        await call.send(response(content=b"finished"))

    async with Upstream() as upstream, proxy_process(upstream, tmp_path, limits={"drain": 8}) as proxy:
        idle, client = await proxy.connect(), await proxy.connect()
        await idle.still_open()
        upstream.script = [slow]
        await client.send(client.request("GET", "/api/x"))
        await upstream.called()
        proxy.process.send_signal(signal.SIGTERM)
        await idle.closed()
        with pytest.raises(OSError, match=r"refused|Connect call failed"):
            await proxy.connect()
        go.set()
        got = await client.response()
        await client.closed()
        status = await proxy.exited()
        idle.close()
        client.close()

    assert got.content == b"finished"
    assert status == 0
    assert "Traceback" not in proxy.log_file.read_text()


@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_a_stop_cuts_a_stream_over_the_limit_visibly(tmp_path: Path, version: str) -> None:
    async def stream(call: Call) -> None:
        await call.send(b"HTTP/1.1 200 OK\r\n\r\npart")
        await call.gone()

    async with Upstream() as upstream, proxy_process(upstream, tmp_path, limits={"drain": 0.3}) as proxy:
        client = await proxy.connect()
        upstream.script = [stream]
        await client.send(client.request("GET", "/api/x", version=version))
        head = await client.head()
        proxy.process.send_signal(signal.SIGTERM)
        with pytest.raises(Ended):
            await client.content(head)
        status = await proxy.exited()
        client.close()

    assert status == 0
    assert "Traceback" not in proxy.log_file.read_text()


async def test_a_stop_ends_idle_connections_on_both_sides(start_proxy: StartProxy, upstream: Upstream) -> None:
    proxy = await start_proxy(limits={"drain": 0.3})
    idle = await proxy.connect()
    await idle.ask("GET", "/api/x")
    await proxy.proxy.stop()

    await idle.closed()
    await asyncio.wait_for(upstream.connections[0].ended.wait(), DEADLINE)


async def test_requests_that_meet_an_expired_token_wait_for_one_renewal(
    start_proxy: StartProxy, upstream: Upstream
) -> None:
    upstream.tokens.open.clear()
    proxy = await start_proxy(grant={"expires_in": -10})
    clients = await connected(proxy, 2)
    for client in clients:
        await client.send(client.request("GET", "/api/x"))
    await eventually(lambda: upstream.tokens.requests)
    upstream.tokens.open.set()
    for client in clients:
        assert (await client.response()).status == 200

    assert [call.token for call in upstream.calls] == [b"token-2", b"token-2"]
    assert len(upstream.tokens.requests) == 1


async def test_a_caller_that_leaves_does_not_cancel_the_renewal(start_proxy: StartProxy, upstream: Upstream) -> None:
    upstream.tokens.open.clear()
    proxy = await start_proxy(grant={"expires_in": -10})
    client = await proxy.connect()
    await client.send(client.request("GET", "/api/x"))
    await eventually(lambda: upstream.tokens.requests)
    client.close()
    other = await proxy.connect()
    await other.send(other.request("GET", "/api/y"))
    upstream.tokens.open.set()

    assert (await other.response()).status == 200
    assert len(upstream.tokens.requests) == 1


@pytest.mark.parametrize("first", [b"G", b"GET", b"GET /api/x HTTP/1.1\r\nHost: a\r\nX: "])
async def test_a_head_that_does_not_end_is_a_timeout(start_proxy: StartProxy, upstream: Upstream, first: bytes) -> None:
    proxy = await start_proxy(limits={"header_timeout": 0.3})
    client = await proxy.connect()
    await client.send(first)
    ended = await client.rest()

    assert ended.got == b"" or ended.got.startswith(b"HTTP/1.1 408 ")
    assert not upstream.calls


async def test_a_head_that_trickles_is_a_timeout(start_proxy: StartProxy, upstream: Upstream) -> None:
    """The limit is for the whole head: each byte in time does not make the head in time."""
    proxy = await start_proxy(limits={"header_timeout": 0.5})
    client = await proxy.connect()
    await client.send(b"GET /api/x HTTP/1.1\r\nHost: " + client.authority + b"\r\nX: ")
    answer = spawn(client.response(), name="answer")
    while not answer.done():
        with contextlib.suppress(OSError):  # once it has answered, it reads no more
            await client.send(b"a")
        assert client.sent < 500
        await asyncio.wait({answer}, timeout=0.05)

    assert answer.result().status == 408
    assert not upstream.calls


async def test_a_second_head_that_trickles_is_a_timeout(start_proxy: StartProxy, upstream: Upstream) -> None:
    proxy = await start_proxy(limits={"header_timeout": 0.3, "keepalive": 5})
    client = await proxy.connect()
    await client.ask("GET", "/api/x")
    await client.send(b"GET /api/y HTTP/1.1\r\nHost")
    ended = await client.rest()

    assert ended.got == b"" or ended.got.startswith(b"HTTP/1.1 408 ")
    assert len(upstream.calls) == 1
