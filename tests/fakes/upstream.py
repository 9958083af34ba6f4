"""A scripted upstream over real sockets: it reads by the letter, records everything, and answers what a test tells it.

A script is a list of steps, one for each request; a step is an async function that gets the `Call`. Requests to the
token endpoint are answered by `tokens` and never use up a step. What the proxy writes that is not valid HTTP/1.1 ends
in `faults`, and what goes wrong inside a step in `errors`; `stop` raises if there is any.
"""

import asyncio
import contextlib
import json
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from typing import Final, Self
from urllib.parse import parse_qs

from krebit_proxy.tasks import spawn
from tests.fakes.messages import Malformed, RequestHead, chunk_size, parse_request_head
from tests.fakes.waiting import DEADLINE, eventually

TOKEN_PATH: Final = b"/api/oauth/token"
Step = Callable[["Call"], Awaitable[None]]


class Gone(Exception):
    """The proxy ended the connection, here before the message was complete."""


class Connection:
    """One connection from the proxy."""

    def __init__(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.number = number
        self.reader = reader
        self.writer = writer
        self.received = bytearray()  # everything that was read as messages, byte for byte
        self.record = True
        self.ended = asyncio.Event()  # by either side
        self.reset_by_peer = False
        self._buffer = bytearray()

    async def fill(self) -> None:
        """Reads more. Raises Gone at the end."""
        try:
            data = await self.reader.read(1 << 16)
        except OSError:
            self.reset_by_peer = True
            data = b""
        if not data:
            self.ended.set()
            raise Gone
        self._buffer += data
        if self.record:
            self.received += data

    async def until(self, mark: bytes) -> bytes:
        """Reads up to and with `mark`."""
        while (end := self._buffer.find(mark)) < 0:
            await self.fill()
        return self._take(end + len(mark))

    async def some(self, most: int) -> bytes:
        """Reads between one and `most` bytes."""
        if not self._buffer:
            await self.fill()
        return self._take(min(most, len(self._buffer)))

    def _take(self, size: int) -> bytes:
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    async def gone(self) -> None:
        """Returns when the proxy has ended the connection; what it still sends is recorded and dropped."""
        async with asyncio.timeout(DEADLINE):
            with contextlib.suppress(Gone):
                while True:
                    await self.fill()
                    self._buffer.clear()

    @property
    def closing(self) -> bool:
        return self.writer.is_closing()

    def close(self) -> None:
        """Ends it in the orderly way, with everything sent before."""
        self.ended.set()
        self.writer.close()

    def reset(self) -> None:
        """Ends it with a TCP reset."""
        self.ended.set()
        if (sock := self.writer.get_extra_info("socket")) is not None:  # None: ended by the other side already
            reset_on_close(sock)
        self.writer.transport.abort()


def reset_on_close(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Call:
    """One request as it arrived. Content is read when a step asks for it."""

    def __init__(self, head: RequestHead, connection: Connection) -> None:
        self.head = head
        self.connection = connection
        self.content = bytearray()
        self.complete = False  # all the content has been read
        self.broken = False  # the proxy ended the connection before the content was complete
        self._left: int | None = head.length  # None: chunked, between two chunks
        self._chunked = self._left is None

    @property
    def method(self) -> bytes:
        return self.head.method

    @property
    def target(self) -> bytes:
        return self.head.target

    @property
    def names(self) -> list[bytes]:
        """The names of all fields in lower case."""
        return [name.lower() for name, _ in self.head.fields]

    def values(self, name: bytes) -> list[bytes]:
        return self.head.values(name)

    @property
    def token(self) -> bytes:
        """The bearer token. There must be exactly one Authorization field."""
        (value,) = self.values(b"authorization")
        assert value.startswith(b"Bearer ")
        return value.removeprefix(b"Bearer ")

    async def receive(self, most: int = 1 << 16) -> bytes:
        """Reads the next content, b"" at its end."""
        try:
            data = await self._receive(most)
        except Gone:
            self.broken = True
            raise
        self.content += data if self.connection.record else b""
        self.complete = not data
        return data

    async def _receive(self, most: int) -> bytes:
        if self.complete:
            return b""
        if self._chunked and self._left is None:
            self._left = chunk_size((await self.connection.until(b"\r\n")).removesuffix(b"\r\n"))
            if self._left == 0:
                if await self.connection.until(b"\r\n") != b"\r\n":
                    raise Malformed("trailers")
                return b""
        if not self._left:
            return b""
        data = await self.connection.some(min(most, self._left))
        self._left -= len(data)
        if self._chunked and self._left == 0:
            if await self.connection.until(b"\r\n") != b"\r\n":
                raise Malformed("chunk end")
            self._left = None
        return data

    async def read(self) -> bytes:
        """Reads all the content."""
        while await self.receive():
            pass
        return bytes(self.content)

    async def send(self, data: bytes) -> None:
        self.connection.writer.write(data)
        with contextlib.suppress(OSError):
            await self.connection.writer.drain()

    async def gone(self) -> None:
        await self.connection.gone()


def response(
    status: int = 200, *fields: bytes, content: bytes = b"ok", reason: bytes = b"OK", length: bool = True
) -> bytes:
    """The bytes of a response. `fields` are whole lines without their ends."""
    lines = [b"HTTP/1.1 %d %s" % (status, reason), *fields]
    if length:
        lines.append(b"Content-Length: %d" % len(content))
    return b"\r\n".join(lines) + b"\r\n\r\n" + content


def answer(
    status: int = 200, *fields: bytes, content: bytes = b"ok", reason: bytes = b"OK", length: bool = True
) -> Step:
    """A step that reads the content and answers; without content for HEAD."""
    whole = response(status, *fields, content=content, reason=reason, length=length)

    async def step(call: Call) -> None:
        await call.read()
        await call.send(whole.removesuffix(content) if call.method == b"HEAD" and content else whole)

    return step


def raw(*pieces: bytes, close: bool = False, reset: bool = False) -> Step:
    """A step that reads the content and sends exactly these bytes, then ends the connection if told."""

    async def step(call: Call) -> None:
        await call.read()
        for piece in pieces:
            await call.send(piece)
        if close:
            call.connection.close()
        if reset:
            call.connection.reset()

    return step


async def unauthorized(call: Call) -> None:
    """A step: 401 as RFC 6750 has it, after the content."""
    await answer(401, b'WWW-Authenticate: Bearer error="invalid_token"', content=b"expired", reason=b"No")(call)


class TokenEndpoint:
    """Gives token-2, token-3 … for refresh-1, refresh-2 …; the grant of the tests begins with token-1.

    Attributes:
        failures: whole responses to give first.
        always: a response to give each time.
        ends: whether the connection ends after a failure.
        open: cleared, requests wait.
        extra: further members of each token response.
        refresh_lifetime: seconds that a refresh token lives, each from its own issue; None: no end.
        refresh_until: when all refresh tokens end (the loop's clock); a renewal does not move that. None: no end.
        tells: the member that tells what is left of the refresh token; empty: it is not told.
        strict: whether a refresh token that is not the newest, or has ended, is refused with invalid_grant.
    """

    def __init__(self) -> None:
        self.names = ("token", "refresh")
        self.requests: list[dict[str, str]] = []
        self.times: list[float] = []  # of the requests, by the loop's clock
        self.issued: dict[bytes, float] = {}  # access token -> when, by the loop's clock
        self.lifetime: float = 3600
        self.failures: list[bytes] = []
        self.always: bytes | None = None
        self.ends = False
        self.open = asyncio.Event()
        self.open.set()
        self.extra: dict[str, object] = {}
        self.refresh_lifetime: float | None = None
        self.refresh_until: float | None = None
        self.tells = "refresh_expires_in"
        self.strict = False
        self._refresh = ("", 0.0)  # the newest refresh token, and when it was issued

    @property
    def presented(self) -> list[str]:
        """The refresh tokens of the requests."""
        return [form.get("refresh_token", "") for form in self.requests]

    async def answer(self, call: Call) -> None:
        form = parse_qs((await call.read()).decode(), strict_parsing=True)
        self.requests.append({name: value for name, (value,) in form.items()})
        self.times.append(asyncio.get_running_loop().time())
        number = len(self.requests) + 1
        await self.open.wait()
        if self.failures or self.always:
            await call.send(self.failures.pop(0) if self.failures else self.always or b"")
            if self.ends:
                call.connection.close()
            return
        status, document = self._judged(self.requests[-1].get("refresh_token", ""), number)
        await call.send(response(status, b"Content-Type: application/json", content=json.dumps(document).encode()))

    def _judged(self, presented: str, number: int) -> tuple[int, dict[str, object]]:
        now = asyncio.get_running_loop().time()
        newest, since = self._refresh
        ends = [self.refresh_until] if self.refresh_until is not None else []
        if self.refresh_lifetime is not None:
            ends.append(since + self.refresh_lifetime)
        if self.strict and newest and (presented != newest or any(now >= end for end in ends)):
            return 400, {"error": "invalid_grant", "error_description": "used, or at its end"}
        access_token, refresh_token = (f"{name}-{number}" for name in self.names)
        self._refresh = refresh_token, now
        self.issued[access_token.encode()] = now
        document: dict[str, object] = {
            "access_token": access_token,
            "refresh_token": refresh_token,
            "token_type": "Bearer",
            "expires_in": self.lifetime,
        }
        left = self.refresh_lifetime if self.refresh_until is None else self.refresh_until - now
        if left is not None and self.tells:
            document[self.tells] = left
        return 200, document | self.extra


class Upstream:
    """The server. Use it as an async context manager."""

    def __init__(self, tls: ssl.SSLContext | None = None, *, host: str = "127.0.0.1", port: int = 0) -> None:
        """`port`: 0 is any free one."""
        self._tls = tls
        self._host = host
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = port
        self.calls: list[Call] = []
        self.connections: list[Connection] = []  # those that brought at least one call
        self.opened = 0  # TCP connections (and TLS handshakes) in all
        self.script: list[Step] = []
        self.default: Step = answer()
        self.tokens = TokenEndpoint()
        self.faults: list[str] = []
        self.errors: list[Exception] = []

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self._host}:{self.port}"

    @property
    def authority(self) -> bytes:
        return f"{self._host}:{self.port}".encode()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(
            self._connected, self._host, self.port, ssl=self._tls, limit=1 << 16, backlog=1024
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Ends everything, and raises what went wrong."""
        await self.shut()
        assert not self.faults, self.faults
        if self.errors:
            raise self.errors[0]

    async def shut(self) -> None:
        """Stops listening and ends every connection; the port stays known, so that it can start again."""
        if self._server is None:
            return
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._server = None

    async def called(self, times: int = 1) -> Call:
        """Waits for that many calls; returns the last of them."""
        await eventually(lambda: len(self.calls) >= times, what=f"call {times} of the upstream")
        return self.calls[times - 1]

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        task = spawn(self._serve(Connection(self.opened, reader, writer)), name="scripted upstream")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: Connection) -> None:
        try:
            while not connection.closing:
                await self._exchange(connection)
        except Malformed as error:
            self.faults.append(str(error))
        except Gone:
            pass
        except Exception as error:  # raised by `stop`
            self.errors.append(error)
        finally:
            connection.ended.set()
            connection.writer.transport.abort() if not connection.closing else None

    async def _exchange(self, connection: Connection) -> None:
        head = parse_request_head(await connection.until(b"\r\n\r\n"))
        call = Call(head, connection)
        if head.target.partition(b"?")[0] == TOKEN_PATH:
            await self.tokens.answer(call)
            return
        if connection not in self.connections:
            self.connections.append(connection)
        self.calls.append(call)
        await (self.script.pop(0) if self.script else self.default)(call)
        if not connection.closing:
            await call.read()
