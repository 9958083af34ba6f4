"""What breaks off, does not come, or is not HTTP."""

import asyncio
import contextlib
from pathlib import Path

import pytest

from tests.fakes.certificates import Authority
from tests.fakes.client import Client, Ended
from tests.fakes.proxy import RunningProxy, StartProxy
from tests.fakes.upstream import Call, Step, Upstream, raw, response
from tests.fakes.waiting import DEADLINE, eventually
from tests.http.responses import CHUNKS, assert_ours, relayed


@pytest.mark.parametrize("leave", [Client.close, Client.reset])
@pytest.mark.parametrize("answered", [False, True])
async def test_a_caller_that_leaves_ends_the_exchange(
    proxy: RunningProxy, client: Client, upstream: Upstream, leave: object, answered: bool
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

    await asyncio.wait_for(call.connection.ended.wait(), DEADLINE)
    await eventually(lambda: proxy.events("request.done"))
    (event,) = proxy.events("request.done")
    assert (event["code"], event["status"]) == ("caller_left", 200 if answered else 499)


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param((b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", b"part"), id="counted"),
        pytest.param((b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b"p" * 500_000), id="counted_and_large"),
        pytest.param((CHUNKS[0], b"4\r\npart\r\n"), id="between_chunks"),
        pytest.param((CHUNKS[0], b"8\r\npart"), id="inside_a_chunk"),
        pytest.param((CHUNKS[0], b"4\r\npart\r\n0\r\n"), id="before_the_last_line"),
        pytest.param((CHUNKS[0], b"4\r\npart\r\nZZ\r\n"), id="malformed_chunk"),
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
async def test_a_reset_is_no_end_of_close_delimited_content(client: Client, upstream: Upstream, version: str) -> None:
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


async def test_tls_that_ends_unannounced_is_no_end(client: Client, upstream: Upstream) -> None:
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
async def test_bytes_after_a_response_end_the_connection(
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
        await asyncio.wait_for(upstream.connections[0].ended.wait(), DEADLINE)
    following = await client.ask("GET", "/api/y")

    assert got.content in {b"good", b"abc0123456789", b""}
    assert following.content == b"ok"
    assert len(upstream.connections) == 2


@pytest.mark.parametrize("step", [raw(close=True), raw(reset=True)], ids=["closes", "resets"])
async def test_an_upstream_that_ends_without_an_answer_is_a_502(client: Client, upstream: Upstream, step: Step) -> None:
    upstream.default = step
    got = await client.ask("GET", "/api/x?query=marker", b"X: marker")

    assert_ours(got, 502, "upstream_unreachable", "upstream_invalid")
    await client.still_open()


async def test_an_upstream_where_nobody_listens_is_unreachable(start_proxy: StartProxy, upstream: Upstream) -> None:
    proxy = await start_proxy(upstream={"connect_timeout": 0.5})
    await upstream.shut()
    client = await proxy.connect()

    assert_ours(await client.ask("GET", "/api/x?query=marker"), 502, "upstream_unreachable")
    await client.still_open()


async def test_an_upstream_with_an_unknown_name_is_unreachable(start_proxy: StartProxy) -> None:
    client = await (await start_proxy(to="https://krebit.invalid", upstream={"connect_timeout": 3})).connect()

    assert_ours(await client.ask("GET", "/api/x?query=marker"), 502, "upstream_unreachable")


@pytest.mark.parametrize(
    ("names", "expired"), [(("other.example",), False), (("127.0.0.1",), True)], ids=["other_name", "expired"]
)
async def test_a_certificate_that_does_not_hold_gets_no_request(
    start_proxy: StartProxy, authority: Authority, names: tuple[str], expired: bool
) -> None:
    async with Upstream(authority.server(*names, expired=expired)) as upstream:
        client = await (await start_proxy(to=upstream)).connect()

        assert_ours(await client.ask("GET", "/api/x?query=marker"), 502, "upstream_unreachable")
        assert not upstream.calls


async def test_a_certificate_of_an_unknown_authority_is_not_trusted(start_proxy: StartProxy, tmp_path: Path) -> None:
    async with Upstream(Authority(tmp_path).server("127.0.0.1")) as upstream:
        client = await (await start_proxy(to=upstream)).connect()

        assert_ours(await client.ask("GET", "/api/x"), 502, "upstream_unreachable")


async def test_a_silent_upstream_is_a_timeout(start_proxy: StartProxy, upstream: Upstream) -> None:
    async def silent(call: Call) -> None:
        await call.gone()

    upstream.script = [silent]
    client = await (await start_proxy(upstream={"response_timeout": 0.3})).connect()

    assert_ours(await client.ask("GET", "/api/x?query=marker"), 504, "upstream_timeout")
    await asyncio.wait_for(upstream.calls[0].connection.ended.wait(), DEADLINE)
    await client.still_open()


async def test_silence_in_the_content_breaks_it_off(start_proxy: StartProxy, upstream: Upstream) -> None:
    async def silent(call: Call) -> None:
        await call.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\npart")
        await call.gone()

    upstream.script = [silent]
    client = await (await start_proxy(upstream={"idle_timeout": 0.3})).connect()
    await client.send(client.request("GET", "/api/x"))
    head = await client.head()

    with pytest.raises(Ended):
        await client.content(head)


async def test_a_caller_that_takes_nothing_is_ended(start_proxy: StartProxy, upstream: Upstream) -> None:
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

    await asyncio.wait_for(call.connection.ended.wait(), DEADLINE)


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
async def test_what_is_not_http_is_upstream_invalid(client: Client, upstream: Upstream, sent: bytes) -> None:
    upstream.script = [raw(sent, close=True)]
    got = await client.ask("GET", "/api/x?query=marker")

    assert_ours(got, 502, "upstream_invalid")
    assert (await client.ask("GET", "/api/y")).content == b"ok"
    assert len(upstream.connections) == 2
    assert len(upstream.calls) == 2


async def test_interim_responses_come_before_the_final_one(client: Client, upstream: Upstream) -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n"
    got = await relayed(client, upstream, hints, b"HTTP/1.1 102 Processing\r\n\r\n", response())

    assert (got.status, got.content) == (200, b"ok")
    assert {interim.status for interim in got.interim} <= {102, 103}
    await client.still_open()


async def test_an_interim_response_alone_is_no_answer(client: Client, upstream: Upstream) -> None:
    got = await relayed(client, upstream, b"HTTP/1.1 103 Early Hints\r\n\r\n", close=True)

    assert_ours(got, 502, "upstream_invalid", "upstream_unreachable")


async def test_a_100_that_nobody_asked_for_is_passed_over(client: Client, upstream: Upstream) -> None:
    got = await relayed(client, upstream, b"HTTP/1.1 100 Continue\r\n\r\n", response())

    assert (got.status, got.content) == (200, b"ok")


async def test_a_response_head_without_end_is_not_collected(client: Client, upstream: Upstream) -> None:
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
