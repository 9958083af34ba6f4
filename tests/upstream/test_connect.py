"""The way to the upstream: names, TLS, a private CA, a forward proxy, every event loop."""

import asyncio
import base64
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvloop

from krebit_proxy.errors import Refused, SettingsError
from krebit_proxy.upstream import Exchange, Upstream, UpstreamBroken
from krebit_proxy.upstream.link import SocketLink
from krebit_proxy.upstream.transport import TransportLink
from tests.fakes.certificates import Authority
from tests.fakes.waiting import DEADLINE
from tests.upstream.conftest import Open, Serve
from tests.upstream.scripted import GET, Peer, Server, content_of, get, request, settings_for

both = pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])


async def hello(peer: Peer) -> None:
    while await peer.head():
        await peer.answer(b"hello")


async def refusal(pool: Upstream) -> Refused:
    with pytest.raises(Refused) as refused:
        await pool.open(GET, method="GET")
    return refused.value


# What may go wrong


async def test_nobody_listens(serve: Serve, upstream: Open) -> None:
    server = await serve(hello)
    server.listener.close()
    refused = await refusal(upstream(server, connect_timeout=1))
    assert (refused.code, refused.status) == ("upstream_unreachable", 502)
    assert refused.detail == f"localhost refuses connections on port {server.port}. The proxy tried for 1 seconds."


async def test_a_name_that_does_not_exist() -> None:
    pool = Upstream(settings_for("https://nowhere.invalid", connect_timeout=3))  # without DNS, it might only be away
    assert "DNS cannot resolve nowhere.invalid" in (await refusal(pool)).detail


async def test_a_certificate_of_an_unknown_authority(serve: Serve, upstream: Open) -> None:
    pool = upstream(await serve(hello, tls=True), ca_file=None)
    assert "certificate of localhost is not trusted" in (await refusal(pool)).detail


@pytest.mark.parametrize(("name", "expired"), [("other.example", False), ("localhost", True)], ids=["name", "expired"])
async def test_a_certificate_that_does_not_hold(authority: Authority, name: str, expired: bool) -> None:
    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    context = authority.server(name, expired=expired)
    async with await asyncio.start_server(play, "127.0.0.1", 0, ssl=context) as listener:
        url = f"https://localhost:{listener.sockets[0].getsockname()[1]}"
        pool = Upstream(settings_for(url, ca_file=authority.ca_file))
        assert "certificate of localhost is not trusted" in (await refusal(pool)).detail


async def test_a_server_that_does_not_speak_tls(serve: Serve, authority: Authority) -> None:
    async def script(peer: Peer) -> None:
        peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await peer.gone()

    server = await serve(script)
    pool = Upstream(settings_for(f"https://localhost:{server.port}", ca_file=authority.ca_file))
    assert "TLS with localhost failed" in (await refusal(pool)).detail


async def test_a_server_that_never_shakes_hands(serve: Serve, authority: Authority) -> None:
    server = await serve(Peer.gone)
    url = f"https://localhost:{server.port}"
    pool = Upstream(settings_for(url, ca_file=authority.ca_file, connect_timeout=1))
    assert "within 1 second" in (await refusal(pool)).detail
    await asyncio.wait_for(server.finished.acquire(), DEADLINE)


def test_a_ca_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"upstream\.ca_file"):
        Upstream(settings_for("https://acme.krebit.se", ca_file=tmp_path / "ca.pem"))


# What makes it quick


async def test_the_next_handshake_resumes_the_session(serve: Serve, upstream: Open) -> None:
    resumed: list[bool] = []

    async def script(peer: Peer) -> None:
        resumed.append(peer.writer.get_extra_info("ssl_object").session_reused)
        assert peer.writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
        await peer.head()
        await peer.answer(b"one")
        await peer.gone()

    pool = upstream(await serve(script, tls=True))
    await get(pool)
    first = await pool.open(GET, method="GET")
    second = await pool.open(GET, method="GET")
    await second.response()
    for exchange in (first, second):
        exchange.abort()
    assert resumed == [False, True]


