"""One POST on a connection of its own: what is sent, what comes of each way to answer, and of each way not to."""

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from krebit_proxy import USER_AGENT
from krebit_proxy.core.http_answer import LONGEST_ANSWER, HttpAnswer
from krebit_proxy.dial import tunnel_refusal
from krebit_proxy.post import NotReached, post
from tests.fakes.certificates import Authority

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
Play = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """Reads one request of each connection, answers, and ends as told."""

    def __init__(self, answer: bytes = OK, *, end: str = "close") -> None:
        self.requests: list[bytes] = []
        self.names: list[str | None] = []
        self._answer, self._end = answer, end

    async def play(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        self.requests.append(head + await reader.readexactly(length))
        writer.write(self._answer)
        if self._end == "hold":
            await reader.read()
        elif self._end == "reset":
            await writer.drain()
            connection: socket.socket = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@asynccontextmanager
async def listening(play: Play, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Plays with each connection; at the end waits until all have ended."""
    playing: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        current = asyncio.current_task()
        assert current is not None
        playing.add(current)
        try:
            with contextlib.suppress(ConnectionError):
                await play(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            playing.discard(current)

    async with await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls) as listener:
        yield listener.sockets[0].getsockname()[1]
        if playing:
            await asyncio.wait(playing, timeout=10)


async def send(url: str, **options: Any) -> HttpAnswer:
    form = options.pop("form", {"token": "å&b"})
    given = {"tls": None, "proxy": None, "connect_timeout": 10, "total_timeout": 20} | options
    return await post(url, form, {"Accept": "application/json"}, **given)


async def reason(url: str, **options: Any) -> str:
    with pytest.raises(NotReached) as failure:
        await send(url, **options)
    return str(failure.value)


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def trusting(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=authority.ca_file)


# What is sent


async def test_a_form_goes_out_once_under_our_name() -> None:
    server = Server()
    async with listening(server.play) as port:
        assert (await send(f"http://127.0.0.1:{port}/å b/%41?x=é&y=%20")).content == b"hello"

    [request] = server.requests
    head, _, content = request.partition(b"\r\n\r\n")
    assert head.split(b"\r\n") == [
        b"POST /%C3%A5%20b/%41?x=%C3%A9&y=%20 HTTP/1.1",
        b"Host: 127.0.0.1:%d" % port,
        f"User-Agent: {USER_AGENT}".encode(),
        b"Accept-Encoding: identity",
        b"Connection: close",
        b"Content-Type: application/x-www-form-urlencoded",
        b"Content-Length: 16",
        b"Accept: application/json",
    ]
    assert content == b"token=%C3%A5%26b"


async def test_what_no_form_can_hold_is_not_sent() -> None:
    assert (
        await reason("http://127.0.0.1:1/", form={"token": "\ud800"})
        == "the request contains characters that cannot be sent"
    )


# What comes of an answer


@pytest.mark.parametrize("end", ["close", "hold", "reset"])
async def test_a_complete_answer_is_taken_however_the_connection_ends(end: str) -> None:
    async with listening(Server(end=end).play) as port:
        answer = await send(f"http://127.0.0.1:{port}")

    assert (answer.status, answer.content, answer.broken) == (200, b"hello", "")


@pytest.mark.parametrize(
    ("head", "end", "broken"),
    [
        (b"Content-Length: 9", "close", "the connection was closed before its end"),
        (b"Content-Length: 9", "reset", "the connection broke off"),
        (b"Content-Length: 9", "hold", "no answer in time"),
        (b"Transfer-Encoding: chunked", "close", "the connection was closed before its end"),
        (b"X: without a length", "reset", "the connection broke off"),
        (b"X: without a length", "hold", "no answer in time"),
        (b"X: without a length", "close", ""),
        (b"Content-Length: 4\r\nContent-Length: 7\r\nno colon\r\nNul: \0\r\n folded", "close", ""),
    ],
)
async def test_of_a_broken_answer_all_that_came_is_taken(head: bytes, end: str, broken: str) -> None:
    async with listening(Server(b"HTTP/1.1 200 OK\r\n%s\r\n\r\nhello" % head, end=end).play) as port:
        answer = await send(f"http://127.0.0.1:{port}", total_timeout=0.5 if end == "hold" else 20)

    assert (answer.status, answer.content, answer.broken) == (200, b"hello", broken)


async def test_no_answer_is_one_without_a_status() -> None:
    async with listening(Server(b"").play) as port:
        assert await send(f"http://127.0.0.1:{port}") == HttpAnswer(0, broken="the connection was closed")


async def test_a_large_head_and_an_endless_content_are_read_so_far() -> None:
    head = b"".join(b"X-%d: %s\r\n" % (number, b"x" * 500) for number in range(500))
    server = Server(b"HTTP/1.1 200 OK\r\n%s\r\nhello%s" % (head, b"x" * LONGEST_ANSWER), end="hold")
    async with listening(server.play) as port:
        answer = await send(f"http://127.0.0.1:{port}")

    assert answer.content.startswith(b"hello")
    assert answer.broken == "it is longer than 256 KiB"


# What comes of none


async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")


async def test_what_cannot_be_reached_is_told_from_what_does_not_answer(tmp_path: Path) -> None:
    assert await reason(f"http://127.0.0.1:{closed_port()}") == "no connection"
    assert await reason("http://nowhere.invalid") == "its host name has no address"
    authority = Authority(tmp_path)
    async with listening(Server().play, authority.server("other.example")) as port:
        untrusted = await reason(f"https://localhost:{port}", tls=trusting(authority))
    async with listening(plain) as port:
        unencrypted = await reason(f"https://localhost:{port}", tls=trusting(authority))

    assert (untrusted, unencrypted) == ("its certificate is not trusted", "no TLS connection")


async def test_a_handshake_that_never_ends_is_no_connection(tmp_path: Path) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with listening(silent) as port:
        tls = ssl.create_default_context()
        assert await reason(f"https://localhost:{port}", tls=tls, connect_timeout=0.5) == "no connection in time"


# Through a forward proxy


class ForwardProxy:
    """Tunnels by CONNECT, or answers as told."""

    def __init__(self, answer: bytes = b"HTTP/1.1 200 Connection established\r\nContent-Length: 0\r\n\r\n") -> None:
        self.requests: list[bytes] = []
        self._answer = answer

    async def play(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(self._answer)
        if b" 200 " in self._answer:
            port = int(self.requests[0].split(b" ")[1].rsplit(b":", 1)[1])
            there, back = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(self._pump(reader, back), self._pump(there, writer))

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await source.read(1 << 16):
                sink.write(data)
        sink.close()
        with contextlib.suppress(OSError):
            await sink.wait_closed()


async def through(tmp_path: Path, proxy: ForwardProxy, user: str = "me:s%40cret@") -> HttpAnswer:
    authority = Authority(tmp_path)
    async with listening(Server().play, authority.server("localhost")) as port, listening(proxy.play) as front:
        return await send(f"https://localhost:{port}", tls=trusting(authority), proxy=f"http://{user}127.0.0.1:{front}")


@pytest.mark.parametrize(
    ("user", "login"), [("me:s%40cret@", ["Proxy-Authorization: Basic bWU6c0BjcmV0"]), ("", [])], ids=["login", "open"]
)
async def test_https_goes_through_a_tunnel(tmp_path: Path, user: str, login: list[str]) -> None:
    proxy = ForwardProxy()

    assert (await through(tmp_path, proxy, user)).content == b"hello"
    [head] = proxy.requests
    line, host, *fields = head.decode().split("\r\n")
    assert (line.split(" ")[0], host.split(" ")[1]) == ("CONNECT", line.split(" ")[1])
    assert fields == [f"User-Agent: {USER_AGENT}", *login, "", ""]


async def test_every_event_loop_does(tmp_path: Path) -> None:
    def run() -> bytes:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(through(tmp_path, ForwardProxy())).content

    assert await asyncio.to_thread(run) == b"hello"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", "the forward proxy refused the tunnel (status 403)"),
        (b"HTTP/1.1 407 X\r\nProxy-Authenticate: Basic realm=x\r\n\r\n",
         "the forward proxy requires a login (status 407); write it into upstream.proxy: http://USER:PASSWORD@HOST"),
        (b"HTTP/1.1 407 X\r\nProxy-Authenticate: Negotiate\r\nProxy-Authenticate: NTLM\r\n\r\n",
         tunnel_refusal(407, "Negotiate, NTLM")),
        (b"garbage\r\n\r\n", "the forward proxy refused the tunnel"),
        (b"", "the forward proxy refused the tunnel"),
    ],
)  # fmt: skip
async def test_a_proxy_that_refuses_is_named(tmp_path: Path, answer: bytes, why: str) -> None:
    with pytest.raises(NotReached) as failure:
        await through(tmp_path, ForwardProxy(answer))

    assert str(failure.value) == why


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:1", "http://nowhere.invalid:3128", "http://me@[::1]:1"])
async def test_a_proxy_that_cannot_be_reached_is_named(proxy: str) -> None:
    assert await reason("https://[2001:db8::1]/", proxy=proxy) == "no connection to the forward proxy"
