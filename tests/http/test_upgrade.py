"""A tunnel where both sides want one, and a clean connection everywhere else."""

import asyncio

import pytest

from krebit_proxy.tasks import spawn
from tests.fakes.client import Client
from tests.fakes.proxy import StartProxy
from tests.fakes.upstream import Call, Upstream, answer, raw
from tests.fakes.waiting import DEADLINE
from tests.http.responses import assert_ours, relayed


async def test_an_upgrade_that_nobody_asked_for_is_refused(client: Client, upstream: Upstream) -> None:
    switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: evil\r\n\r\n"
    got = await relayed(client, upstream, switch)

    assert_ours(got, 502, "upstream_invalid")
    assert (await client.ask("GET", "/api/y")).content == b"ok"
    assert len(upstream.connections) == 2


WEBSOCKET = (b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: AAAA")


async def test_an_upgrade_that_is_granted_is_a_tunnel(client: Client, upstream: Upstream) -> None:
    async def tunnel(call: Call) -> None:
        assert call.values(b"upgrade") == [b"websocket"]
        assert [value.lower() for value in call.values(b"connection")] == [b"upgrade"]
        await call.send(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Accept: BBBB\r\n\r\n\x81\x02hi"
        )
        while True:
            await call.send(await call.connection.some(1 << 16))

    upstream.script = [tunnel]
    await client.send(client.request("GET", "/api/x", *WEBSOCKET))
    head = await client.head()

    assert (head.status, head.values(b"upgrade")) == (101, [b"websocket"])
    assert [value.lower() for value in head.values(b"connection")] == [b"upgrade"]
    assert head.values(b"sec-websocket-accept") == [b"BBBB"]
    assert await client.exactly(4) == b"\x81\x02hi"
    for piece in (b"\x00\xff\r\n\r\nGET /", b"x" * 300_000):
        pump = spawn(client.pump(piece, 1), name="tunnel")
        assert await client.exactly(len(piece)) == piece
        await pump
    client.close()
    await asyncio.wait_for(upstream.calls[0].connection.ended.wait(), DEADLINE)


async def test_a_tunnel_ends_with_the_upstream(client: Client, upstream: Upstream) -> None:
    upstream.script = [
        raw(b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", b"last", close=True)
    ]
    await client.send(client.request("GET", "/api/x", *WEBSOCKET))

    assert (await client.head()).status == 101
    assert await client.exactly(4) == b"last"
    await client.closed()


async def test_bytes_sent_with_the_request_reach_the_tunnel(client: Client, upstream: Upstream) -> None:
    early = asyncio.Queue[bytes]()

    async def tunnel(call: Call) -> None:
        await call.send(b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        early.put_nowait(await call.connection.some(100))
        await call.gone()

    upstream.script = [tunnel]
    await client.send(client.request("GET", "/api/x", *WEBSOCKET) + b"early")

    assert (await client.head()).status == 101
    assert await asyncio.wait_for(early.get(), DEADLINE) == b"early"
    client.close()


@pytest.mark.parametrize("status", [200, 403, 426])
async def test_an_upgrade_that_is_not_granted_leaves_a_clean_connection(
    client: Client, upstream: Upstream, status: int
) -> None:
    upstream.script = [answer(status, content=b"plain")]
    got = await client.ask("GET", "/api/x", *WEBSOCKET)

    assert (got.status, got.content) == (status, b"plain")
    assert (await client.ask("GET", "/api/y")).content == b"ok"


async def test_the_offer_of_h2c_is_left_aside(client: Client, upstream: Upstream) -> None:
    offer = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA")
    got = await client.ask("GET", "/api/x", *offer)
    following = await client.ask("POST", "/api/y", content=b"hello")

    assert (got.status, got.content, following.status) == (200, b"ok", 200)
    assert upstream.calls[0].values(b"http2-settings") == []
    assert b"h2c" not in b",".join(upstream.calls[0].values(b"upgrade")).lower()
    assert bytes(upstream.calls[1].content) == b"hello"


async def test_the_next_request_in_the_packet_of_the_offer_is_answered_too(client: Client, upstream: Upstream) -> None:
    offer = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA")
    await client.send(client.request("GET", "/api/x", *offer) + client.request("GET", "/api/y"))
    first, second = await client.response(), await client.response()

    assert (first.content, second.content) == (b"ok", b"ok")
    assert [call.target for call in upstream.calls] == [b"/api/x", b"/api/y"]


@pytest.mark.parametrize(
    ("access", "method", "offer"),
    [
        ({}, "GET", b"TLS/1.0"),
        ({}, "GET", b"HTTP/2.0, h2c;q=1"),
        ({}, "POST", b"websocket"),
        ({"read_only": True}, "GET", b"websocket"),
        ({"allow": [{"methods": ["GET"], "paths": ["/api/**"]}]}, "GET", b"websocket"),
    ],
)
async def test_an_offer_that_is_not_for_us_to_pass_on_is_dropped(
    start_proxy: StartProxy, upstream: Upstream, access: dict[str, object], method: str, offer: bytes
) -> None:
    client = await (await start_proxy(access=access)).connect()
    handshake = (b"Connection: Upgrade", b"Upgrade: " + offer, *WEBSOCKET[2:])
    got = await client.ask(method, "/api/x", *handshake)

    assert (got.status, got.content) == (200, b"ok")
    assert upstream.calls[0].values(b"upgrade") == upstream.calls[0].values(b"connection") == []
    assert (await client.ask("GET", "/api/y")).content == b"ok"


async def test_of_a_list_only_websocket_goes_on(client: Client, upstream: Upstream) -> None:
    await client.ask("GET", "/api/x", b"Connection: Upgrade", b"Upgrade: TLS/1.0, WebSocket", *WEBSOCKET[2:])

    assert upstream.calls[0].values(b"upgrade") == [b"websocket"]


async def test_the_upstream_may_switch_to_nothing_else(client: Client, upstream: Upstream) -> None:
    upstream.script = [raw(b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: TLS/1.0\r\n\r\n")]
    assert_ours(await client.ask("GET", "/api/x", *WEBSOCKET), 502, "upstream_invalid")
