"""The fields of a request, on their way to the upstream."""

import pytest

from tests.fakes.client import Client
from tests.fakes.proxy import StartProxy
from tests.fakes.upstream import Call, Upstream

OWN = [b"host", b"via", b"authorization"]  # what the proxy itself adds to a request without content


async def sent(client: Client, upstream: Upstream, *fields: bytes, method: str = "GET", content: bytes = b"") -> Call:
    """What the upstream sees of a request with these field lines."""
    response = await client.ask(method, "/api/x", *fields, content=content)
    assert response.status == 200, response
    return upstream.calls[-1]


async def test_a_plain_request_gets_our_fields_and_no_others(client: Client, upstream: Upstream) -> None:
    call = await sent(client, upstream)

    assert sorted(call.names) == sorted(OWN)
    assert call.values(b"via") == [b"1.1 krebit-proxy"]


async def test_authorization_is_replaced(client: Client, upstream: Upstream) -> None:
    call = await sent(client, upstream, b"Authorization: Basic marker")

    assert call.values(b"authorization") == [b"Bearer token-1"]
    assert b"marker" not in call.head.raw


async def test_two_authorization_fields_are_replaced_by_one(client: Client, upstream: Upstream) -> None:
    await client.send(client.request("GET", "/api/x", b"Authorization: Basic marker", b"authorization: Bearer marker"))
    response = await client.response()

    # Some parsers refuse what must be single; then nothing is forwarded.
    assert response.status in {200, 400}
    assert [call.values(b"authorization") for call in upstream.calls] in ([], [[b"Bearer token-1"]])
    assert all(b"marker" not in call.head.raw for call in upstream.calls)


async def test_host_is_the_upstreams(client: Client, upstream: Upstream) -> None:
    call = await sent(client, upstream)

    assert call.values(b"host") == [upstream.authority]


async def test_fields_named_by_connection_are_removed(client: Client, upstream: Upstream) -> None:
    call = await sent(client, upstream, b"Connection: X-A, x-b", b"X-A: 1", b"X-B: 2", b"X-C: 3")

    assert sorted(call.names) == sorted([*OWN, b"x-c"])


async def test_fields_named_by_several_connection_lines_are_removed(client: Client, upstream: Upstream) -> None:
    call = await sent(
        client, upstream, b"connection: ,  x-A ,,", b"CONNECTION:", b"Connection: \tX-b\t, keep-alive",
        b"X-A: 1", b"x-b: 2", b"X-C: 3",
    )  # fmt: skip

    assert sorted(call.names) == sorted([*OWN, b"x-c"])


@pytest.mark.parametrize("name", [b"Authorization", b"Host", b"Via", b"Content-Length", b"Content-Type"])
async def test_connection_cannot_remove_our_fields(client: Client, upstream: Upstream, name: bytes) -> None:
    call = await sent(client, upstream, b"Connection: " + name, b"Content-Type: a/b", method="POST", content=b"hello")

    assert call.values(b"authorization") == [b"Bearer token-1"]
    assert call.values(b"host") == [upstream.authority]
    assert call.values(b"via") == [b"1.1 krebit-proxy"]
    assert bytes(call.content) == b"hello"


async def test_connection_close_is_the_callers_alone(client: Client, upstream: Upstream) -> None:
    response = await client.ask("GET", "/api/x", b"Connection: close")

    assert response.closes
    await client.closed()
    assert b"connection" not in upstream.calls[0].names


async def test_the_upstream_connection_is_used_again(start_proxy: StartProxy, upstream: Upstream) -> None:
    proxy = await start_proxy()
    for _ in range(2):
        client = await proxy.connect()
        await client.ask("GET", "/api/x", b"Connection: close")
        await client.closed()

    assert len(upstream.connections) == 1


HOP_BY_HOP = [
    b"Keep-Alive: timeout=5",
    b"Proxy-Connection: keep-alive",
    b"Proxy-Authorization: Basic marker",
    b"Proxy-Authenticate: Basic",
    b"TE: gzip",
    b"Trailer: X-T",
    b"Upgrade: marker",
    b"HTTP2-Settings: marker",
]


@pytest.mark.parametrize("line", HOP_BY_HOP, ids=lambda line: line.split(b":")[0].decode())
async def test_a_hop_by_hop_field_is_removed(client: Client, upstream: Upstream, line: bytes) -> None:
    call = await sent(client, upstream, line, b"X-C: 3")

    assert sorted(call.names) == sorted([*OWN, b"x-c"])


