"""A raw client: it sends exactly the bytes that a test gives it, and reads responses by the letter.

It works on a plain socket, so that what is not read stays in the kernel, a reset differs from an end, and nothing is
retried, decoded or added.
"""

import asyncio
import socket
from dataclasses import dataclass, field
from typing import Self

from krebit_proxy.core.host import bracketed
from tests.fakes.messages import (
    Fields,
    Malformed,
    chunk_size,
    content_length,
    parse_fields,
    parse_response_head,
    values,
)
from tests.fakes.upstream import reset_on_close
from tests.fakes.waiting import DEADLINE


class Ended(Exception):
    """The connection ended before a complete response. `reset` tells a TCP reset from an orderly end."""

    def __init__(self, got: bytes, *, reset: bool) -> None:
        super().__init__(f"{'reset' if reset else 'closed'} after {got!r:.200}")
        self.got = got
        self.reset = reset


@dataclass(slots=True)
class Response:
    version: bytes
    status: int
    reason: bytes
    fields: Fields
    content: bytes = b""
    framing: str = ""  # "length", "chunked", "close" or "none"
    interim: list["Response"] = field(default_factory=list)  # the 1xx before it
    raw: bytes = b""  # the head

    def values(self, name: bytes) -> list[bytes]:
        return values(self.fields, name)

    @property
    def names(self) -> list[bytes]:
        return [name.lower() for name, _ in self.fields]

    @property
    def code(self) -> str:
        """The code of our own errors, empty for what comes from the upstream."""
        return b",".join(self.values(b"x-krebit-proxy-error")).decode()

    @property
    def closes(self) -> bool:
        return b"close" in [value.lower() for value in self.values(b"connection")]


class Client:
    """One connection to the proxy."""

    def __init__(self, sock: socket.socket, authority: bytes) -> None:
        self.sock = sock
        self.authority = authority
        self.sent = 0
        self.received = 0
        self._buffer = bytearray()
        self._loop = asyncio.get_running_loop()

    @classmethod
    async def connect(cls, port: int, *, host: str = "127.0.0.1", receive_buffer: int = 0) -> Self:
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        sock.setblocking(False)
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        try:
            await asyncio.get_running_loop().sock_connect(sock, (host, port))
        except OSError:
            sock.close()
            raise
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return cls(sock, f"{bracketed(host)}:{port}".encode())

    def close(self) -> None:
        self.sock.close()

    def reset(self) -> None:
        reset_on_close(self.sock)
        self.sock.close()

    def half_close(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def request(self, method: str, target: str, *fields: bytes, content: bytes = b"", version: str = "1.1") -> bytes:
        """The bytes of a plain request with Host, and Content-Length if there is content."""
        lines = [f"{method} {target} HTTP/{version}".encode(), b"Host: " + self.authority, *fields]
        if content:
            lines.append(b"Content-Length: %d" % len(content))
        return b"\r\n".join(lines) + b"\r\n\r\n" + content

    async def send(self, data: bytes) -> None:
        async with asyncio.timeout(DEADLINE):
            await self._loop.sock_sendall(self.sock, data)
        self.sent += len(data)

    async def pump(self, data: bytes, times: int) -> None:
        """Sends `data` that many times, however long the other side takes; cancel it to stop."""
        for _ in range(times):
            await self._loop.sock_sendall(self.sock, data)
            self.sent += len(data)

    async def ask(self, method: str, target: str, *fields: bytes, content: bytes = b"") -> Response:
        """Sends a plain request and reads its response."""
        await self.send(self.request(method, target, *fields, content=content))
        return await self.response(method)

    async def fill(self) -> None:
        """Reads more. Raises Ended when there is no more."""
        try:
            async with asyncio.timeout(DEADLINE):
                data = await self._loop.sock_recv(self.sock, 1 << 16)
        except OSError as error:
            if isinstance(error, TimeoutError):
                raise
            raise Ended(bytes(self._buffer), reset=True) from None
        if not data:
            raise Ended(bytes(self._buffer), reset=False)
        self._buffer += data
        self.received += len(data)

    async def until(self, mark: bytes) -> bytes:
        while (end := self._buffer.find(mark)) < 0:
            await self.fill()
        return self._take(end + len(mark))

    async def exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            await self.fill()
        return self._take(size)

    def _take(self, size: int) -> bytes:
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    async def rest(self) -> Ended:
        """Everything up to the end of the connection, which must come."""
        try:
            while True:
                await self.fill()
        except Ended as ended:
            return ended

    async def head(self) -> Response:
        """Reads one head, interim ones too."""
        raw = await self.until(b"\r\n\r\n")
        line, fields = parse_response_head(raw)
        return Response(line.version, line.status, line.reason, fields, raw=raw)

    async def response(self, method: str = "GET") -> Response:
        """Reads the final response with its content. Raises Ended when it is cut off."""
        interim = []
        while (response := await self.head()).status < 200 and response.status != 101:
            interim.append(response)
        response.interim = interim
        await self.content(response, method)
        return response

    async def content(self, response: Response, method: str = "GET") -> None:
        """Reads the content that belongs to a head."""
        if method == "HEAD" or response.status in {101, 204, 304}:
            response.framing = "none"
            return
        length = content_length(response.fields, response.version, default=-1)
        if length is None:
            response.framing = "chunked"
            while chunk := await self.chunk():
                response.content += chunk
        elif length >= 0:
            response.framing = "length"
            response.content = await self.exactly(length)
        else:
            response.framing = "close"
            ended = await self.rest()
            if ended.reset:
                raise ended
            response.content, self._buffer = ended.got, bytearray()

    async def chunk(self) -> bytes:
        """Reads one chunk of a chunked response, b"" for the last with its trailers."""
        size = chunk_size((await self.until(b"\r\n")).removesuffix(b"\r\n"))
        if size == 0:
            while (line := await self.until(b"\r\n")) != b"\r\n":
                parse_fields([line.removesuffix(b"\r\n")])
            return b""
        data = await self.exactly(size + 2)
        if not data.endswith(b"\r\n"):
            raise Malformed("chunk end")
        return data[:-2]

    async def closed(self) -> Ended:
        """The connection must end now, in whatever way, with nothing more on it."""
        ended = await self.rest()
        assert ended.got == b"", f"bytes after the last response: {ended.got!r:.200}"
        return ended

    async def still_open(self) -> None:
        """The connection must serve another request, whose answer is not disturbed by anything before."""
        response = await self.ask("GET", "/healthz")
        assert response.status == 200, response
