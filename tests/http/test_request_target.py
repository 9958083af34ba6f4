"""The request line arrives as it was sent, or not at all."""

import asyncio

import pytest

from tests.fakes.client import Client
from tests.fakes.proxy import RunningProxy, StartProxy
from tests.fakes.upstream import Upstream


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
