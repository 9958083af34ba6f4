"""The request line arrives as it was sent, or not at all."""

import asyncio
import os
import shutil

import pytest

from tests.fakes.client import Client
from tests.fakes.proxy import RunningProxy, StartProxy
from tests.fakes.upstream import Upstream
from tests.fakes.waiting import DEADLINE, eventually


async def forwarded(client: Client, upstream: Upstream, target: str) -> bytes:
    """The target that the upstream saw for the one that the client sent."""
    response = await client.ask("GET", target)
    assert (response.status, response.content) == (200, b"ok")
    (call,) = upstream.calls
    return call.target


@pytest.mark.parametrize(
    "target",
    [
        pytest.param("/api/a%2Fb", id="encoded_slash"),
        pytest.param("/api/x?", id="empty_query"),
        pytest.param("/api/x?a=1&a=2&b&=&c=%zz&d=+%20", id="query_in_order"),
        pytest.param("/api/x?a=1;b=2", id="semicolons"),
        pytest.param("/api//x/", id="double_and_trailing_slash"),
        pytest.param("/api/%7Euser/%c3%a5", id="case_of_hex_digits"),
        pytest.param("/api/x?file=%23&next=a/../b&c=\\|\"<>'", id="query_is_not_a_path"),
    ],
)
async def test_target_arrives_byte_for_byte(client: Client, upstream: Upstream, target: str) -> None:
    assert await forwarded(client, upstream, target) == target.encode()


async def test_a_request_line_of_8000_octets_is_accepted(client: Client, upstream: Upstream) -> None:
    target = "/api/" + "a" * (8000 - len("GET /api/ HTTP/1.1"))

    assert await forwarded(client, upstream, target) == target.encode()


async def test_a_target_beyond_the_limit_is_a_414(client: Client, upstream: Upstream) -> None:
    response = await client.ask("GET", "/api/" + "a" * 20_000)

    assert (response.status, response.code) == (414, "uri_too_long")
    await client.closed()
    assert not upstream.calls


async def test_an_absolute_form_becomes_an_origin_form(client: Client, upstream: Upstream) -> None:
    target = f"http://{client.authority.decode()}/api/x?y=%7E"

    assert await forwarded(client, upstream, target) == b"/api/x?y=%7E"
    assert upstream.calls[0].values(b"host") == [upstream.authority]


async def test_an_absolute_form_of_another_authority_is_refused(client: Client, upstream: Upstream) -> None:
    response = await client.ask("GET", "http://example.com/api/x")

    assert (response.status, response.code) == (421, "host_not_allowed")
    assert not upstream.calls


async def test_options_asterisk_is_answered_here(client: Client, upstream: Upstream) -> None:
    response = await client.ask("OPTIONS", "*")

    assert response.status in {200, 204, 400, 404, 405}
    assert not upstream.calls


@pytest.mark.parametrize(
    "target",
    [
        pytest.param("/other", id="another_path"),
        pytest.param("/apix/y", id="longer_name"),
        pytest.param("/API/x", id="other_case"),
        pytest.param("/%61pi/x", id="encoded"),
        pytest.param("//api/x", id="double_slash"),
        pytest.param("//example.com/api/x", id="network_path"),
        pytest.param("/api", id="without_slash"),
        pytest.param("/api?x=/api/", id="with_query"),
    ],
)
async def test_what_is_outside_api_is_not_forwarded(client: Client, upstream: Upstream, target: str) -> None:
    response = await client.ask("GET", target)

    assert (response.status, response.code) == (404, "not_forwarded")
    assert response.values(b"location") == []
    assert not upstream.calls


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_each_method_arrives(client: Client, upstream: Upstream, method: str) -> None:
    response = await client.ask(method, "/api/x")

    assert response.status == 200
    assert [call.method for call in upstream.calls] == [method.encode()]
    await client.still_open()


async def test_connect_opens_no_tunnel(client: Client, upstream: Upstream) -> None:
    await client.send(b"CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n" % (upstream.authority, client.authority))
    response = await client.response()

    assert (response.status, response.code) == (405, "method_not_allowed")
    assert not upstream.opened