async def test_a_name_is_resolved_once(serve: Serve, upstream: Open) -> None:
    asked: list[str] = []
    loop = asyncio.get_running_loop()
    resolve = loop.getaddrinfo

    async def counted(host: str, port: int, **options: int) -> object:
        asked.append(host)
        return await resolve(host, port, **options)

    loop.getaddrinfo = counted  # type: ignore[method-assign, assignment]  # counts, and resolves all the same
    pool = upstream(await serve(hello))
    exchanges = [await pool.open(GET, method="GET") for _ in range(3)]
    for exchange in exchanges:
        exchange.abort()
    assert asked == ["localhost"]


async def test_every_family_of_a_name_is_tried(serve: Serve, authority: Authority) -> None:
    """The IPv6 address comes first, and nobody listens there."""
    server = await serve(hello)
    pool = Upstream(settings_for(f"http://localhost:{server.port}"))
    ipv6 = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", server.port, 0, 0))
    ipv4 = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", server.port))
    pool._connector._names["localhost", server.port] = (float("inf"), [ipv6, ipv4])
    assert await get(pool) == b"hello"
    await pool.close()


# TLS in pieces


@asynccontextmanager
async def in_pieces(port: int, size: int) -> AsyncIterator[int]:
    """A relay that passes everything on in small pieces; its port."""

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await source.read(4096):
                for start in range(0, len(data), size):
                    sink.write(data[start : start + size])
                    await asyncio.sleep(0)
        sink.close()

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        there, back = await asyncio.open_connection("127.0.0.1", port)
        back.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(pump(reader, back))
            tasks.create_task(pump(there, writer))

    async with await asyncio.start_server(play, "127.0.0.1", 0) as listener:
        yield listener.sockets[0].getsockname()[1]


@pytest.mark.parametrize("size", [1, 7, 1400])
async def test_tls_that_arrives_in_pieces(serve: Serve, authority: Authority, size: int) -> None:
    content = bytes(range(256)) * (8 if size == 1 else 400)

    async def script(peer: Peer) -> None:
        while head := await peer.head():
            if b"POST" in head:
                assert await peer.reader.readexactly(len(content)) == content
            await peer.answer(content)

    server = await serve(script, tls=True)
    async with in_pieces(server.port, size) as port:
        pool = Upstream(settings_for(f"https://localhost:{port}", ca_file=authority.ca_file))
        assert await get(pool) == content
        exchange = await pool.open(**request("POST", len(content)))
        exchange.send(content)
        exchange.finish()
        await exchange.response()
        assert await content_of(exchange) == content
        exchange.release()
        await pool.close()


# A forward proxy

