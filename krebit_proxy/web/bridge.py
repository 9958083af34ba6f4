"""Passes requests for our own pages to aiohttp, which serves them.

Each such request is written out again for a protocol of aiohttp, with a path as its target and the admitted authority
as its Host. So pages rely on what admission has checked. They find the peer, the authority and the preferred format in
`request[VISIT]`.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web

from krebit_proxy.core.access import Peer
from krebit_proxy.core.admission import Preference, Request
from krebit_proxy.core.target import origin_form, own_path
from krebit_proxy.errors import Refused
from krebit_proxy.web.call import Call

Page = Callable[[web.BaseRequest], Awaitable[web.Response]]

LONGEST_FORM: Final = 64 << 10  # bytes of content that a page may get; our forms are small
_FORMS: Final = frozenset(("/setup/paste",))  # only these pages get content
_ROOM: Final = 1 << 20  # bytes; aiohttp's own limits must not bite, because limits.header_bytes was checked before
# Fields about the connection or the framing. They are written anew, or left out.
_REWRITTEN: Final = frozenset(
    (b"host", b"connection", b"upgrade", b"expect", b"content-length", b"transfer-encoding", b"trailer")
)


@dataclass(frozen=True, slots=True)
class Visit:
    """What admission found out about a request for a page.

    Attributes:
        peer: The other end of its connection.
        authority: From `Request.authority`: our host and port as the caller named them, or empty.
        prefers: Whether it wants a page or JSON.
        may_call: Whether it could call the API too, so that a page may show it details.
    """

    peer: Peer
    authority: str
    prefers: Preference
    may_call: bool


VISIT: Final = web.RequestKey("visit", Visit)


def takes_form(request: Request) -> bool:
    """Whether the request is a form for one of our pages. The content of all others is not read."""
    return request.method == b"POST" and own_path(request.target) in _FORMS


def too_long() -> Refused:
    """The error for a form that is too long."""
    return Refused("bad_request", f"The body is larger than {LONGEST_FORM >> 10} KiB.")


class Bridge:
    """Lets pages, which are handlers of aiohttp, answer calls."""

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

    async def answer(self, call: Call, page: Page, *, may_call: bool = False) -> None:
        """Answers a call with `page`. The content of a form must be complete. Raises what `page` raises.

        `may_call`: see `Visit`.
        """
        wire = _Wire(call)
        protocol = self._server()
        protocol.connection_made(wire)
        try:
            protocol.data_received(_rewritten(call))
            request = await wire.request
            asked = call.request
            request[VISIT] = Visit(asked.peer, asked.authority.decode("latin-1"), asked.prefers, may_call)
            response = await page(request)
            response.headers.setdefault("Server", "krebit-proxy")
            wire.status = response.status
            await response.prepare(request)
            await response.write_eof()
        finally:
            protocol.connection_lost(None)


class _Wire(asyncio.Transport):
    """The transport that aiohttp sees: bytes written to it become the response of the call."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self._call = call
        self.status = 0  # of the response, once it is known
        self.request: asyncio.Future[web.BaseRequest] = asyncio.get_running_loop().create_future()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self.status:
            self._call.write(bytes(data), status=self.status)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        transport = self._call.connection.transport
        # Hide the socket: aiohttp would set options on it.
        return default if transport is None or name == "socket" else transport.get_extra_info(name, default)

    def is_closing(self) -> bool:
        return self._call.connection.phase.over

    def close(self) -> None:
        if not self.request.done():
            self.request.set_exception(Refused("bad_request", "The page cannot read this request."))


async def _hand_over(request: web.BaseRequest) -> web.StreamResponse:
    """Hands the parsed request to `Bridge.answer`, and waits until that has finished."""
    wire = request.transport
    assert isinstance(wire, _Wire)  # there are no other transports
    if not wire.request.done():  # else the caller has left meanwhile
        wire.request.set_result(request)
    never: asyncio.Future[web.StreamResponse] = asyncio.get_running_loop().create_future()
    return await never  # `connection_lost` cancels it


def _rewritten(call: Call) -> bytes:
    """The request as bytes for aiohttp's parser."""
    request = call.request
    form = takes_form(request)
    content = call.content.take_all() if form else b""
    # Each field once, for aiohttp refuses some that come twice. Only cookies may stand on several lines.
    fields: dict[bytes, bytes] = {}
    for name, (_, value) in zip(request.head.names, request.head.fields, strict=True):
        if name == b"cookie" and name in fields:
            fields[name] += b"; " + value
        elif name not in _REWRITTEN:
            fields.setdefault(name, value)
    lines = [
        b"%b %b HTTP/1.%d" % (request.method, origin_form(request.target)[0], not request.head.http10),
        # RFC 9112, 3.2: "If the authority component is missing or undefined for the target URI, then a client MUST send
        # a Host header field with an empty field value."
        b"Host: " + request.authority,
        *[b"%b: %b" % field for field in fields.items()],
    ]
    if form:
        lines.append(b"Content-Length: %d" % len(content))
    # What is decided for the connection reads the same in a request.
    return b"\r\n".join(lines) + b"\r\n" + call.connection_field() + b"\r\n" + content
