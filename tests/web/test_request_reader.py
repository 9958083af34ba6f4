"""What is read from a connection, however the bytes are cut."""

import asyncio
import itertools
from collections import deque
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krebit_proxy.core.access import Peer, Rules
from krebit_proxy.core.fields import withheld
from krebit_proxy.errors import Refused
from krebit_proxy.web.call import Call
from krebit_proxy.web.request_reader import ReaderSettings, RequestReader

GET = b"GET /api/x?q HTTP/1.1\r\nHost: localhost\r\nX-A:  1 \t\r\n\r\n"
POST = b"POST /api/y HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    b"PUT /api/z HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nAuthorization: leaks\r\nX-T: 1\r\n\r\n"
)
WEBSOCKET = b"Connection: upgrade\r\nSec-WebSocket-Key: AAAA\r\nSec-WebSocket-Version: 13\r\n"


class Caller:
    """The connection, as far as calls need one before they are answered."""

    peer: Peer = Rules().peer("127.0.0.1", "127.0.0.1")

    def resume_content(self) -> None:
        """Content was taken."""


def reading(limit: int = 4096) -> tuple[RequestReader, deque[Call]]:
    requests = RequestReader(cast("Any", Caller()), ReaderSettings(limit, 1, withheld()))
    return requests, requests.calls


def read(*pieces: bytes, limit: int = 4096) -> list[Call]:
    requests, calls = reading(limit)
    for piece in pieces:
        requests.feed(piece)
    return list(calls)


def content_of(call: Call) -> bytes:
    pieces = []
    while call.content.size:
        pieces.append(call.content.take())
    return b"".join(pieces)


def code(call: Call) -> str | None:
    return call.fault.code if call.fault else None


def test_a_request_is_read_as_it_was_sent() -> None:
    (call,) = read(GET)

    assert (call.request.method, call.request.target, call.request.head.http10, call.length) == (
        b"GET",
        b"/api/x?q",
        False,
        0,
    )
    assert list(call.request.head.fields) == [(b"Host", b"localhost"), (b"X-A", b"1")]
    assert list(call.request.head.names) == [b"host", b"x-a"]
    assert call.persistent
    assert call.fault is None


@given(st.lists(st.sampled_from([GET, POST, CHUNKED]), min_size=1, max_size=5), st.data())
def test_requests_are_the_same_however_the_bytes_are_cut(requests: list[bytes], data: Any) -> None:
    stream = b"".join(requests)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(stream) - 1), max_size=40)))
    calls = read(*(stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)))

    assert [call.request.target for call in calls] == [request.split()[1] for request in requests]
    assert [content_of(call) for call in calls] == [
        {GET: b"", POST: b"hello", CHUNKED: b"abcde"}[request] for request in requests
    ]
    assert all(call.content.complete and call.fault is None for call in calls)
    assert all(b"leaks" not in value for call in calls for _, value in call.request.head.fields)


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"GET /api/x HTTP/2.0\r\nHost: a\r\n\r\n", "version_not_supported"),
        (b"GET /api/x HTTP/9.9\r\nHost: a\r\n\r\n", "version_not_supported"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "version_not_supported"),
        (b"GET /api/x\r\n\r\n", "version_not_supported"),
        (b"GET /api/x HTTP/1.1\r\n\r\n", "host_not_allowed"),
        (b"GET /api/x HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", "host_not_allowed"),
        (b"BREW /api/x HTTP/1.1\r\nHost: a\r\n\r\n", "not_implemented"),
        (b"TRACK /api/x HTTP/1.1\r\nHost: a\r\n\r\n", "method_not_allowed"),
        (b"\x16\x03\x01\x02\x00", "bad_request"),
        (b"GET /api/x HTTP/1.1\r\nHost: a\r\nExpect: marker\r\n\r\n", "expectation_failed"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", "not_implemented"),
        (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "bad_request"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "bad_request"),
        (b"GET /" + b"x" * 5000, "uri_too_long"),
        (b"GET /" + b"x" * 5000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", "uri_too_long"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 5000, "header_too_large"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 5000 + b"\r\n\r\n", "header_too_large"),
    ],
)
def test_what_is_no_request_is_refused_and_ends_the_reading(sent: bytes, expected: str) -> None:
    requests, calls = reading()
    requests.feed(sent)
    requests.feed(b"x" * 5000)
    requests.feed(GET)

    assert [code(call) for call in calls] == [expected]
    assert not calls[0].persistent
    assert requests.finished


def test_fields_that_come_again_are_examined_once_and_others_anew() -> None:
    first, second, third, old, larger, last = read(
        GET,
        GET.replace(b"/api/x", b"/api/y"),
        GET.replace(b"X-A:  1", b"X-A: 2"),
        GET.replace(b"HTTP/1.1", b"HTTP/1.0").replace(b"X-A", b"Connection: keep-alive\r\nX-A"),
        GET.replace(b"X-A:  1", b"X-A: " + b"1" * 4096),
        GET.replace(b"X-A:  1", b"X-A: " + b"1" * 4096),
        limit=8192,
    )
    assert (first.request.head is second.request.head, second.request.target) == (True, b"/api/y?q")
    assert third.request.head.lines == b"X-A: 2\r\n"
    assert old.request.head.http10
    assert larger.request.head is not last.request.head
    with pytest.raises(AttributeError):
        first.request.head.lines = b""  # type: ignore[misc]


def test_a_method_that_nobody_knows_is_told_of_behind_another_request_too() -> None:
    assert [code(call) for call in read(GET + b"BREW /api/x HTTP/1.1\r\n\r\n")] == [None, "not_implemented"]


