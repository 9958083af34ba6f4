"""Servers that play a script on each connection, and requests to them."""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from krebit_proxy.config import Settings
from krebit_proxy.upstream import Exchange, Upstream


@dataclass
class Peer:
    """The server's end of one connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def head(self) -> bytes:
        """The next request's head."""
        return await self.reader.readuntil(b"\r\n\r\n")

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self, content: bytes = b"", fields: bytes = b"") -> None:
        self.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%b\r\n%b" % (len(content), fields, content))
        await self.writer.drain()

    def reset(self) -> None:
        """RST, and no close_notify."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def cut(self) -> None:
        """FIN, and no close_notify."""
        self.writer.transport.abort()

    async def gone(self) -> bytes:
        """Waits until the other side ends the connection; what it sent before."""
        try:
            return await self.reader.read()
        except ConnectionError:
            return b""


Script = Callable[[Peer], Awaitable[object]]


@dataclass
class Server:
    """Plays its script on each connection; the script's end closes it in an orderly way."""

    script: Script
    tls: bool
    port: int = 0
    listener: asyncio.Server = field(init=False)
    peers: list[Peer] = field(default_factory=list)
    finished: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    failures: list[BaseException] = field(default_factory=list)

    async def play(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        self.peers.append(peer)
        try:
            await self.script(peer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        except BaseException as failure:
            self.failures.append(failure)
            raise
        finally:
            self.finished.release()
            writer.close()


def settings_for(url: str, **upstream: Any) -> Settings:
    return Settings.model_validate(
        {
            "organization": "acme",
            "client_id": "id",
            "client_secret": "secret",
            "upstream": {"url": url, **upstream},
        }
    )


GET = b"GET /api/x HTTP/1.1\r\nHost: localhost\r\n\r\n"


def request(method: str, content: int | None = 0) -> dict[str, Any]:
    """Arguments for `Upstream.open`."""
    framing = (
        b"" if content == 0 else b"Content-Length: %d\r\n" % content if content else b"Transfer-Encoding: chunked\r\n"
    )
    head = b"%b /api/x HTTP/1.1\r\nHost: localhost\r\n%b\r\n" % (method.encode(), framing)
    return {"head": head, "method": method, "content": content}


async def content_of(exchange: Exchange) -> bytes:
    """All content, read to its complete end."""
    content = b""
    while chunk := exchange.read_nowait() or await exchange.read():
        content += chunk
    return content


async def get(upstream: Upstream) -> bytes:
    """One GET from beginning to end."""
    exchange = await upstream.open(GET, method="GET")
    try:
        await exchange.response()
        return await content_of(exchange)
    finally:
        exchange.release()
