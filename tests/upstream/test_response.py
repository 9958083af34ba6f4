"""A response is read strictly, however it is cut into pieces."""

import pytest

from krebit_proxy.upstream.response import HEAD_LIMIT, InvalidResponse, Response

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


def read(data: bytes, *, method: str = "GET", piece: int = 1 << 20, upgrade: bool = False) -> Response:
    response = Response(method, upgrade=upgrade)
    for start in range(0, len(data), piece):
        response.feed(memoryview(data)[start : start + piece])
    response.close()
    return response


INVALID = {
    "garbage": b"garbage\r\n\r\n",
    "not HTTP": b"RTSP/1.0 200 OK\r\n\r\n",
    "HTTP/2.0": b"HTTP/2.0 200 OK\r\n\r\n",
    "HTTP/0.9": b"HTTP/0.9 200 OK\r\n\r\n",
    "status 099": b"HTTP/1.1 099 X\r\n\r\n",
    "status 600": b"HTTP/1.1 600 X\r\n\r\n",
    "status 999": b"HTTP/1.1 999 X\r\n\r\n",
    "two digits": b"HTTP/1.1 20 X\r\n\r\n",
    "four digits": b"HTTP/1.1 2000 X\r\n\r\n",
    "control in reason": b"HTTP/1.1 200 O\x1bK\r\n\r\n",
    "CR in reason": b"HTTP/1.1 200 O\rK\r\n\r\n",
    "bare LF lines": b"HTTP/1.1 200 OK\nA: b\n\n",
    "bare LF in head": OK + b"A: b\nB: c\r\n\r\n",
    "bare CR": OK + b"A: b\rc\r\n\r\n",
    "NUL": OK + b"A: b\x00c\r\n\r\n",
    **{f"control {octet}": OK + b"A: b%cc\r\n\r\n" % octet for octet in (*range(1, 9), *range(11, 32), 127)},
    "escape": OK + b"A: \x1b[2J\r\n\r\n",
    "DEL": OK + b"A: \x7f\r\n\r\n",
    "folded": OK + b"A: b\r\n c\r\n\r\n",
    "space before colon": OK + b"A : b\r\n\r\n",
    "no colon": OK + b"A\r\n\r\n",
    "empty name": OK + b": b\r\n\r\n",
    "length foo": OK + b"Content-Length: foo\r\n\r\n",
    "length +3": OK + b"Content-Length: +3\r\n\r\nabc",
    "length -3": OK + b"Content-Length: -3\r\n\r\nabc",
    "length empty": OK + b"Content-Length:\r\n\r\n",
    "length list": OK + b"Content-Length: 3, 3\r\n\r\nabc",
    "length twice": OK + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "length huge": OK + b"Content-Length: 99999999999999999999\r\n\r\n",
    "length and coding": OK + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "coding and length": OK + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    "coding gzip": OK + b"Transfer-Encoding: gzip\r\n\r\nxx",
    "coding foo": OK + b"Transfer-Encoding: foo\r\n\r\nxx",
    "coding list": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "coding twice": OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "coding on 1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunk size": OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "chunk overflow": OK + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
    "chunk LF": OK + b"Transfer-Encoding: chunked\r\n\r\n3\nabc\n0\n\n",
    "chunk too long": OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcdef\r\n",
    "101 unasked": b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    "trailer without end": CHUNKED + b"0\r\nX-Trailer: " + b"a" * 2 * HEAD_LIMIT,
    "trailers without end": CHUNKED + b"1\r\na\r\n0\r\n" + b"X-Trailer: a\r\n" * (HEAD_LIMIT // 7),
    "chunk extension without end": CHUNKED + b"1;" + b"a" * 2 * HEAD_LIMIT,
    "chunk extensions without end": CHUNKED + (b"1;" + b"a" * 200 + b"\r\na\r\n") * (HEAD_LIMIT // 100),
    "huge reason": b"HTTP/1.1 200 " + b"a" * 2 * HEAD_LIMIT,
    "huge field name": OK + b"a" * 2 * HEAD_LIMIT,
    "huge head": OK + b"A: " + b"a" * 2 * HEAD_LIMIT + b"\r\n\r\n",
    "endless 1xx": b"HTTP/1.1 103 E\r\nLink: </a>\r\n\r\n" * (HEAD_LIMIT // 30 + 2),
}


@pytest.mark.parametrize("piece", [1 << 16, 1], ids=["whole", "octets"])
@pytest.mark.parametrize("data", INVALID.values(), ids=INVALID.keys())
def test_what_is_not_valid_is_refused(data: bytes, piece: int) -> None:
    with pytest.raises(InvalidResponse) as refused:
        read(data, piece=max(piece, len(data) >> 12))
    assert "\x1b" not in str(refused.value)


@pytest.mark.parametrize("piece", [1 << 20, 1, 3], ids=["whole", "octets", "threes"])
def test_head_and_content_are_the_same_in_any_pieces(piece: int) -> None:
    fields = b"Content-Length: 5\r\nX-M: 1\r\nx-m: caf\xe9\r\nEmpty:\r\n"
    response = read(OK + fields + b"\r\nhello", piece=piece)
    head = response.head
    assert head is not None
    assert (head.version, head.status, head.reason, head.length) == ("1.1", 200, b"OK", 5)
    assert head.fields == [(b"Content-Length", b"5"), (b"X-M", b"1"), (b"x-m", b"caf\xe9"), (b"Empty", b"")]
    assert (response.take(), response.done, response.surplus, head.persistent) == (b"hello", True, False, True)


@pytest.mark.parametrize("piece", [1 << 20, 1], ids=["whole", "octets"])
def test_chunks_lose_framing_extensions_and_trailers(piece: int) -> None:
    chunked = b"Transfer-Encoding: Chunked\r\n\r\n3;a=b\r\nabc\r\nA\r\n0123456789\r\n0\r\nX-Trailer: 1\r\n\r\n"
    response = read(OK + chunked, piece=piece)
    assert response.head is not None
    assert response.head.fields == [(b"Transfer-Encoding", b"Chunked")]
    assert (response.take(), response.done, response.head.persistent) == (b"abc0123456789", True, True)


def test_chunks_of_one_octet_are_legal_and_cost_little_memory() -> None:
    response = Response("GET")
    response.feed(CHUNKED)
    for _ in range(10):
        response.feed(b"1;a=b\r\nx\r\n" * 20_000)
        assert len(response.chunks) < 100
    response.feed(b"0\r\n" + b"X-Trailer: a\r\n" * 4000 + b"\r\n")
    assert (response.take(), response.done) == (b"x" * 200_000, True)


@pytest.mark.parametrize(
    ("data", "method"),
    [
        (OK + b"Content-Length: 5\r\n\r\n", "HEAD"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n", "HEAD"),
        (OK + b"\r\n", "HEAD"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "GET"),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", "GET"),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", "GET"),
    ],
)
def test_a_response_without_content_ends_with_its_head(data: bytes, method: str) -> None:
    response = read(data, method=method)
    assert response.head is not None
    assert (response.done, response.head.has_content, response.head.persistent) == (True, False, True)


@pytest.mark.parametrize(
    "rest", [b"X", OK + b"Content-Length: 0\r\n\r\n", b"\r\n"], ids=["garbage", "response", "CRLF"]
)
@pytest.mark.parametrize(
    ("first", "method", "content"),
    [
        (OK + b"Content-Length: 2\r\n\r\nab", "GET", b"ab"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n", "GET", b"ab"),
        (OK + b"Content-Length: 2\r\n\r\n", "HEAD", b""),
        (b"HTTP/1.1 304 Not Modified\r\n\r\n", "GET", b""),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "GET", b""),
    ],
)
def test_what_follows_the_end_is_surplus_and_not_content(
    first: bytes, method: str, content: bytes, rest: bytes
) -> None:
    at_once = read(first + rest, method=method)
    later = Response(method)
    for data in (first, rest):
        later.feed(data)
    for response in (at_once, later):
        assert (response.take(), response.done) == (content, True)
    # The parser lets one CRLF between messages pass; what comes later than the end is counted whatever it is.
    assert at_once.surplus or rest == b"\r\n"
    assert later.surplus


def test_content_longer_than_its_length_is_cut_when_it_comes_later() -> None:
    response = Response("GET")
    for data in (OK + b"Content-Length: 4\r\n\r\nab", b"cdEXTRA"):
        response.feed(data)
    assert (response.take(), response.done, response.surplus) == (b"abcd", True, True)


@pytest.mark.parametrize(
    ("fields", "version"),
    [
        (b"Connection: close", b"1.1"),
        (b"Connection: x, Close", b"1.1"),
        (b"Connection: keep-alive", b"1.0"),
        (b"A: b", b"1.0"),
    ],
)
def test_a_connection_that_ends_is_not_kept(fields: bytes, version: bytes) -> None:
    head = read(b"HTTP/%b 200 OK\r\nContent-Length: 0\r\n%b\r\n\r\n" % (version, fields)).head
    assert head is not None
    assert not head.persistent


@pytest.mark.parametrize("piece", [1 << 20, 1], ids=["whole", "octets"])
def test_interim_answers_are_passed_over(piece: int) -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    response = read(interim + OK + b"Content-Length: 0\r\n\r\n", piece=piece)
    assert response.head is not None
    assert (response.continued, response.head.status, response.head.reason) == (True, 200, b"OK")
    assert response.head.fields == [(b"Content-Length", b"0")]


def test_a_close_delimited_response_ends_only_by_an_orderly_end() -> None:
    response = read(OK + b"\r\nabc")
    assert not response.end(clean=False)
    assert response.end(clean=True)
    assert response.take() == b"abc"


def test_an_orderly_end_does_not_complete_a_counted_response() -> None:
    assert not read(OK + b"Content-Length: 5\r\n\r\nabc").end(clean=True)
    assert not read(OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n").end(clean=True)
    assert not read(b"HTTP/1.1 103 E\r\n\r\n").end(clean=True)


def test_an_asked_for_switch_gives_raw_octets() -> None:
    switch = b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    response = read(switch + b"\x81\x00HTTP/1.1", upgrade=True)
    assert response.head is not None
    assert (response.head.status, response.take(), response.done) == (101, b"\x81\x00HTTP/1.1", False)
    response.feed(b"more")
    assert response.take() == b"more"


def test_a_switch_to_nothing_is_refused() -> None:
    with pytest.raises(InvalidResponse):
        read(b"HTTP/1.1 101 S\r\n\r\nraw", upgrade=True)


def test_the_reason_phrase_may_be_missing_or_not_ascii() -> None:
    for line, reason in ((b"HTTP/1.1 200", b""), (b"HTTP/1.1 200 ", b""), (b"HTTP/1.1 200 gr\xf6n", b"gr\xf6n")):
        head = read(line + b"\r\nContent-Length: 0\r\n\r\n").head
        assert head is not None
        assert head.reason == reason