async def test_trace_echoes_nothing(client: Client, upstream: Upstream) -> None:
    response = await client.ask("TRACE", "/api/x", b"X-Marker: marker-value")

    assert (response.status, response.code) == (405, "method_not_allowed")
    assert b"marker-value" not in response.content
    assert b"Bearer" not in response.content
    assert not upstream.calls


@pytest.mark.parametrize("kept", [b"", b"Connection: keep-alive\r\n"], ids=["", "keep_alive"])
async def test_http_1_0_without_a_host_is_forwarded_as_http_1_1(
    client: Client, upstream: Upstream, kept: bytes
) -> None:
    await client.send(b"GET /api/x HTTP/1.0\r\n" + kept + b"\r\n")
    response = await client.response()

    assert (response.status, response.content, response.framing) == (200, b"ok", "length")
    assert upstream.calls[0].head.version == b"HTTP/1.1"
    assert upstream.calls[0].values(b"host") == [upstream.authority]
    if not kept:
        await client.closed()


@pytest.mark.parametrize("version", ["HTTP/2.0", "HTTP/0.9", "HTTP/9.9", "HTTP/1.2", "HTTP/3", "http/1.1", "HTTQ/1.1"])
async def test_other_versions_are_refused(client: Client, upstream: Upstream, version: str) -> None:
    await client.send(b"GET /api/x %s\r\nHost: %s\r\n\r\n" % (version.encode(), client.authority))
    response = await client.response()

    assert response.status in {400, 505}
    assert response.version in {b"HTTP/1.0", b"HTTP/1.1"}
    await client.closed()
    assert not upstream.calls


async def test_a_request_line_without_a_version_is_refused(client: Client, upstream: Upstream) -> None:
    await client.send(b"GET /api/x\r\n\r\n")
    ended = await client.rest()

    assert ended.got == b"" or ended.got.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 ", b"HTTP/1.1 505 "))
    assert not upstream.calls


async def test_a_smaller_limit_holds_for_the_target(start_proxy: StartProxy, upstream: Upstream) -> None:
    proxy: RunningProxy = await start_proxy(limits={"header_bytes": "1KiB"})
    client = await proxy.connect()
    response = await client.ask("GET", "/api/" + "a" * 1024)

    assert (response.status, response.code) == (414, "uri_too_long")
    assert not upstream.calls


