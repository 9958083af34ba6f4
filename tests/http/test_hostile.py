"""Hostile input against the real listener: a clean refusal, a close, or a correctly forwarded request.

What "correctly" means is judged by an independent reader of the bytes that were sent (`tests.fakes.messages`): the
upstream may see the requests that this reader finds, in order, each with its own fields and content, and no others.
"""

import asyncio
import itertools
import os
import random
import re
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from krebit_proxy.errors import CODES
from tests.fakes.client import Ended, Response
from tests.fakes.messages import RequestHead, read_requests
from tests.fakes.proxy import RunningProxy, StartProxy
from tests.fakes.upstream import Call, Gone, Upstream, response
from tests.fakes.waiting import eventually
from tests.http.corpus import CORPUS, Hostile, Kind

LIMITS = {"header_timeout": 0.25, "body_timeout": 0.25, "keepalive": 0.4}
_number = itertools.count(1)
_OURS = {
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
    theirs = [(name, value) for name, value in call.head.fields if name.lower() not in _OURS]
    rest = iter(head.fields)
    assert all(one in rest for one in theirs)
    assert not {name.lower() for name, _ in theirs} & _NEVER
    return True


@pytest.fixture
async def shooting_range(start_proxy: StartProxy, upstream: Upstream) -> AsyncIterator[Range]:
    upstream.default = echo
    proxy = await start_proxy(limits=LIMITS)
    yield Range(proxy, upstream)
    client = await proxy.connect()
    metrics = await client.ask("GET", "/metrics")
    assert metrics.status == 200
    assert b"marker" not in metrics.content
    assert "marker" not in proxy.output.getvalue()
    assert "Traceback" not in proxy.output.getvalue()


def test_names_are_unique() -> None:
    names = [hostile.name for hostile in CORPUS]

    assert len(set(names)) == len(names)


@pytest.mark.parametrize("area", ["framing", "chunk", "path", "target", "line", "field", "host", "browser"])
async def test_corpus(shooting_range: Range, area: str) -> None:
    """Every entry of an area, one after the other on one proxy; all that failed are told together."""
    wrong: list[str] = []
    for hostile in CORPUS:
        if hostile.name.partition("_")[0] == area:
            try:
                attempt = await shooting_range.attempt(hostile.sent)
                _as_expected(hostile, attempt)
            except (AssertionError, TimeoutError, ValueError) as error:
                wrong.append(f"{hostile.name}: {type(error).__name__} {error}")

    assert not wrong, "\n".join([f"{len(wrong)} of {area}:", *wrong])


def _as_expected(hostile: Hostile, attempt: Attempt) -> None:
    first = attempt.responses[0] if attempt.responses else None
    if hostile.kind is Kind.VALID:
        assert first is not None, f"no answer\n{attempt}"
        assert (first.status, first.code) == (200, ""), str(attempt)
        assert attempt.calls, str(attempt)
        assert attempt.canary_answered or hostile.sent.find(b"HTTP/1.0") > 0, str(attempt)
    if hostile.kind in {Kind.INVALID, Kind.POLICY}:
        assert not [call for call in attempt.calls if call.complete and attempt.canary not in call.target], str(attempt)
        assert first is None or first.code, f"not refused\n{attempt}"
    if hostile.kind is Kind.INVALID:
        assert attempt.ended, f"not closed\n{attempt}"
        assert not attempt.canary_seen, f"the canary got through\n{attempt}"
        assert len(attempt.responses) <= 1, str(attempt)
    if hostile.kind is Kind.POLICY:
        assert first is not None, f"no answer\n{attempt}"


# --- mutation ---------------------------------------------------------------------------------------------------------

_SEEDS = [
    hostile.sent
    for hostile in CORPUS
    if len(hostile.sent) < 1000 and hostile.name.partition("_")[0] in {"framing", "chunk", "field"}
]
_BYTES = [*b"\r\n\t :;,=0159aAfFxX/.%\\#?@\x00\x01\x0b\x7f\x80\xa0\xff", None]


def mutated(seed: bytes, chance: random.Random) -> bytes:
    """One to three small changes of bytes or lines."""
    data = bytearray(seed)
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(data) + 1)
        byte = bytes([chance.choice(_BYTES) or chance.randrange(256)])
        match chance.randrange(8):
            case 0:
                del data[at : at + 1]
            case 1:
                data[at : at + 1] = byte
            case 2:
                data[at:at] = byte
            case 3:
                data[at:at] = chance.choice([b"\r\n", b"\n", b"\r", b"\r\n ", b"\r\n\r\n"])
            case 4:
                data[:] = bytes(data).replace(b"\r\n", chance.choice([b"\n", b"", b"\r", b" "]), 1)
            case _:
                _shuffle_lines(data, chance)
    return bytes(data)


