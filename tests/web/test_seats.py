"""Who may not call, or takes no answers, keeps nobody out; and nobody stays for ever."""

import asyncio
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, cast

import pytest

from krebit_proxy.core import connection as phases
from krebit_proxy.core.access import Peer, Rules
from krebit_proxy.core.connection import ConnectionPhase
from krebit_proxy.web.seats import STANDING_ROOM, Seats
from tests.fakes.client import Client
from tests.fakes.door import ask, ask_in_tls, own_address, speaking_tls
from tests.fakes.proxy import RunningProxy, StartProxy
from tests.fakes.upstream import Call, Upstream, answer
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


async def test_who_has_just_come_is_not_taken_for_an_idle_one(start: StartProxy, tmp_path: Path) -> None:
    """Among slow heads, the next newcomers would end each caller before its request arrives."""
    proxy = await keyed(start, tmp_path)
    for _ in range(4):
        await (await proxy.connect()).send(b"GET / HTTP/1.1\r\nX")
    await asyncio.sleep(1.1)  # by now they are slow
    caller = await proxy.connect()
    await (await proxy.connect()).send(b"GET / HTTP/1.1\r\nX")
    await proxy.connect()

    assert (await caller.ask("GET", "/api/x", b"X-Api-Key: 0123456789abcdef")).status == 200


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


# The reserve


async def unanswered(call: Call) -> None:
    await call.gone()


async def all_busy(proxy: RunningProxy, upstream: Upstream, seats: int = 2) -> list[Client]:
    """As many calls as there are seats. None of them makes room, for the upstream never answers."""
    upstream.default = unanswered
    busy = [await proxy.connect() for _ in range(seats)]
    for client in busy:
        await client.send(client.request("GET", "/api/x"))
    await upstream.called(seats)
    return busy


async def test_a_probe_is_answered_while_all_connections_are_busy(start: StartProxy, upstream: Upstream) -> None:
    proxy = await start(limits={"connections": 2})
    await all_busy(proxy, upstream)

    for _ in range(5):
        for target in ["/healthz", "/readyz?verbose"]:
            got = await ask(proxy, "GET", target)
            assert (got.status, got.closes) == (200, True)
    assert (await ask(proxy, "HEAD", "/healthz")).status == 200
    assert (await ask(proxy, "POST", "/healthz", content=b"x")).code == "method_not_allowed"
    assert (await ask(proxy, "OPTIONS", "/healthz")).status == 405
    for target in ["/api/x", "/", "/setup/paste", "/healthz/x", "http://localhost/", "ftp://a/"]:
        got = await ask(proxy, "GET", target)
        assert (got.code, got.closes) == ("overloaded", True)


@pytest.mark.slow
async def test_a_caller_without_a_seat_that_asks_nothing_is_refused_soon(start: StartProxy, upstream: Upstream) -> None:
    proxy = await start(limits={"connections": 2})
    await all_busy(proxy, upstream)
    for sent in [b"", b"GET /healthz HT"]:
        client = await proxy.connect()
        await client.send(sent)
        assert (await client.response()).code == "overloaded"


@pytest.mark.parametrize("request_line", [b"", b"GET /healthz HTTP/1.1\r\nX"], ids=["silent", "half a head"])
async def test_those_who_stand_do_not_keep_out_a_probe_nor_a_call(
    start: StartProxy, upstream: Upstream, request_line: bytes
) -> None:
    proxy = await start(limits={"connections": 2})
    busy = await all_busy(proxy, upstream)
    standing = [await proxy.connect() for _ in range(STANDING_ROOM)]
    for client in standing:
        with suppress(OSError):  # it has stood too long already
            await client.send(request_line)
    assert (await ask(proxy, "GET", "/healthz")).status == 200
    await standing[0].rest()

    busy[0].close()
    upstream.default = answer()
    await eventually(lambda: proxy.events("request.done"))
    for _ in range(50):  # it takes a moment until the proxy knows that the caller has left
        if (await ask(proxy, "GET", "/api/x")).status == 200:
            break
    else:
        pytest.fail("a seat is free, and nobody gets it")