Tunnel = Callable[[str, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class ForwardProxy:
    """A small one that tunnels by CONNECT, for one user."""

    def __init__(self, user: str = "") -> None:
        self.targets: list[str] = []
        self._wanted = b"Basic " + base64.b64encode(user.encode()) if user else b""

    async def play(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line, *fields = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
        method, target, _ = line.decode().split(" ")
        assert method == "CONNECT"
        self.targets.append(target)
        given = [field.split(b": ", 1)[1] for field in fields if field.startswith(b"Proxy-Authorization: ")]
        if self._wanted and given != [self._wanted]:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            writer.close()
            return
        there, back = await asyncio.open_connection("127.0.0.1", int(target.rsplit(":", 1)[1]))
        writer.write(b"HTTP/1.1 200 Connection established\r\n")
        await asyncio.sleep(0)
        writer.write(b"\r\n")
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._pump(reader, back))
            tasks.create_task(self._pump(there, writer))

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await source.read(1 << 16):
                sink.write(data)
                await sink.drain()
        sink.close()


@asynccontextmanager
async def forward_proxy(proxy: ForwardProxy) -> AsyncIterator[int]:
    async with await asyncio.start_server(proxy.play, "127.0.0.1", 0) as listener:
        yield listener.sockets[0].getsockname()[1]


@pytest.mark.parametrize("user", ["", "me:s%40cret"], ids=["open", "credentials"])
async def test_https_goes_through_the_forward_proxy(serve: Serve, upstream: Open, user: str) -> None:
    server = await serve(hello, tls=True)
    proxy = ForwardProxy(user.replace("%40", "@"))
    async with forward_proxy(proxy) as port:
        pool = upstream(server, proxy=f"http://{user}{'@' if user else ''}127.0.0.1:{port}")
        for _ in range(2):
            assert await get(pool) == b"hello"
        assert proxy.targets == [f"localhost:{server.port}"]
        await pool.close()


async def test_a_forward_proxy_that_refuses_is_named_without_its_password(serve: Serve, upstream: Open) -> None:
    server = await serve(hello, tls=True)
    async with forward_proxy(ForwardProxy("me:right")) as port:
        refused = await refusal(upstream(server, proxy=f"http://me:wrong@127.0.0.1:{port}"))
    assert (
        refused.detail
        == "localhost cannot be reached: the forward proxy requires a login (status 407); write it into upstream.proxy: http://USER:PASSWORD@HOST."
    )
    assert not server.peers


@pytest.mark.parametrize("answer", [b"", b"garbage\r\n\r\n", b"x" * (17 << 10)], ids=["nothing", "garbage", "endless"])
async def test_a_forward_proxy_that_is_none(serve: Serve, upstream: Open, answer: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        peer.send(answer)

    proxy, server = await serve(script), await serve(hello, tls=True)
    refused = await refusal(upstream(server, proxy=f"http://127.0.0.1:{proxy.port}"))
    assert "the forward proxy" in refused.detail


async def test_plain_http_on_loopback_needs_no_forward_proxy(serve: Serve, upstream: Open) -> None:
    server = await serve(hello)
    assert await get(upstream(server, proxy="http://127.0.0.1:1")) == b"hello"


# Event loops


class UnwatchedLoop(asyncio.SelectorEventLoop):
    """Cannot watch sockets for others, like the loop of Windows."""

    add_reader = asyncio.AbstractEventLoop.add_reader
    add_writer = asyncio.AbstractEventLoop.add_writer


LOOPS = {"asyncio": asyncio.SelectorEventLoop, "uvloop": uvloop.new_event_loop, "unwatched": UnwatchedLoop}


async def relayed(exchange: Exchange) -> bytes:
    await exchange.response()
    return await content_of(exchange)


async def conversation(authority: Authority, *, tls: bool, link: type) -> None:
    """A bit of everything, on the running loop."""
    content = bytes(range(256)) * 4000

    async def script(peer: Peer) -> None:
        while head := await peer.head():
            if b"POST" in head:
                await peer.answer(await peer.reader.readexactly(len(content)))
            elif b"PUT" in head:
                peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
                await peer.writer.drain()
                peer.reset()
                return
            else:
                await peer.answer(b"hello")

    server = Server(script, tls)
    context = authority.server("localhost") if tls else None
    async with await asyncio.start_server(server.play, "127.0.0.1", 0, ssl=context) as listener:
        url = f"http{'s' if tls else ''}://localhost:{listener.sockets[0].getsockname()[1]}"
        pool = Upstream(settings_for(url, ca_file=authority.ca_file))
        assert await get(pool) == b"hello"
        assert type(pool._idle[0]) is link
        exchange = await pool.open(**request("POST", len(content)))
        for start in range(0, len(content), 1 << 16):
            exchange.send(content[start : start + (1 << 16)])
            await exchange.drain()
        exchange.finish()
        await exchange.response()
        assert await content_of(exchange) == content
        exchange.release()
        broken = await pool.open(**request("PUT"))
        with pytest.raises((UpstreamBroken, Refused)):
            await relayed(broken)
        broken.release()
        assert len(server.peers) == 1
        await pool.close()


@both
@pytest.mark.parametrize("name", LOOPS)
def test_every_event_loop_will_do(authority: Authority, name: str, tls: bool) -> None:
    link = TransportLink if name == "unwatched" else SocketLink
    with asyncio.Runner(loop_factory=LOOPS[name]) as runner:  # type: ignore[arg-type]  # classes make loops, too
        runner.run(asyncio.wait_for(conversation(authority, tls=tls, link=link), 20))
