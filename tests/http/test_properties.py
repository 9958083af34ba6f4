"""Properties of targets, fields and framing, held through the real listener for whatever hypothesis thinks of."""

from urllib.parse import unquote_to_bytes

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fakes.messages import read_requests
from tests.http.leaving import leaves_api
from tests.http.shooting_range import OURS, Range

through_the_listener = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])

_PIECES = st.sampled_from(
    rb"/ / . .. a oauth OAuth api ; ;x=y \ %2f %2F %5c %2e %2E %252e %25 %252f %255c %3b %3B %6f %61 %00 %0d %0a %23"
    rb" # %zz % %2 ~ %7E ? ?x=../.. & = : @ %c3%a5 %ff x 1".split()
)
targets = st.lists(_PIECES, max_size=9).map(b"".join).map(lambda rest: b"/api/" + rest)


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
        kept = [(name, value) for name, value in attempt.calls[0].head.fields if name.lower() not in OURS]
        sent = [(name, value) for name, value in reading.requests[0][0].fields if name.lower() not in OURS]
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