@pytest.mark.parametrize("pieces", [1, 50], ids=["at_once", "in_pieces"])
@pytest.mark.parametrize("lines", [1, 20], ids=["one_field", "many_fields"])
async def test_the_limit_is_for_the_whole_head(
    start_proxy: StartProxy, upstream: Upstream, pieces: int, lines: int
) -> None:
    proxy = await start_proxy(limits={"header_bytes": "4KiB"})
    client = await proxy.connect()
    answers = []
    for size in (3800, 4300):
        head = client.request(
            "GET", "/api/x", *[b"X-%02d: " % line + b"v" * (size // lines - 8) for line in range(lines)]
        )
        step = len(head) // pieces + 1
        for start in range(0, len(head), step):
            await client.send(head[start : start + step])
            await asyncio.sleep(0)
        answers.append(await client.response())

    assert [(got.status, got.code) for got in answers] == [(200, ""), (431, "header_too_large")]
    await client.closed()
    assert len(upstream.calls) == 1


LETTERS = "/api/customers?name=Åkesson&x=%c3%85"


@pytest.mark.parametrize("size", [1000, 1, 7], ids=["at_once", "byte_by_byte", "in_pieces"])
@pytest.mark.parametrize("place", ["first", "behind_a_get", "behind_content", "behind_chunks"])
async def test_raw_letters_of_a_target_are_encoded_and_all_else_is_left(
    client: Client, upstream: Upstream, place: str, size: int
) -> None:
    before = {
        "first": b"",
        "behind_a_get": client.request("GET", "/api/first"),
        "behind_content": client.request("POST", "/api/first", content="å /å HTTP/1.1\r\n\r\n".encode()),
        "behind_chunks": client.request("POST", "/api/first", b"Transfer-Encoding: chunked")
        + b"4\r\n\r\n\r\n\r\n2\r\n\xc3\xa5\r\n0\r\nX: \xe5\r\n\r\n",
    }[place]
    sent = before + b"GET %s HTTP/1.1\r\nHost: localhost\r\nX: \xe5\r\n\r\n" % LETTERS.encode()
    for start in range(0, len(sent), size):
        await client.send(sent[start : start + size])
        await asyncio.sleep(0)
    if before:
        assert (await client.response()).status == 200
    assert (await client.response()).status == 200
    last = upstream.calls[-1]
    assert (last.target, last.values(b"x")) == (b"/api/customers?name=%C3%85kesson&x=%c3%85", [b"\xe5"])
    if "content" in place:
        assert bytes(upstream.calls[0].content) == "å /å HTTP/1.1\r\n\r\n".encode()
    if "chunks" in place:
        assert bytes(upstream.calls[0].content) == b"\r\n\r\n\xc3\xa5"


CLIENTS = {
    "curl": ["curl", "-sS", "{url}"],
    "php": ["php", "-r", "exit(file_get_contents('{url}') === 'ok' ? 0 : 1);"],
    "perl": ["perl", "-MHTTP::Tiny", "-e", "exit(HTTP::Tiny->new->get('{url}')->{{success}} ? 0 : 1)"],
}


@pytest.mark.parametrize("name", ["curl", "php", "perl"])
async def test_real_clients_send_raw_letters_and_get_their_answer(
    proxy: RunningProxy, upstream: Upstream, name: str
) -> None:
    if shutil.which(name) is None and "CI" not in os.environ:
        pytest.skip(f"there is no {name} on this computer")
    command = [part.format(url=f"http://127.0.0.1:{proxy.port}/api/customers?name=Åkesson") for part in CLIENTS[name]]
    process = await asyncio.create_subprocess_exec(*command)
    assert await asyncio.wait_for(process.wait(), DEADLINE) == 0
    assert [call.target for call in upstream.calls] == [b"/api/customers?name=%C3%85kesson"]


async def test_policy_and_pages_see_raw_letters_encoded(start_proxy: StartProxy, upstream: Upstream) -> None:
    proxy = await start_proxy(access={"allow": [{"methods": ["GET"], "paths": ["/api/kunder/%C3%85ke"]}]})
    client = await proxy.connect()
    for target, status in (("/api/kunder/Åke", 200), ("/api/kunder/Öke", 403), ("/setup/paste?x=å", 200), ("/å", 404)):
        await client.send(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert (await client.response()).status == status or target.startswith("/setup")
    await eventually(lambda: len(proxy.events("request.done")) == 4)
    assert [event["path"] for event in proxy.events("request.done")] == [
        "/api/kunder/%C3%85ke", "/api/kunder/%C3%96ke", "/setup/paste", "/%C3%A5",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "method", "path", "reason"),
    [
        (b"GET /api/a b?secret HTTP/1.1", "GET", "/api/a", "contains a space. It must be percent-encoded (as %20)"),
        (b"GET /api/a?secret#x HTTP/1.1", "GET", "/api/a", "contains a `#`. It must be percent-encoded"),
        (b"GET /api/a\x1b?secret HTTP/1.1", "GET", "/api/a\x1b", "contains a control character"),
        (b"PUT  /api/a?secret HTTP/1.1", "PUT", "/api/a", "exactly one space"),
        (b"GET /api/a?secret HTTP/1.1\r\nX y: secret", "GET", "/api/a", "header line is not valid"),
        (b"BREW /api/a?secret HTTP/1.1", "BREW", "/api/a", "does not know this method"),
        (b"GET http://user:secret@localhost/api/a HTTP/1.1", "GET", "/api/a", "neither a path nor an http URL"),
        (b"GET /api/a?secret RTSP/1.0", "GET", "/api/a", "speaks RTSP"),
        (b"GET /api/.. HTTP/1.1", "GET", "/api/..", "dot segment"),
        (b"secret secret", "", "", "has no HTTP version"),
    ],
)
async def test_a_refused_request_is_in_the_log_with_method_path_and_reason(
    proxy: RunningProxy, line: bytes, method: str, path: str, reason: str
) -> None:
    client = await proxy.connect()
    await client.send(line + b"\r\nHost: localhost\r\nX-Mark: secret\r\n\r\n")
    got = await client.response()
    assert got.code
    await eventually(lambda: proxy.events("request.done"))
    (event,) = proxy.events("request.done")
    assert (event["method"], event["path"], event["code"]) == (method, path, got.code)
    assert reason in event["reason"]
    assert "secret" not in proxy.written()


async def test_a_head_that_never_ends_is_in_the_log_with_method_and_path(start_proxy: StartProxy) -> None:
    proxy = await start_proxy(limits={"header_timeout": 0.3})
    for begun in (b"GET /api/a?secret", b"GET /api/a?secret HTTP/1.1\r\nX: secret"):
        client = await proxy.connect()
        await client.send(begun)
        assert (await client.response()).status == 408
    await eventually(lambda: len(proxy.events("request.done")) == 2)
    assert {(event["method"], event["path"]) for event in proxy.events("request.done")} == {("GET", "/api/a")}
    assert "secret" not in proxy.written()


@pytest.mark.parametrize(
    ("sent", "warning"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00", "TLS was spoken to a plain-HTTP port: use http://localhost:"),
        (b"\x05\x01\x00", "SOCKS was spoken to a plain-HTTP port"),
        (b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n", "The PROXY protocol was spoken"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/2 was spoken"),
    ],
)
async def test_another_protocol_is_named_in_the_log_once(proxy: RunningProxy, sent: bytes, warning: str) -> None:
    for _ in range(2):
        client = await proxy.connect()
        await client.send(sent)
        assert (await client.response()).status in {400, 505}
        await client.closed()
    await eventually(lambda: len(proxy.events("request.done")) == 2)
    (event,) = proxy.events("connection.wrong_protocol")
    assert event["level"] == "warning"
    assert event["reason"].startswith(warning)


async def test_cookies_that_we_drop_need_not_fit_in_the_limit(proxy: RunningProxy, upstream: Upstream) -> None:
    client = await proxy.connect()
    for pieces in (1, 9):
        head = client.request("GET", "/api/x", b"Cookie: " + b"c=1; " * 5000, b"X: y")
        for start in range(0, len(head), len(head) // pieces + 1):
            await client.send(head[start : start + len(head) // pieces + 1])
            await asyncio.sleep(0.01)
        assert (await client.response()).status == 200
    assert upstream.calls[0].values(b"cookie") == []
    assert (await client.ask("GET", "/", b"Cookie: " + b"c=1; " * 5000)).status == 200


@pytest.mark.parametrize(
    ("cookies", "size", "given"),
    [("drop", 100_000, 1), ("forward", 20_000, 1), ("drop", 100_000, 20), ("forward", 20_000, 20)],
)
async def test_too_many_cookies_are_told_to_a_browser_on_a_page(
    start_proxy: StartProxy, upstream: Upstream, cookies: str, size: int, given: int
) -> None:
    proxy = await start_proxy(access={"cookies": cookies})
    client = await proxy.connect()
    head = client.request("GET", "/setup", b"Accept: text/html,*/*", b"Cookie: " + b"c" * size)
    for start in range(0, len(head), len(head) // given + 1):
        await client.send(head[start : start + len(head) // given + 1])
        await asyncio.sleep(0.005)
    got = await client.response()
    assert (got.status, got.code) == (431, "header_too_large")
    assert got.values(b"content-type") == [b"text/html; charset=utf-8"]
    assert b"cookies of localhost" in got.content
    assert b"127.0.0.1" in got.content


@pytest.mark.parametrize("name", [b"X", b"Cookiee", b"X-Cookie"])
async def test_other_fields_must_fit_in_the_limit(client: Client, upstream: Upstream, name: bytes) -> None:
    for part in (b"GET /api/x HTTP/1.1\r\nHost: localhost\r\n", name[:3], name[3:] + b": " + b"x" * 20_000, b"x" * 50):
        await client.send(part)
        await asyncio.sleep(0.01)
    assert (await client.response()).code == "header_too_large"
    assert not upstream.calls
