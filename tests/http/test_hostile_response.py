"""Mutated responses of the upstream: relayed as they were meant, refused, or broken off where the caller sees it."""

import os
import random
import re
from collections.abc import Callable

import pytest

from tests.fakes.client import Ended, Response
from tests.fakes.messages import Malformed, content_length, parse_response_head
from tests.fakes.proxy import StartProxy
from tests.fakes.upstream import Upstream, raw, response
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
