"""Answers that must not be lost, in good and in bad HTTP."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krebit_proxy.core.http_answer import LONGEST_ANSWER, AnswerReader, HttpAnswer

HEAD = b"HTTP/1.1 200 OK\r\n"


def read(octets: bytes, *, ended: str = "") -> HttpAnswer:
    reader = AnswerReader()
    reader.feed(octets)
    return reader.answer(ended=ended)


def is_done(octets: bytes) -> bool:
    reader = AnswerReader()
    reader.feed(octets)
    return reader.done


@pytest.mark.parametrize(
    "octets",
    [
        HEAD + b"Content-Length: 5\r\n\r\nhello",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nTrailer: x\r\n\r\n",
        b"\r\nHTTP/1.1 200\r\ncontent-length:5\r\n\r\nhello",
        b"HTTP/1.0 200 OK\nContent-Length: 5\n\nhello",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 X\r\nLink: x\r\n\r\n" + HEAD + b"Content-Length: 5\r\n\r\nhello",
        HEAD + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        HEAD + b"Notice: \x01\nno colon\r\n folded\r\nContent-Length : 5\r\n\r\nhello",
        HEAD + b"X: " + b"x" * 20_000 + b"\r\n" + b"Y: y\r\n" * 1000 + b"Content-Length: 5\r\n\r\nhello",
    ],
)  # fmt: skip
def test_a_complete_answer_needs_no_end_of_the_connection_in_good_or_bad_http(octets: bytes) -> None:
    answer = read(octets)

    assert (answer.status, answer.content, answer.broken) == (200, b"hello", "")
    assert is_done(octets)


@pytest.mark.parametrize(
    "octets",
    [
        HEAD + b"\r\nhello",
        HEAD + b"Content-Length: five\r\n\r\nhello",
        HEAD + b"Content-Length: 5, 6\r\n\r\nhello",
    ],
)
def test_without_a_length_the_content_ends_with_the_connection(octets: bytes) -> None:
    assert not is_done(octets)
    assert read(octets) == HttpAnswer(200, read(octets).fields, b"hello")
    assert read(octets, ended="cut").broken == "cut"


@pytest.mark.parametrize(
    "octets",
    [
        HEAD + b"Content-Length: 9\r\n\r\nhello",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n9\r\nhello",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello!",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nhello",
    ],
)
def test_what_came_before_a_break_is_kept(octets: bytes) -> None:
    assert not is_done(octets)
    assert read(octets).content == b"hello"
    assert read(octets).broken == "the connection was closed before its end"
    assert read(octets, ended="cut").broken == "cut"


def test_a_length_that_is_too_short_hides_nothing_of_what_came() -> None:
    assert read(HEAD + b"Content-Length: 3\r\n\r\nhello").content == b"hello"


@pytest.mark.parametrize("status", [204, 304])
def test_some_answers_end_with_their_head(status: int) -> None:
    assert is_done(b"HTTP/1.1 %d X\r\n\r\n" % status)


def test_an_answer_without_end_is_read_so_far() -> None:
    answer = read(HEAD + b"Content-Length: 99999999\r\n\r\n" + b"x" * LONGEST_ANSWER)

    assert len(answer.content) == LONGEST_ANSWER
    assert answer.broken == "it is longer than 256 KiB"
    assert is_done(b"x" * LONGEST_ANSWER)


def test_what_is_no_http_has_no_status() -> None:
    assert read(b"SSH-2.0-OpenSSH\r\n\r\nhello").status == 0
    assert read(b"") == HttpAnswer(0, broken="the connection was closed")
    assert read(HEAD, ended="cut") == HttpAnswer(0, broken="cut")


def test_lines_of_one_name_are_one_list() -> None:
    assert read(HEAD + b"A: b\r\na: c\r\nContent-Length: 0\r\n\r\n").fields == {"a": "b, c", "content-length": "0"}


@given(
    st.sampled_from(
        [
            b"Content-Length: 12\r\n\r\nhello\r\n\r\nyou",
            b"Transfer-Encoding: chunked\r\n\r\nc\r\nhello\r\n\r\nyou\r\n0\r\n\r\n",
        ]
    ),
    st.lists(st.integers(0, 90)),
)
def test_octets_may_arrive_in_any_portions(rest: bytes, cuts: list[int]) -> None:
    octets = b"HTTP/1.1 103 X\r\n\r\n" + HEAD + rest
    reader, at = AnswerReader(), 0
    for cut in sorted({cut for cut in cuts if cut < len(octets)}):
        reader.feed(octets[at:cut])
        assert not reader.done
        at = cut
    reader.feed(octets[at:])

    assert reader.done
    assert reader.answer() == HttpAnswer(200, reader.answer().fields, b"hello\r\n\r\nyou")


@given(st.binary())
def test_any_octets_are_read_without_an_error(octets: bytes) -> None:
    read(octets)
    read(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + octets)
