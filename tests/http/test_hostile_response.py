"""Mutated responses of the upstream: relayed as they were meant, refused, or broken off where the caller sees it."""

import asyncio
import contextlib
import itertools
import os
import random
import re
from collections.abc import Callable, Iterator

import pytest

from tests.fakes.client import Ended, Response
from tests.fakes.messages import Malformed, content_length, parse_response_head
from tests.fakes.proxy import StartProxy
from tests.fakes.upstream import Call, Upstream, raw, response
from tests.fakes.waiting import DEADLINE
from tests.http.mutation import mutated
from tests.http.shooting_range import echo
from tests.http.test_broken_response import BAD

_SEEDS = [
    response(content=b"hello"),
    response(204, b"ETag: a", content=b"", length=False),
    response(200, b"Transfer-Encoding: chunked", b"X-A: 1", content=b"5;a=b\r\nhello\r\n0\r\n\r\n", length=False),
    response(200, b"Connection: close, X-A", b"X-A: 1", content=b"hello", length=False),
    b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n" + response(404, b"X-A: caf\xe9"),
    *BAD.values(),
]


# The space after the status is in the grammar, and many leave it out.
_NO_REASON = re.compile(rb"\A(HTTP/1\.[01] [0-9]{3})(?=\r\n|\Z)")


def means_something(sent: bytes) -> bool:
    """Whether the bytes begin with the head of a final response that is valid by the letter."""
    while True:
        head, blank, sent = sent.lstrip(b"\r\n").partition(b"\r\n\r\n")
        head = _NO_REASON.sub(rb"\1 ", head)
        try:
            line, fields = parse_response_head(head + blank)
            content_length(fields, line.version, default=None)
        except Malformed:
            return False
        if line.status >= 200 or not blank:
            return bool(blank)


@pytest.mark.slow
async def test_a_mutated_response_is_relayed_refused_or_visibly_broken_off(
    start_proxy: StartProxy, upstream: Upstream, effort: Callable[[int, int], int]
) -> None:
    upstream.default = echo
    proxy = await start_proxy(upstream={"response_timeout": 0.3, "idle_timeout": 0.3})
    client = await proxy.connect()
    seed = os.environ.get("KREBIT_TEST_SEED", "1")
    for number in range(effort(1000, 50_000)):
        chance = random.Random(f"{seed}/{number}")
        sent = mutated(chance.choice(_SEEDS), chance)
        upstream.script = [raw(sent, close=True)]
        got: Response | None = None
        try:
            got = await client.ask("GET", "/api/x")
        except Ended:
            client.close()
            client = await proxy.connect()
        told = f"{seed}/{number}: {sent!r} became {got}"
        if got is not None and not got.code:
            assert means_something(sent) or not sent, told  # without a byte, it was sent again to the default step
        elif got is not None:
            assert got.code in {"upstream_invalid", "upstream_timeout", "upstream_unreachable"}, told
        upstream.script = []
        following = await client.ask("GET", f"/api/canary/{number}")
        assert (following.status, following.content) == (200, b"/api/canary/%d" % number), told
        upstream.calls.clear()
        upstream.connections.clear()


_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
_MUCH = 4000
ENDLESS: dict[str, Callable[[], Iterator[bytes]]] = {
    "reason": lambda: itertools.chain([b"HTTP/1.1 200 "], itertools.repeat(b"a" * _MUCH)),
    "field_name": lambda: itertools.chain([b"HTTP/1.1 200 OK\r\n"], itertools.repeat(b"a" * _MUCH)),
    "field_value": lambda: itertools.chain([b"HTTP/1.1 200 OK\r\nA: "], itertools.repeat(b"a" * _MUCH)),
    "interim_responses": lambda: itertools.repeat(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100),
    "trailers": lambda: itertools.chain([_CHUNKED, b"0\r\n"], itertools.repeat(b"X-Trailer: a\r\n" * 300)),
    "trailer": lambda: itertools.chain([_CHUNKED, b"1\r\na\r\n0\r\nA: "], itertools.repeat(b"a" * _MUCH)),
    "chunk_extension": lambda: itertools.chain([_CHUNKED, b"1;"], itertools.repeat(b"a" * _MUCH)),
    "chunk_extensions": lambda: itertools.chain([_CHUNKED], itertools.repeat(b"1;a=%s\r\na\r\n" % (b"a" * _MUCH))),
}


@pytest.mark.parametrize("parts", ENDLESS.values(), ids=ENDLESS.keys())
async def test_what_has_no_end_and_is_no_content_is_not_read_for_ever(
    start_proxy: StartProxy, upstream: Upstream, parts: Callable[[], Iterator[bytes]]
) -> None:
    sent = 0

    async def flood(call: Call) -> None:
        nonlocal sent
        watch = asyncio.ensure_future(call.gone())
        for part in parts():
            if watch.done() or sent > 32 << 20:
                break
            await call.send(part)
            await asyncio.sleep(0)
            sent += len(part)
        await watch

    proxy = await start_proxy()
    client = await proxy.connect()
    upstream.script = [flood]
    await client.send(client.request("GET", "/api/x"))
    with contextlib.suppress(Ended):
        got = await client.response()
        assert got.code == "upstream_invalid"
    await asyncio.wait_for(upstream.connections[0].ended.wait(), DEADLINE)

    assert sent < 16 << 20  # most of it fills the buffers of two kernels
    other = await proxy.connect()
    assert (await other.ask("GET", "/api/y")).content == b"ok"


async def test_chunks_of_one_octet_arrive_and_leave_room_for_others(
    start_proxy: StartProxy, upstream: Upstream
) -> None:
    count = 300_000
    upstream.script = [raw(_CHUNKED, b"1\r\na\r\n" * count, b"0\r\n\r\n")]
    proxy = await start_proxy()
    client, other = await proxy.connect(), await proxy.connect()
    await client.send(client.request("GET", "/api/x"))
    head = await client.head()
    for _ in range(10):
        assert (await other.ask("GET", "/healthz")).status == 200
    await client.content(head)

    assert head.content == b"a" * count