def _shuffle_lines(data: bytearray, chance: random.Random) -> None:
    lines = bytes(data).split(b"\r\n")
    one, other = chance.randrange(len(lines)), chance.randrange(len(lines))
    match chance.randrange(3):
        case 0:
            lines[one], lines[other] = lines[other], lines[one]
        case 1:
            lines.insert(one, lines[other])
        case _:
            lines[one : one + 2] = [b"".join(lines[one : one + 2])]
    data[:] = b"\r\n".join(lines)


async def test_mutations_of_the_corpus(
    start_proxy: StartProxy, upstream: Upstream, effort: Callable[[int, int], int]
) -> None:
    """Seeded: the same each time, unless KREBIT_PROXY_TEST_SEED says otherwise. The seed names the failing input."""
    upstream.default = echo
    seed = int(os.environ.get("KREBIT_PROXY_TEST_SEED", "1"))
    wrong: list[str] = []

    lane = Range(await start_proxy(limits=LIMITS), upstream)
    for number in range(effort(1500, 100_000)):
        chance = random.Random(f"{seed}/{number}")
        sent = mutated(chance.choice(_SEEDS), chance)
        try:
            await lane.attempt(sent)
        except (AssertionError, TimeoutError, ValueError) as error:
            wrong.append(f"{seed}/{number}: {type(error).__name__} {error}\nsent {sent!r}")
        assert len(wrong) < 20, "\n\n".join(wrong)

    assert not wrong, "\n\n".join(wrong)


# --- properties -------------------------------------------------------------------------------------------------------

through_the_listener = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])

_PIECES = st.sampled_from(
    rb"/ / . .. a oauth OAuth api ; ;x=y \ %2f %2F %5c %2e %2E %252e %25 %252f %255c %3b %3B %6f %61 %00 %0d %0a %23"
    rb" # %zz % %2 ~ %7E ? ?x=../.. & = : @ %c3%a5 %ff x 1".split()
)
targets = st.lists(_PIECES, max_size=9).map(b"".join).map(lambda rest: b"/api/" + rest)


def leaves_api(target: bytes) -> bool:
    """The rule of the target in plain words, decoded again and again; independent of the program's own."""
    path, _, query = target.partition(b"?")
    if b"#" in query:
        return True
    seen = set()
    while path not in seen:
        seen.add(path)
        if re.search(rb"[\x00\r\n#\\]", path):
            return True
        if any(segment.split(b";")[0] in {b".", b".."} for segment in path.split(b"/")):
            return True
        path = unquote_to_bytes(path)
    segments = [segment.split(b";")[0].lower() for segment in path.split(b"/")]
    return [segment for segment in segments if segment][:2] == [b"api", b"oauth"]


@through_the_listener
@given(target=targets)
async def test_a_target_arrives_byte_for_byte_or_not_at_all(shooting_range: Range, target: bytes) -> None:
    client = await shooting_range.proxy.connect()
    before = len(shooting_range.upstream.calls)
    await client.send(b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % target)
    got = await client.response()
    client.close()
    calls = shooting_range.upstream.calls[before:]

    if leaves_api(target):
        assert got.code in {"forbidden_path", "bad_request"}, (target, got)
    elif b";" not in unquote_to_bytes(
        unquote_to_bytes(target)
    ):  # where `;` ends is a matter of taste; refusing is safe
        assert (got.status, got.content) == (200, target), (target, got)
    assert [call.target for call in calls] == ([target] if got.status == 200 else [])


