"""Chunked content: valid and invalid framing, however the bytes are cut."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krebit_proxy.core.chunks import Chunks
from krebit_proxy.errors import Refused

WHOLE = b'5\r\nhello\r\nA ; a = b\t;\tc="d \\" e" ;f\r\n0123456789\r\n0;last\r\nX-T:  1\r\nY:\r\n\r\n'


def test_content_ends_where_it_ends() -> None:
    chunks = Chunks()
    assert chunks.feed(b"xx" + WHOLE + b"GET /", 2) == ([b"hello", b"0123456789"], 2 + len(WHOLE))
    assert chunks.done
    assert chunks.trailers == [(b"X-T", b"1"), (b"Y", b"")]


@given(st.data())
def test_content_is_the_same_however_it_is_cut(data: Any) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(1, len(WHOLE) - 1), max_size=len(WHOLE))))
    chunks = Chunks()
    content = b""
    for start, end in zip([0, *cuts], [*cuts, len(WHOLE)], strict=True):
        pieces, at = chunks.feed(WHOLE[start:end], 0)
        content += b"".join(pieces)
        assert at == end - start
    assert (content, chunks.done, len(chunks.trailers)) == (b"hello0123456789", True, 2)


@pytest.mark.parametrize(
    "sent",
    [
        b"Z", b"\r\n", b"5\nhello", b"5 \r\n", b"5\r\r\n", b" 5", b"-5", b"0x5", b"5;\r\n", b"5;a=\r\n", b"5;a b\r\n",
        b'5;a="b\r\n', b"5;a\n", b"5;a\rb\r\n", b"5;a=\x00\r\n", b"1" * 17, b"5\r\nhelloX", b"5\r\nhello\n",
        b"5\r\nhello5\r\n", b"0\r\n:x\r\n", b"0\r\nX : y\r\n", b"0\r\nX\r\n", b"0\r\nX: y\n", b"0\r\nX: \x00\r\n",
        b"0\r\n X: y\r\n", b"0\r\n\n",
    ],
)  # fmt: skip
def test_invalid_framing_is_refused_at_once(sent: bytes) -> None:
    with pytest.raises(Refused) as refusal:
        Chunks().feed(sent, 0)
    assert refusal.value.code == "bad_request"