async def test_a_probe_is_answered_over_tls_and_on_a_unix_socket(
    start: StartProxy, upstream: Upstream, tmp_path: Path
) -> None:
    tls, context = speaking_tls(tmp_path)
    path = tmp_path / "socket"
    proxy = await start(listen=("127.0.0.1:0", f"unix:{path}"), limits={"connections": 2}, **tls)
    upstream.default = unanswered
    busy = [asyncio.ensure_future(ask_in_tls(proxy.port, context)) for _ in range(2)]
    await upstream.called(2)

    silent = [await proxy.connect() for _ in range(20)]
    assert (await ask_in_tls(proxy.port, context, target="/healthz")).startswith(b"HTTP/1.1 200 ")
    assert (await ask_in_tls(proxy.port, context)).startswith(b"HTTP/1.1 503 ")
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
    writer.close()
    for client in silent:  # a handshake without a seat has a second
        assert (await client.rest()).got == b""
    for call in busy:
        call.cancel()
    await asyncio.wait(busy)


# The least rate


LENGTH, PIECE = b"Content-Length: 60000", b"abcde"  # 50 bytes a second


@pytest.mark.parametrize(
    ("target", "framing", "piece"),
    [
        ("/api/x", LENGTH, PIECE),
        ("/api/x", CHUNKED, b"1\r\na\r\n"),
        ("/api/x", CHUNKED, b"1;" + b"x" * 500 + b"\r\na\r\n"),  # framing is no content
        ("/setup/paste", LENGTH, PIECE),
    ],
    ids=["length", "chunks", "chunk extensions", "a form"],
)
async def test_content_below_the_least_rate_ends_the_request_however_it_is_cut(
    start: StartProxy, target: str, framing: bytes, piece: bytes
) -> None:
    """Each piece comes long before `body_timeout`, and would go on for hours. A page has `body_timeout` in all."""
    client = await (await start(limits={"body_timeout": 1})).connect()
    await trickle(client, client.request("POST", target, framing), piece)

    assert (await client.response()).code == "request_timeout"
    assert (await client.rest()).got == b""
    client.trickling.cancel()  # type: ignore[attr-defined]


async def test_who_sent_fast_at_first_may_not_be_slow_for_ever(start: StartProxy) -> None:
    client = await (await start(limits={"body_timeout": 1})).connect()
    await trickle(client, client.request("POST", "/api/x", b"Content-Length: 90000000") + bytes(4 << 20), PIECE)

    assert (await client.response()).code == "request_timeout"
    client.trickling.cancel()  # type: ignore[attr-defined]


@pytest.mark.slow
async def test_content_above_the_least_rate_may_take_its_time(start: StartProxy, upstream: Upstream) -> None:
    upstream.default = answer()
    client = await (await start(limits={"body_timeout": 0.5})).connect()
    await client.send(client.request("POST", "/api/x", b"Content-Length: 3000"))
    for _ in range(30):  # a thousand bytes a second, for six times as long as the rate is measured
        await client.send(bytes(100))
        await asyncio.sleep(0.1)

    assert (await client.response()).status == 200
    assert len(upstream.calls[0].content) == 3000


@pytest.mark.slow
async def test_a_caller_is_not_charged_for_an_upstream_that_takes_nothing(
    start: StartProxy, upstream: Upstream
) -> None:
    async def late(call: Call) -> None:
        await asyncio.sleep(3)  # for which the proxy reads nothing from the caller
        await answer()(call)

    upstream.script = [late]
    proxy = await start(limits={"body_timeout": 0.5})
    client = await proxy.connect()
    size = 16 << 20
    await client.send(client.request("POST", "/api/x", b"Content-Length: %d" % size))
    sending = asyncio.ensure_future(client.pump(bytes(1 << 20), 16))

    assert (await client.response()).status == 200
    assert len(upstream.calls[0].content) == size
    await sending


