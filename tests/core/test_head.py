"""A header section: what its fields say, once for all requests that have them."""

import pytest

from krebit_proxy.core.fields import withheld
from krebit_proxy.core.head import Head
from krebit_proxy.errors import Refused

HOST = (b"Host", b"localhost:8321")


def section(*fields: tuple[bytes, bytes], http10: bool = False) -> Head:
    return Head.examined(fields, http10=http10, withheld=withheld())


def test_it_knows_names_length_and_what_goes_upstream() -> None:
    examined = section(HOST, (b"Content-Length", b"7"), (b"Accept", b"*/*"), (b"Cookie", b"a=b"))
    assert examined.names == (b"host", b"content-length", b"accept", b"cookie")
    assert (examined.length, examined.expects) == (7, False)
    assert examined.lines == examined.lines_for(b"POST") == b"Accept: */*\r\n"


def test_its_text_shows_no_value() -> None:
    assert "marker" not in repr(section(HOST, (b"X-Api-Key", b"marker")))


@pytest.mark.parametrize(
    ("fields", "http10", "code"),
    [
        ([], False, "host_not_allowed"),
        ([], True, ""),
        ([HOST, HOST], False, "host_not_allowed"),
        ([HOST, HOST], True, "host_not_allowed"),
        ([HOST, (b"Bad Name", b"")], False, "bad_request"),
        ([HOST, (b"Expect", b"a-pony")], False, "expectation_failed"),
        ([HOST, (b"Expect", b"100-continue"), (b"Expect", b"a-pony")], False, "expectation_failed"),
        ([HOST, (b"Expect", b"a-pony")], True, ""),
        ([HOST, (b"Transfer-Encoding", b"chunked")], True, "bad_request"),
    ],
)
def test_no_valid_message_is_refused(fields: list[tuple[bytes, bytes]], http10: bool, code: str) -> None:
    if not code:
        section(*fields, http10=http10)
        return
    with pytest.raises(Refused) as refused:
        section(*fields, http10=http10)
    assert refused.value.code == code


def test_who_expects_100_continue_has_content_and_speaks_http_1_1() -> None:
    expect, length = (b"Expect", b"100-Continue"), (b"Content-Length", b"1")
    assert section(HOST, expect, length).expects
    assert not section(HOST, expect).expects
    assert not section(HOST, expect, length, http10=True).expects


def test_max_forwards_counts_down_for_options_only() -> None:
    examined = section(HOST, (b"max-forwards", b"7"), (b"X-A", b"7"))
    assert examined.lines_for(b"OPTIONS") == b"max-forwards: 6\r\nX-A: 7\r\n"
    assert examined.lines_for(b"GET") == b"max-forwards: 7\r\nX-A: 7\r\n"
    assert section(HOST, (b"Max-Forwards", b"x")).lines_for(b"OPTIONS") == b"Max-Forwards: x\r\n"
    assert section(HOST, (b"X-A", b"7")).lines_for(b"OPTIONS") == b"X-A: 7\r\n"
