"""The first line of a request: what is valid, what is encoded, and what is refused with which words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krebit_proxy.core.request_line import RequestLine, WrongProtocol, after_empty_lines, read_line, seen
from krebit_proxy.errors import Refused


def test_a_valid_line_is_taken_as_it_is() -> None:
    sent = b"GET /api/x?y HTTP/1.1\r\nHost: a\r\n\r\n"
    assert read_line(sent) == RequestLine(b"GET", b"/api/x?y", http10=False, end=23)
    assert read_line(b"x" + sent.replace(b"1.1", b"1.0"), 1) == RequestLine(b"GET", b"/api/x?y", http10=True, end=24)
    assert read_line(b"\r\n\r\n" + sent) == RequestLine(b"GET", b"/api/x?y", http10=False, end=27)


def test_raw_letters_are_encoded_byte_by_byte() -> None:
    sent = "\r\nGET /api/å?n=Åkesson&m=%e5 HTTP/1.1\r\n".encode() + "å".encode()
    line = read_line(sent)
    assert line is not None
    assert line.target == b"/api/%C3%A5?n=%C3%85kesson&m=%e5"
    assert (line.end, line.grown) == (len(sent) - 2, 8)
    assert line.encoded() == b"GET /api/%C3%A5?n=%C3%85kesson&m=%e5 HTTP/1.1\r\n"


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        (b"GET /api/a b HTTP/1.1", "bad_request", "contains a space. It must be percent-encoded (as %20)"),
        (b"GET /api/\xe5 b HTTP/1.1", "bad_request", "contains a space"),
        (b"GET /api/a\tb HTTP/1.1", "bad_request", "contains a control character"),
        (b"GET /api/\x00 HTTP/1.1", "bad_request", "contains a control character"),
        (b"GET  /api/a HTTP/1.1", "bad_request", "exactly one space"),
        (b"GET /api/a  HTTP/1.1", "bad_request", "exactly one space"),
        (b"GET  HTTP/1.1", "bad_request", "exactly one space"),
        (b"GET", "bad_request", "not a valid HTTP/1.1 request line"),
        (b" GET /api/a HTTP/1.1", "bad_request", "not a valid"),
        (b"GET\t/api/a\tHTTP/1.1", "bad_request", "not a valid"),
        (b"GET /api/a http/1.1", "bad_request", "not a valid"),
        (b"GET /api/a HTTP/1.10", "bad_request", "not a valid"),
        (b"GET /api/a HTTP/01.1", "bad_request", "not a valid"),
        (b"GET /api/a HTTP/1.1 ", "bad_request", "not a valid"),
        (b"G\xe5T /api/a HTTP/1.1", "bad_request", "not a valid"),
        (b"\nGET /api/a HTTP/1.1", "bad_request", "not a valid"),
        (b"\rGET /api/a HTTP/1.1", "bad_request", "not a valid"),
        (b"GET /api/a HTTP/2.0", "version_not_supported", "only HTTP/1.1 and HTTP/1.0"),
        (b"GET /api/a HTTP/0.9", "version_not_supported", "only"),
        (b"GET /api/a", "version_not_supported", "has no HTTP version"),
    ],
)
def test_what_is_wrong_is_named_and_not_quoted(line: bytes, code: str, words: str) -> None:
    with pytest.raises(Refused) as refusal:
        read_line(line + b"\r\n")
    assert refusal.value.code == code
    assert words in refusal.value.detail
    assert "/api" not in refusal.value.detail


def test_a_line_must_end_with_cr_and_lf() -> None:
    with pytest.raises(Refused):
        read_line(b"GET /api/a HTTP/1.1\nHost: a\r\n\r\n")


@pytest.mark.parametrize(
    ("sent", "protocol", "code"),
    [
        (b"\x16", "TLS", "bad_request"),
        (b"\x16\x03\x01\x02\x00", "TLS", "bad_request"),
        (b"\x05\x01\x00", "SOCKS", "bad_request"),
        (b"\x04\x01", "SOCKS", "bad_request"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/2", "version_not_supported"),
        (b"SSH-2.0-x\r\n", "SSH", "bad_request"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n", "the PROXY protocol", "bad_request"),
        (b"\r\n\r\n\x00\r\nQUIT\n\x21", "the PROXY protocol", "bad_request"),
        (b"GET /api/a RTSP/1.0\r\n", "RTSP", "bad_request"),
        (b"SOURCE /api/a ICE/1.0\r\n", "Icecast", "bad_request"),
        (b"OPTIONS sip:a@b SIP/2.0\r\n", "SIP", "bad_request"),
    ],
)
def test_other_protocols_are_named(sent: bytes, protocol: str, code: str) -> None:
    with pytest.raises(WrongProtocol) as refusal:
        read_line(sent)
    assert (refusal.value.protocol, refusal.value.code) == (protocol, code)
    assert protocol in refusal.value.detail


@pytest.mark.parametrize("begun", [b"", b"\r", b"\r\n", b"G", b"GET", b"GET ", b"GET /\xe5 ", b"GET / HTTP/1.1\r"])
def test_an_incomplete_line_is_waited_for(begun: bytes) -> None:
    assert read_line(begun) is None


@pytest.mark.parametrize("begun", [b"\x00", b"\xef\xbb", b"{", b" G", b"\rG", b"GET /\x01"])
def test_what_cannot_become_valid_is_not_waited_for(begun: bytes) -> None:
    with pytest.raises(Refused):
        read_line(begun)


def test_empty_lines_are_skipped() -> None:
    assert after_empty_lines(b"x\r\n\r\n\ry", 1) == 5
    assert after_empty_lines(b"x\n", 1) == 1


@pytest.mark.parametrize(
    ("line", "method", "path"),
    [
        (b"GET /api/a b?secret HTTP/1.1\r\n", b"GET", b"/api/a"),
        (b"GET  /api/a?secret\r\n", b"GET", b"/api/a"),
        (b"\r\nGET http://a/b#secret", b"GET", b"http://a/b"),
        (b"GET secret", b"", b""),
        (b"secret\r\n", b"", b""),
        (b'{"secret": "/api/x"}', b"", b""),
        (b"\x16\x03secret", b"", b""),
        (b"GET /" + b"a" * 5000, b"GET", b"/" + b"a" * 500),
    ],
)
def test_the_log_sees_the_method_and_the_path_and_no_query(line: bytes, method: bytes, path: bytes) -> None:
    assert seen(line) == (method, path)


@given(st.binary(max_size=40) | st.binary(max_size=20).map(lambda target: b"GET /" + target + b" HTTP/1.1\r\n"))
def test_a_line_is_one_of_printable_ascii_or_refused(sent: bytes) -> None:
    try:
        line = read_line(sent)
    except Refused:
        return
    if line is not None:
        assert line.target.isascii()
        assert all(0x21 <= octet <= 0x7E for octet in line.target)
        assert read_line(line.encoded()) == line._replace(end=len(line.encoded()), grown=0)