async def test_a_caller_is_not_charged_while_it_waits_for_100(start: StartProxy, upstream: Upstream) -> None:
    """The upstream sends no 100 either, and gets a second for that."""
    upstream.script = [answer()]
    client = await (await start(limits={"body_timeout": 0.3})).connect()
    await client.send(client.request("POST", "/api/x", b"Content-Length: 5", b"Expect: 100-continue"))
    assert (await client.head()).status == 100
    await client.send(b"hello")
    assert (await client.response()).status == 200


async def test_a_tunnel_has_no_least_rate(start: StartProxy, upstream: Upstream) -> None:
    async def tunnel(call: Call) -> None:
        await call.send(b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        while True:
            await call.send(await call.connection.some(1 << 16))

    upstream.script = [tunnel]
    client = await (await start(limits={"body_timeout": 0.3})).connect()
    await client.send(client.request("GET", "/api/x", *WEBSOCKET))
    assert (await client.head()).status == 101
    for _ in range(8):
        await asyncio.sleep(0.2)
        await client.send(b"a")
        assert await client.exactly(1) == b"a"


# Pages


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/healthz", 200),
        ("POST", "/healthz", 405),
        ("DELETE", "/metrics", 405),
        ("POST", "/setup", 405),
        ("GET", "/setup/done", None),
        ("PUT", "/setup/paste", 405),
        ("POST", "/nowhere", 404),
        ("OPTIONS", "*", 204),
    ],
)
@pytest.mark.parametrize("framing", [TRICKLED, CHUNKED], ids=["length", "chunked"])
async def test_a_page_that_takes_no_content_does_not_wait_for_it(
    start: StartProxy, method: str, target: str, status: int | None, framing: bytes
) -> None:
    """And whoever sends it in time may ask again, if it is short and its length is known."""
    client = await (await start()).connect()
    await client.send(client.request(method, target, framing))
    got = await client.response(method)
    assert status in {None, got.status}

    if framing == TRICKLED and not got.closes:
        await client.send(bytes(60000))
        await client.still_open()


@pytest.mark.slow  # the two seconds of a refusal, and two more to read it
async def test_content_that_nobody_needs_does_not_hold_a_connection(start: StartProxy) -> None:
    proxy = await start()

    async def held(method: str, target: str) -> None:
        client = await proxy.connect()
        await trickle(client, client.request(method, target, TRICKLED))
        await client.rest()
        client.trickling.cancel()  # type: ignore[attr-defined]

    async with asyncio.timeout(20):
        await asyncio.gather(*[held(*asked) for asked in [("GET", "/"), ("POST", "/setup"), ("OPTIONS", "*")]])


async def test_a_form_that_says_that_it_is_too_long_is_refused_before_it_comes(start: StartProxy) -> None:
    client = await (await start()).connect()
    await client.send(client.request("POST", "/setup/paste", b"Content-Length: 65537", b"Expect: 100-continue"))
    got = await client.response()
    assert (got.code, got.interim) == ("bad_request", [])


# TLS


@pytest.mark.parametrize("kind", ["handshakes not begun", "half a handshake", "silent", "half a head", "refused"])
async def test_over_tls_who_may_not_call_keeps_nobody_out(start: StartProxy, tmp_path: Path, kind: str) -> None:
    tls, context = speaking_tls(tmp_path)
    keys = tmp_path / "keys"
    keys.write_text("billing:0123456789abcdef\n")
    keys.chmod(0o600)
    proxy = await start(limits={"connections": 4}, access={"client_keys_file": keys}, **tls)
    sent = {
        "half a handshake": b"\x16\x03\x01\x02\x00\x01",
        "half a head": b"GET / HTTP/1.1\r\nHost",
        "refused": b"POST /api/x HTTP/1.1\r\nHost: localhost\r\n%b\r\n\r\na" % TRICKLED,
    }.get(kind, b"")
    writers = []
    bare = kind in {"handshakes not begun", "half a handshake"}
    for _ in range(6):
        with suppress(OSError):
            _, writer = await asyncio.open_connection(
                "localhost", proxy.port, family=socket.AF_INET, ssl=None if bare else context
            )
            writer.write(sent)
            writers.append(writer)
    async with asyncio.timeout(10):
        for target in ["/api/x", "/healthz"]:
            got = await ask_in_tls(proxy.port, context, b"X-Api-Key: 0123456789abcdef\r\n", target=target)
            assert got.startswith(b"HTTP/1.1 200 "), got
    for writer in writers:
        writer.transport.abort()


