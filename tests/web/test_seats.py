"""Who may not call, or takes no answers, keeps nobody out; and nobody stays for ever."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from time import monotonic

import pytest

from tests.fakes.client import Client
from tests.fakes.door import ask, own_address
from tests.fakes.proxy import RunningProxy, StartProxy
from tests.fakes.upstream import Upstream, answer
from tests.fakes.waiting import eventually

TRICKLED = b"Content-Length: 60000"


async def refused_call(client: Client) -> None:
    await client.send(client.request("POST", "/api/x", TRICKLED) + b"a")


async def form_with_content(client: Client) -> None:
    await client.send(client.request("POST", "/setup/paste", TRICKLED, b"Expect: 100-continue"))


async def unread(client: Client, request: bytes) -> None:
    """Asks many times, and takes no answer."""
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(0.3):
            await client.pump(request * 100, 100)


async def trickle(client: Client, request: bytes, piece: bytes = b"a") -> None:
    """Sends a request, and then a piece of its content now and then, as long as the test lasts."""
    await client.send(request)

    async def go_on() -> None:
        with suppress(OSError):
            while True:
                await asyncio.sleep(0.1)
                await client.send(piece)

    client.trickling = asyncio.ensure_future(go_on())  # type: ignore[attr-defined]


CHUNKED = b"Transfer-Encoding: chunked"
FOREIGN = b"Origin: https://evil.example"
WEBSOCKET = [b"Connection: Upgrade", b"Upgrade: websocket"]

# How somebody who may not call can take up a connection. Each gets a connection of its own, and the bytes to send.
HOSTILE: dict[str, Callable[[Client], Awaitable[None]]] = {
    "silent": lambda c: c.send(b""),
    "one letter": lambda c: c.send(b"G"),
    "an empty line": lambda c: c.send(b"\r\n"),
    "half a head": lambda c: c.send(b"GET / HTTP/1.1\r\nHost"),
    "a long half of a head": lambda c: c.send(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 15_000),
    "a head by trickle": lambda c: trickle(c, b"GET / HTTP/1.1\r\nX: "),
    "a half-closed connection": lambda c: asyncio.to_thread(c.half_close),
    "idle after a page": lambda c: _after(c, c.request("GET", "/healthz")),
    "idle after a refusal": lambda c: _after(c, c.request("GET", "/api/x")),
    "refused, content by trickle": lambda c: trickle(c, c.request("POST", "/api/x", TRICKLED)),
    "refused, chunks of one byte": lambda c: trickle(c, c.request("POST", "/api/x", CHUNKED), b"1\r\na\r\n"),
    "refused, an endless chunk extension": lambda c: trickle(c, c.request("POST", "/api/x", CHUNKED) + b"1;"),
    "refused, trailers without end": lambda c: trickle(c, c.request("POST", "/api/x", CHUNKED) + b"0\r\n", b"A: b\r\n"),
    "refused, content is never sent": lambda c: c.send(c.request("POST", "/api/x", TRICKLED)),
    "refused, waits for 100": lambda c: c.send(c.request("PUT", "/api/x", TRICKLED, b"Expect: 100-continue")),
    "refused, pipelined and unread": lambda c: unread(c, c.request("GET", "/api/x")),
    "refused, with a request behind": lambda c: trickle(
        c, c.request("GET", "/api/x") + c.request("POST", "/api/x", TRICKLED)
    ),
    "refused upgrade": lambda c: c.send(c.request("GET", "/api/x", *WEBSOCKET) + bytes(1000)),
    "wrong key": lambda c: trickle(c, c.request("POST", "/api/x", b"X-Api-Key: guess", TRICKLED)),
    "wrong Host": lambda c: trickle(c, b"POST /api/x HTTP/1.1\r\nHost: evil.example\r\n%b\r\n\r\n" % TRICKLED),
    "cross-site": lambda c: trickle(c, c.request("POST", "/api/x", FOREIGN, TRICKLED)),
    "preflight with content": lambda c: trickle(
        c, c.request("OPTIONS", "/api/x", FOREIGN, b"Access-Control-Request-Method: POST", TRICKLED)
    ),
    "OPTIONS with content": lambda c: trickle(c, c.request("OPTIONS", "*", TRICKLED)),
    "CONNECT": lambda c: trickle(c, b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n"),
    "TRACE": lambda c: trickle(c, c.request("TRACE", "/api/x", TRICKLED)),
    "absolute junk": lambda c: trickle(c, b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n" % TRICKLED),
    "HTTP/2": lambda c: trickle(c, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "TLS": lambda c: trickle(c, b"\x16\x03\x01\x02\x00\x01"),
    "garbage": lambda c: trickle(c, bytes(100)),
    "a page with content": lambda c: trickle(c, c.request("GET", "/healthz", TRICKLED)),
    "a page with chunks": lambda c: trickle(c, c.request("GET", "/readyz", CHUNKED), b"1\r\na\r\n"),
    "POST to a page": lambda c: trickle(c, c.request("POST", "/healthz", TRICKLED)),
    "POST to a page with GET": lambda c: trickle(c, c.request("POST", "/setup", TRICKLED)),
    "no such page": lambda c: trickle(c, c.request("POST", "/nowhere", TRICKLED)),
    "pages, pipelined and unread": lambda c: unread(c, c.request("GET", "/", b"Accept: text/html")),
    "metrics, pipelined and unread": lambda c: unread(c, c.request("GET", "/metrics")),
    "a form by trickle": lambda c: trickle(c, c.request("POST", "/setup/paste", TRICKLED)),
    "a form in chunks": lambda c: trickle(c, c.request("POST", "/setup/paste", CHUNKED), b"1\r\na\r\n"),
    "a form that waits for 100": form_with_content,
    "a form that is too long": lambda c: trickle(c, c.request("POST", "/setup/paste", b"Content-Length: 9999999")),
}


async def _after(client: Client, request: bytes) -> None:
    await client.send(request)
    await client.response()


async def keyed(start: StartProxy, folder: Path, **limits: float) -> RunningProxy:
    """A proxy with four seats for everybody, and a key."""
    keys = folder / "keys"
    keys.write_text("billing:0123456789abcdef\n")
    keys.chmod(0o600)
    access = {"client_keys_file": keys, "expose": True}
    return await start(listen=("0.0.0.0:0", "[::]:0"), limits={"connections": 4, **limits}, access=access)


@pytest.mark.parametrize("kind", HOSTILE)
async def test_who_may_not_call_keeps_nobody_out(start: StartProxy, tmp_path: Path, kind: str) -> None:
    """Neither from loopback nor from beyond it, by whichever protocol; and a probe is answered, too.

    The promise is two seconds for a call, and one for a probe. The limit here is wider, for slow machines. Without room
    for them, they would wait for the 30 seconds of a head, the 60 of a body or the 300 of an idle connection.
    """
    proxy = await keyed(start, tmp_path)
    ports = [int(url.rpartition(":")[2]) for url in proxy.proxy.urls]
    places = [("127.0.0.1", ports[0]), (own_address(), ports[0]), ("::1", ports[1])]
    with suppress(pytest.skip.Exception):
        places.append((own_address(socket.AF_INET6), ports[1]))
    hostile = [await Client.connect(port, host=host, receive_buffer=4096) for host, port in places for _ in range(4)]
    try:
        # Who had to make room for the others may be gone already.
        await asyncio.gather(*[HOSTILE[kind](client) for client in hostile], return_exceptions=True)
        async with asyncio.timeout(10):
            for host, port in places:
                for target in ["/api/x", "/healthz"]:
                    caller = await Client.connect(port, host=host)
                    got = await caller.ask("GET", target, b"X-Api-Key: 0123456789abcdef")
                    caller.close()
                    assert got.status == 200, (host, target, got.code)
    finally:
        for client in hostile:
            if hasattr(client, "trickling"):
                client.trickling.cancel()
            client.close()


async def test_a_reader_that_takes_nothing_makes_room_after_a_second(start: StartProxy, upstream: Upstream) -> None:
    upstream.script = [answer(content=bytes(32 << 20))] * 2 + [answer()] * 10
    proxy = await start(limits={"connections": 2})
    slow = [await proxy.connect(receive_buffer=4096) for _ in range(2)]
    for client in slow:
        await client.send(client.request("GET", "/api/x"))
        await client.head()

    for _ in range(50):  # what makes it slow is that it takes nothing for a second
        if (await ask(proxy, "GET", "/api/x")).status == 200:
            break
        await asyncio.sleep(0.1)
    await eventually(lambda: proxy.events("request.done"))
    assert "overloaded" in [event.get("code") for event in proxy.events("request.done")]


async def test_refused_connections_make_room_before_idle_ones(start: StartProxy, tmp_path: Path) -> None:
    proxy = await keyed(start, tmp_path, connections=2)
    idle, refused = await proxy.connect(), await proxy.connect()
    await idle.ask("GET", "/healthz")
    await refused.send(refused.request("POST", "/api/x", TRICKLED) + b"a")
    assert (await refused.response()).status == 401

    assert (await ask(proxy, "GET", "/healthz")).status == 200
    assert (await refused.rest()).got == b""
    await idle.still_open()


async def test_a_page_that_made_room_says_that_its_content_was_late(start: StartProxy) -> None:
    proxy = await start(limits={"connections": 1})
    slow = await proxy.connect()
    await form_with_content(slow)
    assert (await slow.head()).status == 100

    assert (await ask(proxy, "GET", "/healthz")).status == 200
    assert (await slow.response()).code == "request_timeout"


async def test_after_a_refusal_a_caller_that_trickles_has_two_seconds(start: StartProxy, tmp_path: Path) -> None:
    proxy = await keyed(start, tmp_path)
    client = await proxy.connect()
    await refused_call(client)
    assert (await client.response()).status == 401
    began = monotonic()

    async def trickle() -> None:
        with suppress(OSError):
            while True:
                await client.send(b"a")
                await asyncio.sleep(0.1)

    trickling = asyncio.ensure_future(trickle())
    assert (await client.rest()).got == b""
    trickling.cancel()
    # Two seconds to send the rest of it, two to see the answer, and the looks of the clock.
    assert monotonic() - began < 8


async def test_a_caller_that_sends_quickly_may_finish_before_it_reads_the_refusal(
    start: StartProxy, tmp_path: Path
) -> None:
    """As urllib, http.client and .NET do: they read when everything is sent."""
    proxy = await keyed(start, tmp_path)
    client = await proxy.connect()
    size = 12 << 20
    await client.send(client.request("POST", "/api/x", b"Content-Length: %d" % size))
    for _ in range(48):  # four megabytes a second, for longer than two seconds
        await client.send(bytes(size // 48))
        await asyncio.sleep(0.06)

    got = await client.response()
    assert (got.status, got.closes) == (401, True)


async def test_content_for_a_page_has_its_time_in_all_and_not_for_each_byte(start: StartProxy) -> None:
    proxy = await start(limits={"body_timeout": 0.5})
    client = await proxy.connect()
    await client.send(client.request("POST", "/setup/paste", TRICKLED))

    async def trickle() -> None:
        with suppress(OSError):
            while True:
                await client.send(b"a")
                await asyncio.sleep(0.05)

    trickling = asyncio.ensure_future(trickle())
    assert (await client.response()).code == "request_timeout"
    trickling.cancel()
