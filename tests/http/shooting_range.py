"""One proxy and its upstream to send hostile input to, and the judge of what comes of it.

What "correctly" means is judged by an independent reader of the bytes that were sent (`tests.fakes.messages`): the
upstream may see the requests that this reader finds, in order, each with its own fields and content, and no others.
"""

import itertools
import re
from contextlib import suppress
from dataclasses import dataclass, field

from krebit_proxy.errors import CODES
from tests.fakes.client import Ended, Response
from tests.fakes.messages import RequestHead, read_requests
from tests.fakes.proxy import RunningProxy
from tests.fakes.upstream import Call, Gone, Upstream, response
from tests.fakes.waiting import eventually

LIMITS = {"header_timeout": 0.25, "body_timeout": 0.25, "keepalive": 0.4}
_number = itertools.count(1)
OURS = {
    b"host",
    b"via",
    b"authorization",
    b"content-length",
    b"transfer-encoding",
    b"expect",
    b"connection",
    b"upgrade",
}
_NEVER = {b"keep-alive", b"proxy-authorization", b"proxy-connection", b"te", b"trailer", b"cookie", b"http2-settings"}


async def echo(call: Call) -> None:
    """Answers with the target, so that a response tells which request it belongs to."""
    call.connection.received.clear()  # a long run would fill the memory
    if call.values(b"expect"):
        await call.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    with suppress(Gone):
        await call.read()
        await call.send(response(content=call.target))


@dataclass
class Attempt:
    """What one connection came to: bytes sent, responses got, calls that the upstream saw."""

    sent: bytes
    canary: bytes
    responses: list[Response] = field(default_factory=list)
    ended: bool = False
    broken_off: bytes = b""  # of a response, before an orderly end
    calls: list[Call] = field(default_factory=list)

    @property
    def canary_answered(self) -> bool:
        return any(got.content == self.canary for got in self.responses)

    @property
    def canary_seen(self) -> bool:
        return any(self.canary in call.target for call in self.calls)

    def __str__(self) -> str:
        return (
            f"sent {self.sent!r:.600}\n got {[(got.status, got.code) for got in self.responses]} ended={self.ended}\n"
            f" upstream saw {[(call.method, call.target, bytes(call.content)[:80]) for call in self.calls]}"
        )


@dataclass
class Range:
    """One proxy and its upstream, for attempts one after the other."""

    proxy: RunningProxy
    upstream: Upstream

    async def attempt(self, hostile: bytes) -> Attempt:
        """Sends `hostile` and a canary behind it; reads until the canary is answered or the connection ends."""
        canary = b"/api/canary/%d" % next(_number)
        sent = hostile + b"GET %s HTTP/1.1\r\nHost: localhost\r\nX-Canary: 1\r\n\r\n" % canary
        attempt = Attempt(sent, canary)
        self.upstream.calls.clear()
        self.upstream.connections.clear()
        client = await self.proxy.connect()
        with suppress(OSError):
            await client.send(sent)
        try:
            while not attempt.canary_answered:
                attempt.responses.append(await client.response())
        except Ended as ended:
            attempt.ended = True
            attempt.broken_off = b"" if ended.reset else ended.got
        client.close()
        attempt.calls = list(self.upstream.calls)
        for call in attempt.calls:
            await eventually(lambda call=call: call.complete or call.broken, what=str(attempt))  # type: ignore[misc]
        judge(attempt, self.upstream)
        return attempt


def judge(attempt: Attempt, upstream: Upstream) -> None:
    """The rules that hold whatever was sent."""
    assert not attempt.broken_off, str(attempt)
    for got in attempt.responses:
        assert got.status != 500, str(attempt)
        if got.code:
            assert got.status == CODES[got.code][0] < 502 or got.code == "version_not_supported", str(attempt)
            # Which host name is not served is said, since the name is what must be allowed.
            assert b"marker" not in got.content or got.code == "host_not_allowed", str(attempt)
        else:
            assert got.status == 200, str(attempt)
    reading = read_requests(attempt.sent)
    expected = iter([*reading.requests, *([(reading.incomplete, None)] if reading.incomplete else [])])
    refused = attempt.ended and not attempt.canary_answered
    for call in attempt.calls:
        assert any(_same(call, head, content, upstream, refused=refused) for head, content in expected), str(attempt)
    if not reading.malformed and any(head.target == attempt.canary for head, _ in reading.requests):
        assert attempt.canary_answered or attempt.ended, str(attempt)


def _same(call: Call, head: RequestHead, content: bytes | None, upstream: Upstream, *, refused: bool) -> bool:
    """Whether a call of the upstream is this request. If it is, then it must be all of it and nothing else.

    Content that turned out to be malformed (`content` is None), or that we did not want to read to its end, was broken
    off: the upstream can tell that it is not complete.
    """
    target = re.sub(rb"(?i)^https?://[^/?]*", b"", head.target)
    if (call.method, call.target) != (head.method, target):
        return False
    if call.complete or content is None:
        assert (bytes(call.content), call.complete) == (content, True) or call.broken
    else:
        assert call.broken
        assert refused
        assert content.startswith(bytes(call.content))
    assert call.values(b"authorization") == [b"Bearer token-1"]
    assert call.values(b"host") == [upstream.authority]
    theirs = [(name, value) for name, value in call.head.fields if name.lower() not in OURS]
    rest = iter(head.fields)
    assert all(one in rest for one in theirs)
    assert not {name.lower() for name, _ in theirs} & _NEVER
    return True
