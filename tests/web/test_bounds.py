"""What a stranger can feed has a bound in bytes, and in the time that it takes from others in one turn of the loop."""

import asyncio
import socket
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest

from krebit_proxy.core import admission, fields
from krebit_proxy.core.access import Rules
from krebit_proxy.core.admission import Request, admit
from krebit_proxy.core.fields import checked, connection_options, response_fields
from krebit_proxy.core.head import Head
from krebit_proxy.errors import Refused
from krebit_proxy.web.flow import HIGH_WATER
from krebit_proxy.web.request_reader import _A_CALL, _A_TURN, _LITTLE, _SLICE, RequestReader
from tests.fakes.client import Client
from tests.fakes.proxy import ProxyProcess, StartProxy, proxy_process
from tests.fakes.upstream import Upstream
from tests.fakes.waiting import eventually
from tests.web.test_request_reader import reading

MEMORY = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the memory of a process from /proc")
MIB = 1 << 20


# Caches


def test_large_heads_leave_nothing_in_a_cache() -> None:
    caches = (fields._folded, fields._options, fields._returned, admission._names_loopback)
    before = [cache.cache_info().currsize for cache in caches]
    for number in range(64):
        many = [(b"x-%d-%d" % (number, each), b"") for each in range(1000)]
        names = checked(many)
        options = b",".join(b"a%d-%d" % (number, each) for each in range(1000))
        assert len(connection_options(checked([(b"Connection", options)]), [(b"Connection", options)])) == 1000
        response_fields(names, many, length=0, upstream_origin=b"", caller_origin=b"", cookies=False)
        host = b"%d.%b.localhost" % (number, b"x" * 1000)
        head = Head.examined([(b"Host", host)], http10=False, withheld=frozenset())
        with pytest.raises(Refused):
            admit(Request(Rules().peer("127.0.0.1", "127.0.0.1"), b"GET", b"/api/x", head), Rules())

    after = [cache.cache_info().currsize for cache in caches]
    assert sum(after) - sum(before) <= 4  # for the small heads


# The reader of requests


TINY = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def test_one_read_makes_no_more_calls_than_may_wait() -> None:
    reader, _ = reading()
    reader.feed(TINY * 10_000)

    assert len(reader.calls) <= HIGH_WATER // _A_CALL
    assert calls_in_all(reader) == 10_000


def test_many_little_reads_make_no_more_calls_than_may_wait_and_one_read_more() -> None:
    reader, _ = reading()
    for _ in range(100):
        reader.feed(TINY * (_LITTLE // len(TINY)))
        if reader.backlog >= HIGH_WATER:
            break

    assert len(reader.calls) <= HIGH_WATER // _A_CALL + _LITTLE // len(TINY)


def calls_in_all(reader: RequestReader) -> int:
    number = 0
    while reader.calls:
        number += len(reader.calls)
        reader.calls.clear()
        reader.read_on()
    return number


@pytest.mark.parametrize(
    "data",
    [
        b"1\r\nx\r\n" * 40_000,  # chunks
        b"1;" + b"a=b;" * 60_000,  # a chunk extension
        b"1\r\n\n\r\n" * 40_000,  # content that looks like the end of heads
        b"0\r\n" + b"a:\r\n" * 60_000,  # trailers
    ],
    ids=["chunks", "extension", "empty lines", "trailers"],
)
def test_one_turn_parses_so_much_and_leaves_the_rest_for_later(data: bytes) -> None:
    reader, _ = reading()
    reader.feed(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    content = reader.calls[0].content
    reader.feed(data)
    left = len(data) - len(reader.later)

    assert content.error is not None or left <= _A_TURN + _SLICE
    while reader.later:
        reader.read_on()
    assert content.error is not None or content.received == 40_000
    assert len(reader._unfinished.fields) < 10_000
    assert len(content._pieces) < 50


def test_content_in_single_bytes_costs_no_more_than_other_content() -> None:
    reader, _ = reading()
    reader.feed(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n")
    for _ in range(100_000):
        reader.feed(b"x")

    assert reader.calls[0].content.complete
    assert len(reader.calls[0].content._pieces) <= 100_000 // 4096 + 1


def test_upgrades_that_are_declined_do_not_nest() -> None:
    reader, _ = reading()
    reader.feed(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n" * 3000)

    assert calls_in_all(reader) == 3000


# All of it together


async def test_others_are_answered_while_a_caller_sends_300_000_chunks_of_one_byte(
    start: StartProxy, upstream: Upstream
) -> None:
    proxy = await start()
    sender, prober = await proxy.connect(), await proxy.connect()
    chunks = b"1\r\nx\r\n" * 300_000 + b"0\r\n\r\n"
    sending = asyncio.ensure_future(
        sender.send(sender.request("POST", "/api/x", b"Transfer-Encoding: chunked") + chunks)
    )
    answer = asyncio.ensure_future(sender.response())
    probes = 0
    while not answer.done():
        assert (await prober.ask("GET", "/healthz")).status == 200
        probes += 1
    await sending

    assert (await answer).status == 200
    assert bytes(upstream.calls[0].content) == b"x" * 300_000
    assert probes > 3  # each takes some turns of the loop; at most 2 if one turn does it all


@MEMORY
@pytest.mark.slow
@pytest.mark.parametrize("target", ["/api/x", "/", "/healthz"])
async def test_memory_is_bounded_when_callers_pipeline_and_take_no_answer(
    upstream: Upstream, tmp_path: Path, target: str
) -> None:
    async with AsyncExitStack() as stack:
        quiet = {"level": "info", "format": "json", "access": False}
        proxy = await stack.enter_async_context(proxy_process(upstream, tmp_path, log=quiet))
        before = await warm(proxy)
        callers = [await proxy.connect(receive_buffer=4096) for _ in range(200)]
        for caller in callers:
            stack.callback(caller.close)
        await asyncio.gather(*[pipelined(caller, target) for caller in callers])
        peak = proxy.memory()
        for caller in callers:
            caller.close()
        last = await proxy.connect()
        stack.callback(last.close)
        assert (await last.ask("GET", "/healthz")).status == 200
        await eventually(lambda: proxy.memory() - before < 20 * MIB, what="memory is given back")

    assert peak - before < 40 * MIB


async def warm(proxy: ProxyProcess) -> int:
    client = await proxy.connect()
    for target in ("/api/x", "/", "/healthz"):
        for _ in range(50):
            await client.ask("GET", target)
    client.close()
    return proxy.memory()


async def pipelined(client: Client, target: str) -> None:
    """Sends requests until the proxy takes no more for a second."""
    data = client.request("GET", target) * 1000
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
    sent = -1
    sending = asyncio.ensure_future(client.pump(data, 100))
    with suppress(OSError):
        while sent != client.sent and not sending.done():
            sent = client.sent
            await asyncio.wait({sending}, timeout=1)
    sending.cancel()
    await eventually(sending.done)
