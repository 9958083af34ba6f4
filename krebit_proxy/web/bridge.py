"""The way to our own pages, which aiohttp serves: each request for one goes through a protocol of aiohttp's own.

What admission has found out is not asked again. aiohttp reads a request whose target is a path, and whose Host is the
authority by which the caller was admitted. Who that caller is, and what it would rather get, is in its `Visit`.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web

from krebit_proxy.core.access import Peer
from krebit_proxy.core.admission import Preference
from krebit_proxy.core.target import origin_form
from krebit_proxy.errors import Refused
from krebit_proxy.web.call import Call

Page = Callable[[web.BaseRequest], Awaitable[web.Response]]

LONGEST_FORM: Final = 64 << 10  # bytes of content that a page may get; our forms are small
_ROOM: Final = 1 << 20  # for the parser, whose limits are not ours: what comes here has passed limits.header_bytes
# What belongs to the caller's connection and to the framing of its request, and is said anew.
_SAID_ANEW: Final = frozenset(
    (b"host", b"connection", b"upgrade", b"expect", b"content-length", b"transfer-encoding", b"trailer")
)


@dataclass(frozen=True, slots=True)
class Visit:
    """What is known of a request for a page.

    Attributes:
        peer: The other end of its connection.
        authority: The host and port by which the caller knows us; empty when it named none.
        prefers: Whether it would rather get a page or JSON.
    """

    peer: Peer
    authority: str
    prefers: Preference


VISIT: Final = web.RequestKey("visit", Visit)


class Bridge:
    """Has pages answer calls."""

    def __init__(self) -> None:
        self._server = web.Server(
            _hand_over,
            handler_cancellation=True,
            access_log=None,
            tcp_keepalive=False,
            auto_decompress=False,
            max_line_size=_ROOM,
            max_field_size=_ROOM,
            max_headers=_ROOM,
        )

    async def answer(self, call: Call, page: Page) -> None:
        """Has `page` answer a call whose content is complete. Raises what `page` raises."""
        wire = _Wire(call)
        protocol = self._server()
        protocol.connection_made(wire)
        try:
            protocol.data_received(_as_read(call))
            request = await wire.request
            asked = call.request
            request[VISIT] = Visit(asked.peer, asked.authority().decode("latin-1"), asked.prefers)
            response = await page(request)
            response.headers.setdefault("Server", "krebit-proxy")
            wire.status = response.status
            await response.prepare(request)
            await response.write_eof()
        finally:
            protocol.connection_lost(None)


class _Wire(asyncio.Transport):
    """Where aiohttp believes the caller to be: what it writes becomes the response of the call."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self._call = call
        self.status = 0  # of the response, once there is one
        self.request: asyncio.Future[web.BaseRequest] = asyncio.get_running_loop().create_future()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self.status:
            self._call.write(bytes(data), status=self.status)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        transport = self._call.connection.transport
        # The options of the socket are not aiohttp's to set.
        return default if transport is None or name == "socket" else transport.get_extra_info(name, default)

    def is_closing(self) -> bool:
        return self._call.connection.phase.over

    def close(self) -> None:
        if not self.request.done():
            self.request.set_exception(Refused("bad_request", "This is not a request that a page can answer."))


async def _hand_over(request: web.BaseRequest) -> web.StreamResponse:
    """Gives a request to `Bridge.answer`, and waits until that is through with it."""
    wire = request.transport
    assert isinstance(wire, _Wire)  # there are no other transports
    if not wire.request.done():  # else the caller has left meanwhile
        wire.request.set_result(request)
    never: asyncio.Future[web.StreamResponse] = asyncio.get_running_loop().create_future()
    return await never  # `connection_lost` cancels it


def _as_read(call: Call) -> bytes:
    """The request as aiohttp shall see it."""
    request, content = call.request, call.content.take_all()
    # Each field once, for aiohttp refuses some that come twice. Only cookies may stand on several lines.
    fields: dict[bytes, bytes] = {}
    for name, (_, value) in zip(request.head.names, request.head.fields, strict=True):
        if name == b"cookie" and name in fields:
            fields[name] += b"; " + value
        elif name not in _SAID_ANEW:
            fields.setdefault(name, value)
    lines = [
        b"%b %b HTTP/1.%d" % (request.method, origin_form(request.target)[0], not request.head.http10),
        *[b"%b: %b" % field for field in fields.items()],
    ]
    if authority := request.authority():
        lines.append(b"Host: " + authority)
    if request.head.length != 0:
        lines.append(b"Content-Length: %d" % len(content))
    # What is decided for the connection reads the same in a request.
    return b"\r\n".join(lines) + b"\r\n" + call.connection_field() + b"\r\n" + content