_NAME = st.one_of(
    st.sampled_from([b"X-A", b"x_b", b"Accept", b"!#$%&'*+-.^_`|~", b"Content-Type"]),
    st.binary(min_size=1, max_size=6).map(lambda name: b"X" + name),
)
_VALUE = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=20).map(str.encode),
    st.binary(max_size=20),
    st.sampled_from(
        [b"", b" ", b"\t", b"a, b", b"\xe9", b"a\r\n b", b"a\nX-Evil: 1", b"a\rX-Evil: 1", b"\x00", b"\x7f"]
    ),
)


@through_the_listener
@given(lines=st.lists(st.tuples(_NAME, _VALUE), min_size=1, max_size=4))
async def test_fields_arrive_byte_for_byte_or_the_request_is_refused(
    shooting_range: Range, lines: list[tuple[bytes, bytes]]
) -> None:
    """`judge` compares what arrived with what was sent; here is added that nothing which is valid gets lost."""
    head = b"".join(b"%s: %s\r\n" % line for line in lines)
    attempt = await shooting_range.attempt(b"GET /api/hostile HTTP/1.1\r\nHost: localhost\r\n%s\r\n" % head)
    reading = read_requests(attempt.sent)

    if not reading.malformed and attempt.responses[0].status == 200:
        kept = [(name, value) for name, value in attempt.calls[0].head.fields if name.lower() not in _OURS]
        sent = [(name, value) for name, value in reading.requests[0][0].fields if name.lower() not in _OURS]
        assert kept == [(name, value) for name, value in sent if b"_" not in name]
    if reading.malformed:
        assert not attempt.canary_seen


_FRAMING_LINES = st.sampled_from(
    [
        *(
            b"Content-Length: 5",
            b"Content-Length: 05",
            b"content-length:5",
            b"Content-Length: 0",
            b"Content-Length: 5,5",
        ),
        *(
            b"Content-Length: +5",
            b"Content-Length: 5 ",
            b"Content-Length : 5",
            b"Content-Length:",
            b"Content_Length: 5",
        ),
        *(b"Transfer-Encoding: chunked", b"transfer-encoding:CHUNKED", b"Transfer-Encoding: gzip, chunked"),
        *(b"Transfer-Encoding: identity", b"Transfer-Encoding:", b"Transfer-Encoding : chunked", b"TE: trailers"),
        *(b"Connection: close", b"Connection: Content-Length", b"Expect: 100-continue", b"X: y"),
    ]
)
_CONTENTS = st.sampled_from(
    [
        b"",
        b"hello",
        b"0\r\n\r\n",
        b"5\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\r\n0\r\nX: y\r\n\r\n",
        b"5;a\r\nhello\r\n0\r\n\r\n",
    ]
)


@through_the_listener
@given(
    lines=st.lists(_FRAMING_LINES, max_size=3),
    content=_CONTENTS,
    method=st.sampled_from([b"GET", b"POST", b"DELETE"]),
    version=st.sampled_from([b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0"]),
)
async def test_both_sides_agree_on_where_content_ends(
    shooting_range: Range, lines: list[bytes], content: bytes, method: bytes, version: bytes
) -> None:
    head = b"".join(line + b"\r\n" for line in lines)
    attempt = await shooting_range.attempt(
        b"%s /api/hostile %s\r\nHost: localhost\r\n%s\r\n%s" % (method, version, head, content)
    )

    if read_requests(attempt.sent).malformed:
        assert not attempt.canary_seen
        assert attempt.ended


# --- time -------------------------------------------------------------------------------------------------------------


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
    assert "marker" not in proxy.output.getvalue()


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
