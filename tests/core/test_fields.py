"""Header fields: what is refused, what is forwarded, and what comes back."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krebit_proxy.core.fields import (
    Fields,
    Names,
    checked,
    connection_options,
    folded,
    forwarded,
    framing,
    one_forward_less,
    origin,
    request_head,
    response_fields,
    withheld,
)
from krebit_proxy.errors import Refused

HOST = (b"Host", b"localhost:8321")


def sent(*fields: tuple[bytes, bytes], method: bytes = b"GET", **options: Any) -> list[bytes]:
    """The lines of the upstream's request head, for a caller's fields."""
    options = {"content": 0} | options
    held = withheld(**{name: options.pop(name) for name in ("cookies", "keys") if name in options})
    head = request_head(
        method,
        b"/api/x",
        forwarded(checked(fields), fields, held),
        authority=b"yourcompany.krebit.se",
        authorization=b"Bearer TOKEN",
        **options,
    )
    assert head.endswith(b"\r\n\r\n")
    return head[:-4].split(b"\r\n")


def returned(*fields: tuple[bytes, bytes], **options: Any) -> list[bytes]:
    """The lines of the caller's response, for the upstream's fields, without the guards that all answers carry."""
    options = {
        "length": None,
        "upstream_origin": b"https://yourcompany.krebit.se",
        "caller_origin": b"http://localhost:8321",
        "shown": False,
    } | options
    names = folded([name for name, _ in fields])
    assert names is not None
    lines = response_fields(names, fields, **options)
    guards = b"X-Content-Type-Options: nosniff\r\nCross-Origin-Resource-Policy: same-origin\r\n"
    assert lines.endswith(guards)
    return lines.removesuffix(guards).split(b"\r\n")[:-1]


OURS = [b"Via: 1.1 krebit-proxy", b"Authorization: Bearer TOKEN"]
START = [b"GET /api/x HTTP/1.1", b"Host: yourcompany.krebit.se"]


def test_the_head_is_the_callers_with_our_host_and_token() -> None:
    assert sent(HOST, (b"Accept", b"*/*")) == [*START, b"Accept: */*", *OURS]


def test_a_caller_that_sends_nothing_gets_nothing_added_but_ours() -> None:
    assert sent() == [*START, *OURS]


def test_repeated_fields_keep_their_lines_order_and_spelling() -> None:
    lines = sent((b"X-M", b"1"), (b"x-m", b"2"), (b"X-Empty", b""), (b"X-Text", b"caf\xe9 \xc3\xa5\t"))
    assert lines[2:6] == [b"X-M: 1", b"x-m: 2", b"X-Empty: ", b"X-Text: caf\xe9 \xc3\xa5\t"]


@pytest.mark.parametrize(
    "name",
    [
        b"Authorization",
        b"AUTHORIZATION",
        b"Connection",
        b"Content-Length",
        b"Cookie",
        b"Expect",
        b"Forwarded",
        b"Host",
        b"HTTP2-Settings",
        b"Keep-Alive",
        b"Proxy-Anything",
        b"Proxy-Authorization",
        b"Proxy-Connection",
        b"TE",
        b"Trailer",
        b"Transfer-Encoding",
        b"Upgrade",
        b"X-Forwarded-For",
        b"x-forwarded-host",
        b"X-Original-URL",
        b"X-Real-IP",
        b"X-Rewrite-URL",
        b"X_Forwarded_For",
        b"Content_Length",
    ],
)
def test_a_field_that_is_ours_or_of_this_connection_or_a_claim_is_not_sent(name: bytes) -> None:
    assert sent((name, b"1"), (b"Accept", b"*/*")) == [*START, b"Accept: */*", *OURS]


def test_what_connection_names_is_not_sent_in_any_spelling() -> None:
    fields = [(b"Connection", b"X-A, x-b,, keep-alive"), (b"CONNECTION", b"\tX-C "), (b"X-A", b"1"), (b"X-B", b"2")]
    assert sent(*fields, (b"x-c", b"3"), (b"X-D", b"4")) == [*START, b"X-D: 4", *OURS]


def test_connection_cannot_remove_what_we_add() -> None:
    fields = [(b"Connection", b"Authorization, Host, Via, Content-Length"), (b"Via", b"1.0 other")]
    assert sent(*fields, method=b"POST", content=3)[1:] == [
        b"Host: yourcompany.krebit.se",
        b"Content-Length: 3",
        *OURS,
    ]


def test_cookies_are_forwarded_when_told_as_they_came() -> None:
    cookie = (b"Cookie", b'a="x y"; b=1')
    assert sent(cookie) == [*START, *OURS]
    assert sent(cookie, cookies=True) == [*START, b'Cookie: a="x y"; b=1', *OURS]


def test_no_place_of_a_client_key_is_forwarded() -> None:
    key = (b"X-Api-Key", b"k")
    assert sent(key, (b"Authorization", b"Bearer k")) == [*START, b"X-Api-Key: k", *OURS]
    assert sent(key, (b"Authorization", b"Bearer k"), keys=True) == [*START, *OURS]


@pytest.mark.parametrize(
    ("method", "content", "line"),
    [
        (b"GET", 0, []),
        (b"DELETE", 0, []),
        (b"POST", 0, [b"Content-Length: 0"]),
        (b"GET", 5, [b"Content-Length: 5"]),
        (b"PUT", None, [b"Transfer-Encoding: chunked"]),
    ],
)
def test_the_length_of_the_content_is_told_once(method: bytes, content: int | None, line: list[bytes]) -> None:
    assert sent((b"Content-Length", b"005"), method=method, content=content)[2:-2] == line


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ((b"max-forwards", b"7"), b"6"),
        ((b"Max-Forwards", b"0"), b"0"),
        ((b"Max-Forwards", b"x"), b"x"),
        ((b"X-A", b"7"), b"7"),
    ],
)
def test_max_forwards_counts_down_and_nothing_else_does(field: tuple[bytes, bytes], value: bytes) -> None:
    assert one_forward_less(*field) == (field[0], value)


def test_expect_and_upgrade_are_sent_only_when_we_ask() -> None:
    fields = [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
    assert sent(*fields, expect=True)[2:-2] == [b"Expect: 100-continue"]
    assert sent(*fields, upgrade=b"websocket")[2:-2] == [b"Connection: Upgrade", b"Upgrade: websocket"]


@pytest.mark.parametrize(
    "field",
    [
        (b"", b"x"),
        (b"X Y", b"x"),
        (b"X:", b"x"),
        (b"X\n", b"x"),
        (b"\n", b"x"),
        (b"X\nY", b"x"),
        (b"X\xe5", b"x"),
        (b"X", b"a\rb"),
        (b"X", b"a\nb"),
        (b"X", b"a\x00b"),
        (b"X", b"a\x1bb"),
        (b"X", b"a\x7fb"),
    ],
)
def test_a_bad_field_is_a_bad_request(field: tuple[bytes, bytes]) -> None:
    for fields in ([field], [HOST, field]):
        with pytest.raises(Refused) as refusal:
            checked(fields)
        assert refusal.value.code == "bad_request"


@pytest.mark.parametrize("names", [[b""], [b"X Y"], [b"A", b"B\nC"], [b"X:"], [b"X\xe5"]])
def test_a_bad_name_is_a_bad_answer(names: list[bytes]) -> None:
    assert folded(names) is None


def test_connection_options_are_those_of_all_lines() -> None:
    fields = [(b"Connection", b"Close, X"), HOST, (b"connection", b"keep-alive")]
    assert connection_options(checked(fields), fields) == {b"close", b"x", b"keep-alive"}
    assert connection_options(Names([b"host"]), [HOST]) == {b""}


@pytest.mark.parametrize(
    ("fields", "length"),
    [
        ([], 0),
        ([(b"Content-Length", b"0")], 0),
        ([(b"Content-Length", b"005")], 5),
        ([(b"Transfer-Encoding", b"Chunked")], None),
    ],
)
def test_the_length_of_a_request_is_read(fields: Fields, length: int | None) -> None:
    assert framing(checked(fields), fields) == length


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ([(b"Content-Length", b"5"), (b"Content-Length", b"5")], "bad_request"),
        ([(b"Content-Length", b"5, 5")], "bad_request"),
        ([(b"Content-Length", b"+5")], "bad_request"),
        ([(b"Content-Length", b"-5")], "bad_request"),
        ([(b"Content-Length", b"0x5")], "bad_request"),
        ([(b"Content-Length", b"1_0")], "bad_request"),
        ([(b"Content-Length", b"")], "bad_request"),
        ([(b"Content-Length", b"9" * 5000)], "bad_request"),
        ([(b"Content-Length", b"5"), (b"Transfer-Encoding", b"chunked")], "bad_request"),
        ([(b"Transfer-Encoding", b"chunked"), (b"Transfer-Encoding", b"chunked")], "bad_request"),
        ([(b"Transfer-Encoding", b"gzip, chunked")], "not_implemented"),
        ([(b"Transfer-Encoding", b",chunked")], "not_implemented"),
        ([(b"Transfer-Encoding", b"identity")], "not_implemented"),
        ([(b"Transfer-Encoding", b"")], "not_implemented"),
    ],
)
def test_a_length_that_two_readers_could_read_differently_is_refused(fields: Fields, code: str) -> None:
    with pytest.raises(Refused) as refusal:
        framing(checked(fields), fields)
    assert refusal.value.code == code


def test_chunks_are_not_a_part_of_http_1_0() -> None:
    fields = [(b"Transfer-Encoding", b"chunked")]
    with pytest.raises(Refused) as refusal:
        framing(checked(fields), fields, http10=True)
    assert refusal.value.code == "bad_request"


@pytest.mark.parametrize(
    "name",
    [
        b"Accept-CH",
        b"Access-Control-Allow-Credentials",
        b"Access-Control-Allow-Origin",
        b"access-control-anything",
        b"Alt-Svc",
        b"Clear-Site-Data",
        b"Connection",
        b"Content-Length",
        b"Cross-Origin-Resource-Policy",
        b"Expect-CT",
        b"Keep-Alive",
        b"NEL",
        b"Origin-Agent-Cluster",
        b"Proxy-Authenticate",
        b"Public-Key-Pins",
        b"Report-To",
        b"Reporting-Endpoints",
        b"Service-Worker-Allowed",
        b"Set-Cookie",
        b"Set-Login",
        b"Speculation-Rules",
        b"Strict-Transport-Security",
        b"Timing-Allow-Origin",
        b"Trailer",
        b"Transfer-Encoding",
        b"Upgrade",
        b"X-Content-Type-Options",
        b"X-Krebit-Proxy-Error",
    ],
)
def test_a_field_of_the_upstreams_connection_or_origin_does_not_come_back(name: bytes) -> None:
    assert returned((name, b"x"), (b"ETag", b'"a"')) == [b'ETag: "a"']


def test_the_upstreams_other_fields_come_back_as_they_are() -> None:
    fields = [(b"Server", b"nginx"), (b"link", b"<a>"), (b"Link", b"<b>"), (b"X-Text", b"caf\xe9"), (b"X_A", b"1")]
    assert returned(*fields) == [b"Server: nginx", b"link: <a>", b"Link: <b>", b"X-Text: caf\xe9", b"X_A: 1"]
    assert returned() == []


def test_what_the_upstreams_connection_names_does_not_come_back() -> None:
    assert returned((b"Connection", b"X-A"), (b"X-A", b"1"), (b"X-B", b"2")) == [b"X-B: 2"]


def test_the_length_of_the_answer_is_told_when_known() -> None:
    assert returned((b"Content-Length", b"007"), length=7) == [b"Content-Length: 7"]


def test_set_cookie_comes_back_line_by_line_when_told() -> None:
    cookies = [(b"Set-Cookie", b"a=1; Path=/"), (b"Set-Cookie", b"b=2")]
    assert returned(*cookies, cookies=True) == [b"Set-Cookie: a=1; Path=/", b"Set-Cookie: b=2"]


SANDBOX = b"Content-Security-Policy: sandbox"


@pytest.mark.parametrize(
    "kinds",
    [
        [],
        [b""],
        [b"text/html; charset=utf-8"],
        [b"Text/HTML"],
        [b" text/html"],
        [b"application/xhtml+xml"],
        [b"application/xml"],
        [b"application/rss+xml"],
        [b"application/mathml+xml"],
        [b"application/json+xml"],
        [b"application/xslt+xml"],
        [b"image/svg+xml"],
        [b"video/mp4+xml"],
        [b"audio/x+xml"],
        [b"text/xml"],
        [b"text/xsl"],
        [b"text/javascript"],
        [b"multipart/x-mixed-replace; boundary=a"],
        [b"message/rfc822"],
        [b"x/y"],
        [b"*/*"],
        [b"text/plain, text/html"],
        [b"text/plain,text/html"],
        [b"text/plain;a, text/html"],
        [b'text/plain;a=", text/html'],
        [b"text/html, text/plain"],
        [b"application/json,"],
        [b"text/plain", b"text/html"],
        [b"text/plain", b"text/plain"],
        [b"text/plain text/html"],
        [b"text/plain\x0c"],
        [b"text/html;application/json"],
        [b"text/plain; " + b"x" * 200 + b", text/html"],
        [b"json"],
        [b"text/plain/html"],
    ],
)
def test_content_that_a_browser_might_run_has_no_rights(kinds: list[bytes]) -> None:
    fields = [(b"Content-Type", kind) for kind in kinds]
    assert returned(*fields, shown=True) == [*[b"Content-Type: " + kind for kind in kinds], SANDBOX]


@pytest.mark.parametrize(
    "kind",
    [
        b"application/json",
        b"application/json; charset=utf-8",
        b"Application/JSON;charset=UTF-8",
        b"application/problem+json",
        b"application/vnd.krebit.v2+json ; a=b",
        b"application/octet-stream",
        b"application/pdf",
        b"application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
        b"application/zip",
        b"font/woff2",
        b"image/png",
        b"text/csv; charset=utf-8; header=present",
        b"text/plain",
        b"text/plain; " + b"x" * 200,
        b"video/mp4",
    ],
)
def test_content_that_no_browser_runs_comes_as_it_is(kind: bytes) -> None:
    assert returned((b"content-type", kind), shown=True) == [b"content-type: " + kind]


def test_what_has_no_content_needs_no_policy() -> None:
    assert returned((b"Content-Type", b"text/html"), shown=True, length=0)[1:] == [b"Content-Length: 0"]


def test_a_policy_of_the_upstream_stays_beside_ours() -> None:
    fields = [(b"Content-Type", b"text/html"), (b"Content-Security-Policy", b"default-src 'self'")]
    assert returned(*fields, shown=True) == [b": ".join(field) for field in fields] + [SANDBOX]


def test_an_allowed_origin_may_read_the_answer() -> None:
    lines = response_fields(
        Names([b"access-control-allow-origin"]),
        [(b"Access-Control-Allow-Origin", b"*")],
        length=None,
        upstream_origin=b"https://yourcompany.krebit.se",
        caller_origin=b"",
        allowed_origin=b"http://localhost:3000",
        shown=False,
    )
    assert lines == (
        b"X-Content-Type-Options: nosniff\r\nAccess-Control-Allow-Origin: http://localhost:3000\r\n"
        b"Access-Control-Expose-Headers: *\r\nVary: Origin\r\n"
    )


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        (b"https://yourcompany.krebit.se/api/x?y#z", b"http://localhost:8321/api/x?y#z"),
        (b"HTTPS://YourCompany.krebit.se:443/api/x", b"http://localhost:8321/api/x"),
        (b"//yourcompany.krebit.se/api/x", b"http://localhost:8321/api/x"),
        (b"https://yourcompany.krebit.se", b"http://localhost:8321/"),
        (b"https://yourcompany.krebit.se?x", b"http://localhost:8321/?x"),
        (b"/api/x", b"/api/x"),
        (b"../x", b"../x"),
        (b"", b""),
        (b"http://yourcompany.krebit.se/api/x", b"http://yourcompany.krebit.se/api/x"),
        (b"https://yourcompany.krebit.se:8443/x", b"https://yourcompany.krebit.se:8443/x"),
        (b"https://yourcompany.krebit.se.evil/x", b"https://yourcompany.krebit.se.evil/x"),
        (b"https://yourcompany.krebit.se@evil/x", b"https://yourcompany.krebit.se@evil/x"),
        (b"https://yourcompany.krebit.se\\@evil/x", b"https://yourcompany.krebit.se\\@evil/x"),
        (b"https://other/x", b"https://other/x"),
    ],
)
def test_a_location_on_the_upstreams_origin_comes_back_on_the_callers(location: bytes, expected: bytes) -> None:
    assert returned((b"Location", location)) == [b"Location: " + expected]


def test_a_location_for_a_caller_that_named_no_host_is_a_path() -> None:
    there = b"https://yourcompany.krebit.se"
    assert returned((b"Location", there + b"/api/x"), caller_origin=b"") == [b"Location: /api/x"]
    assert returned((b"Location", there + b"//evil"), caller_origin=b"") == [b"Location: " + there + b"//evil"]


def test_origins_are_compared_without_case_and_default_port() -> None:
    assert origin(b"HTTP://Localhost:80") == origin(b"http://localhost")
    assert origin(b"https://a:443") == b"https://a"
    assert origin(b"http://a:443") == b"http://a:443"


NAMES = st.sampled_from([b"Connection", b"Authorization", b"X-A", b"x_b", b"TE", b"Via", b"Cookie", b"Host"])
VALUES = st.sampled_from([b"authorization", b"Host, via", b"x-a", b"", b"chunked", b"\xff"])


@given(st.lists(st.tuples(NAMES | st.binary(max_size=5), VALUES | st.binary(max_size=8)), max_size=8))
def test_whatever_comes_the_upstream_sees_one_authorization_and_one_host_ours(fields: Fields) -> None:
    try:
        names = checked(fields)
    except Refused:
        return
    passing = forwarded(names, fields, withheld())
    head = request_head(b"GET", b"/api/x", passing, authority=b"a", authorization=b"Bearer TOKEN", content=0)
    lines = head[:-4].split(b"\r\n")[1:]
    sent_names = [line.partition(b":")[0].lower() for line in lines]
    assert b"\r" not in head.replace(b"\r\n", b"")
    assert [line for line in lines if line.lower().startswith(b"authorization")] == [b"Authorization: Bearer TOKEN"]
    assert [line for line in lines if line.lower().startswith(b"host")] == [b"Host: a"]
    assert not {b"connection", b"te", b"cookie", b"x_b"} & set(sent_names)