async def test_repeated_fields_stay_in_order(client: Client, upstream: Upstream) -> None:
    call = await sent(client, upstream, b"X-M: 1", b"X-N: 0", b"X-M: 2")

    assert call.values(b"x-m") == [b"1", b"2"]


@pytest.mark.parametrize(
    "line",
    [b"User-Agent: tool/1 (old)", b"Accept: a/b;q=0.5, */*", b"Accept-Encoding: br, gzip;q=0"],
    ids=lambda line: line.split(b":")[0].decode(),
)
async def test_what_clients_like_to_invent_passes_and_is_not_invented(
    client: Client, upstream: Upstream, line: bytes
) -> None:
    name, _, value = line.partition(b": ")
    without = await sent(client, upstream)
    given = await sent(client, upstream, line)

    assert without.values(name.lower()) == []
    assert given.values(name.lower()) == [value]


async def test_no_content_type_is_invented(client: Client, upstream: Upstream) -> None:
    call = await sent(client, upstream, method="POST", content=b"hello")

    assert sorted(call.names) == sorted([*OWN, b"content-length"])


async def test_cookies_are_dropped(client: Client, upstream: Upstream) -> None:
    call = await sent(client, upstream, b'Cookie: a="x y"; b=1')

    assert call.values(b"cookie") == []


async def test_cookies_pass_unchanged_when_told(start_proxy: StartProxy, upstream: Upstream) -> None:
    client = await (await start_proxy(access={"cookies": "forward"})).connect()
    given = await sent(client, upstream, b'Cookie: a="x y"; b=1')
    without = await sent(client, upstream)

    assert given.values(b"cookie") == [b'a="x y"; b=1']
    assert without.values(b"cookie") == []


@pytest.mark.parametrize(
    "value", ["blåbär".encode(), b"caf\xe9", b"\xff\xfe a \x80"], ids=["utf_8", "latin_1", "bytes"]
)
async def test_bytes_of_a_value_are_kept(client: Client, upstream: Upstream, value: bytes) -> None:
    response = await client.ask("GET", "/api/x", b"X-V: " + value, b"X-W: 1")

    assert response.status in {200, 400}
    assert [call.values(b"x-v") for call in upstream.calls] == ([[value]] if response.status == 200 else [])


async def test_underscores_stay_underscores(client: Client, upstream: Upstream) -> None:
    call = await sent(client, upstream, b"X_A: 1", b"X-B: 2")

    assert call.values(b"x-a") == []
    assert call.values(b"x_a") in ([], [b"1"])


@pytest.mark.parametrize(
    "name", [b"X-Forwarded-For", b"X-Forwarded-Host", b"X-Forwarded-Proto", b"Forwarded", b"X-Real-IP"]
)
async def test_claims_about_the_caller_are_dropped(client: Client, upstream: Upstream, name: bytes) -> None:
    call = await sent(client, upstream, name + b": 10.1.2.3")

    assert call.values(name) == []


async def test_the_callers_via_comes_first(client: Client, upstream: Upstream) -> None:
    call = await sent(client, upstream, b"Via: 1.0 fred, 1.1 p.example")

    assert b", ".join(call.values(b"via")) == b"1.0 fred, 1.1 p.example, 1.1 krebit-proxy"


@pytest.mark.parametrize("method", ["OPTIONS", "TRACE"])
async def test_max_forwards_of_zero_ends_here(client: Client, upstream: Upstream, method: str) -> None:
    response = await client.ask(method, "/api/x", b"Max-Forwards: 0")

    assert response.status < 500
    assert not upstream.calls


async def test_max_forwards_counts_down(client: Client, upstream: Upstream) -> None:
    call = await sent(client, upstream, b"Max-Forwards: 7", method="OPTIONS")

    assert call.values(b"max-forwards") == [b"6"]


async def test_a_hundred_fields_of_200_bytes_arrive(start_proxy: StartProxy, upstream: Upstream) -> None:
    client = await (await start_proxy(limits={"header_bytes": "32KiB"})).connect()
    lines = [b"X-%d: " % number + b"v" * 200 for number in range(100)]
    call = await sent(client, upstream, *lines)

    assert [b"%s: %s" % field for field in call.head.fields if field[0].startswith(b"X-")] == lines