async def test_a_tls_caller_that_never_says_goodbye_does_not_hold_up_a_stop(start: StartProxy, tmp_path: Path) -> None:
    """As every pool of connections does, which reads nothing while it is idle."""
    tls, context = speaking_tls(tmp_path)
    proxy = await start(limits={"drain": 25}, **tls)

    def call_and_keep() -> ssl.SSLSocket:
        sock = context.wrap_socket(socket.create_connection(("127.0.0.1", proxy.port)), server_hostname="localhost")
        sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert sock.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
        return sock

    idle = await asyncio.to_thread(call_and_keep)
    began = monotonic()
    await proxy.proxy.stop()
    assert monotonic() - began < 15  # and not the 25 of `limits.drain`
    idle.close()


# Shares


@dataclass(eq=False)
class Sitter:
    """What seats know of a connection."""

    peer: Peer
    phase: ConnectionPhase = phases.WORKING
    since: float = 0.0
    task: None = None

    def make_room(self) -> None:
        self.phase = phases.CLOSING

    close = make_room

    def cut(self, *, silent: bool) -> None:
        self.make_room()

    def check(self, now: float) -> None:
        pass


class Hall:
    """Seats, and who sits there."""

    def __init__(self, limit: int) -> None:
        self.seats = Seats(limit, 60)
        self.sitters: list[Sitter] = []

    def come(self, address: str, times: int, phase: ConnectionPhase = phases.WORKING) -> int:
        """How many of that many new connections from one address get a seat."""
        got = 0
        for _ in range(times):
            sitter = Sitter(Rules().peer(address, "10.9.9.9"), phase)
            if self.seats.take(cast("Any", sitter)):
                got += 1
                self.sitters.append(sitter)
            else:
                self.seats.leave(cast("Any", sitter))
        return got

    def close(self) -> None:
        for sitter in self.sitters:
            self.seats.leave(cast("Any", sitter))
        self.seats._look()


@pytest.fixture
async def hall() -> AsyncIterator[Hall]:
    hall = Hall(100)
    yield hall
    hall.close()


async def test_each_further_site_gets_half_of_what_is_left(hall: Hall) -> None:
    """So who is busy at two addresses, which nobody can know to be one host, leaves a quarter to others."""
    assert [hall.come(address, 100) for address in ["10.0.0.1", "2001:db8::1", "10.0.0.2", "10.0.0.3"]] == [
        50,
        25,
        12,
        1,
    ]
    assert hall.come("127.0.0.1", 100) == 12  # an eighth is for this computer


async def test_however_many_sites_there_are_an_eighth_is_for_this_computer(hall: Hall) -> None:
    assert sum(hall.come(f"10.0.0.{number}", 1) for number in range(1, 101)) == 88
    assert hall.come("::1", 100) == 12


async def test_what_another_site_has_under_way_makes_no_room_for_a_share(hall: Hall) -> None:
    assert hall.come("10.0.0.1", 20, phases.BLOCKED) == 20
    assert hall.come("10.0.0.2", 100) == 40


async def test_what_another_site_holds_idle_makes_room_for_a_share(hall: Hall) -> None:
    assert hall.come("10.0.0.1", 100, phases.IDLE) == 100  # one after the other
    assert hall.come("10.0.0.2", 40) == 40
    sitting = Counter(sitter.peer.site for sitter in hall.sitters if sitter.phase.seated)
    assert sitting["10.0.0.2"] == 40
    assert 15 <= sitting["10.0.0.1"] <= 60


async def test_the_addresses_of_this_computer_are_one_site(hall: Hall) -> None:
    rules = Rules()
    assert rules.peer("192.0.2.2", "192.0.2.2").site == rules.peer("fd00::2", "fd00::2").site
