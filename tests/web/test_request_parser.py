"""Where messages begin and end. What becomes of them is in test_request_reader.py."""

from types import SimpleNamespace
from typing import Any, cast

from krebit_proxy.web.request_parser import RequestParser


class Reader:
    """Notes what the parser finds."""

    def __init__(self) -> None:
        self.reading_head = self.finished = False
        self.receiving: Any = None
        self.found: list[Any] = []

    def on_message_begin(self) -> None:
        self.reading_head = True

    def on_header(self, name: bytes, value: bytes) -> None:
        self.found.append((name, value))

    def on_headers_complete(self) -> None:
        self.reading_head = False
        if any(name == b"Transfer-Encoding" for name, _ in self.found):
            self.receiving = SimpleNamespace(length=None)

    def on_body(self, piece: bytes) -> None:
        self.found.append(piece)

    def on_message_complete(self) -> None:
        self.receiving = None


def test_the_chunks_of_one_piece_are_one_piece_of_content() -> None:
    reader = Reader()
    parser = RequestParser(cast("Any", reader))
    head = b"POST /api/x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    parser.feed_data(memoryview(head + b"1\r\na\r\n" * 3 + b"0\r\nX: y\r\n\r\n"))
    assert reader.found == [(b"Transfer-Encoding", b"chunked"), b"aaa", (b"X", b"y")]
    assert reader.receiving is None


def test_the_line_is_known_while_its_head_is_read() -> None:
    parser = RequestParser(cast("Any", Reader()))
    parser.feed_data(b"GET /api/\xc3\xa5?x HTTP/1.1\r\nA: b\r\nCoo")
    assert parser.seen() == (b"GET", b"/api/%C3%A5?x")
    assert (parser.line_size(), parser.pending, parser.in_cookie) == (len(b"/api/\xc3\xa5?x"), 3, False)
    parser.feed_data(b"kie: x")
    assert (parser.pending, parser.in_cookie) == (9, True)
    parser.feed_data(b"\r\n\r\n")
    assert (parser.line, parser.pending) == (None, 0)