def test_a_trailer_has_no_effect_on_the_connection() -> None:
    chunked = b"POST /api/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
    call, following = read(chunked + b"Connection: close\r\n\r\n", GET)

    assert (call.fault, call.persistent, call.content.complete) == (None, True, True)
    assert following.fault is None


def test_a_request_before_a_bad_one_is_good() -> None:
    assert [code(call) for call in read(GET + b"nonsense\r\n\r\n")] == [None, "bad_request"]


def test_bytes_after_the_last_request_are_nobodys() -> None:
    last = GET.replace(b"X-A:  1 \t", b"Connection: close")

    assert [code(call) for call in read(last + GET, GET)] == [None]


def test_a_malformed_chunk_after_good_ones_fails_the_content() -> None:
    (call,) = read(CHUNKED[: CHUNKED.index(b"2\r\nde")], b"ZZ\r\n")

    assert isinstance(call.content.error, Refused)
    assert call.content.error.code == "bad_request"
    with pytest.raises(Refused):
        asyncio.run(call.content.ready())


@pytest.mark.parametrize("endless", [b"X: ", b"X: y\r\n", b"x" * 100])
def test_trailers_without_end_are_not_collected(endless: bytes) -> None:
    requests, calls = reading()
    requests.feed(CHUNKED[: CHUNKED.index(b"Authorization")])
    for _ in range(4096):
        requests.feed(endless)

    assert requests.finished
    assert calls[0].content.error is not None
    assert calls[0].content.error.code == "header_too_large"


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
def test_an_expectation_is_for_content_and_for_http_1_1(version: bytes) -> None:
    (call,) = read(POST.replace(b"1.1", version).replace(b"Host", b"Expect: 100-Continue\r\nHost"))

    assert call.content.expected is (version == b"1.1")
    assert call.fault is None


def test_the_offer_of_h2c_changes_nothing() -> None:
    offer = GET.replace(b"Host", b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHost")
    first, second = read(offer + POST)

    assert first.request.upgrade is None
    assert content_of(second) == b"hello"


def test_what_follows_a_connect_is_not_read() -> None:
    (call,) = read(b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n" + GET)

    assert (call.request.method, call.persistent) == (b"CONNECT", False)


@given(st.sampled_from([POST, CHUNKED]), st.sampled_from([b"h2c", b"websocket"]), st.sets(st.integers(1, 200)))
def test_content_of_a_request_that_offers_another_protocol_is_content(
    request: bytes, protocol: bytes, cuts: set[int]
) -> None:
    sent = request.replace(b"Host", b"Connection: Upgrade\r\nUpgrade: %b\r\nHost" % protocol) + GET
    edges = [0, *sorted(cut for cut in cuts if cut < len(sent)), len(sent)]
    first, second = read(*(sent[a:b] for a, b in itertools.pairwise(edges)))

    assert first.request.upgrade is None
    assert content_of(first) == (b"hello" if request is POST else b"abcde")
    assert (second.request.target, second.fault) == (b"/api/x?q", None)


def test_what_follows_the_offer_of_another_protocol_waits_until_it_is_decided() -> None:
    requests, calls = reading()
    requests.feed(GET.replace(b"Host", WEBSOCKET + b"Upgrade: websocket, h2c\r\nHost") + b"GET ")
    requests.feed(POST[5:])

    assert [call.request.upgrade for call in calls] == [b"websocket"]
    assert requests.held == b"GET " + POST[5:]
    requests.go_on()
    assert [call.request.target for call in calls] == [b"/api/x?q", b"/api/y"]


def test_empty_lines_before_a_request_are_skipped() -> None:
    assert [call.request.target for call in read(b"\r\n\r\n" + GET)] == [b"/api/x?q"]


def test_a_head_that_takes_too_long_is_refused() -> None:
    requests, calls = reading()
    requests.feed(GET[:20])

    assert requests.reading_head
    requests.fail(Refused("request_timeout", "Too slow."))
    assert [code(call) for call in calls] == ["request_timeout"]


def test_a_closed_connection_is_not_read() -> None:
    requests, calls = reading()
    requests.close()
    requests.feed(GET)

    assert not calls


def test_many_like_requests_cut_at_the_same_place_are_no_large_head() -> None:
    request = b"GET /api/x HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 1000 + b"\r\n\r\n"
    piece = request[-500:] + request * 9 + request[:-500]

    calls = read(request[:-500], piece, piece, request[-500:])
    assert [code(call) for call in calls] == [None] * 21


@pytest.mark.parametrize("before", [GET, POST, CHUNKED], ids=["get", "content", "chunks"])
@pytest.mark.parametrize(
    "bad", [b"GET  /api/x HTTP/1.1\r\nHost: a\r\n\r\n", b"\nGET /api/x HTTP/1.1\r\nHost: a\r\n\r\n"]
)
def test_a_request_line_is_strict_behind_any_other_request(before: bytes, bad: bytes) -> None:
    assert [code(call) for call in read(before + bad + GET)] == [None, "bad_request"]


@pytest.mark.parametrize("cut", [b"\r", b"\r\n", b"\r\n\r"])
def test_a_head_ends_at_an_empty_line_that_arrives_in_two_pieces(cut: bytes) -> None:
    head = GET.removesuffix(b"\r\n\r\n")
    calls = read(head + cut, b"\r\n\r\n"[len(cut) :] + b"GET  /api/y HTTP/1.1\r\n\r\n")
    assert [code(call) for call in calls] == [None, "bad_request"]


def test_empty_lines_are_no_head() -> None:
    requests, calls = reading()
    for _ in range(20):
        requests.feed(b"\r\n" * 500)
    assert not requests.reading_head
    requests.feed(b"\r")
    requests.feed(b"\n" + GET)
    assert [code(call) for call in calls] == [None]
