"""Our own pages: a call becomes aiohttp's request, and aiohttp writes the response."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, cast

from aiohttp import StreamReader, web
from aiohttp.http import HttpVersion10, HttpVersion11, RawRequestMessage, StreamWriter
from aiohttp.web_protocol import RequestHandler
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from krebit_proxy.errors import Refused
from krebit_proxy.web.call import Call

Page = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

_LONGEST: Final = 64 << 10  # bytes of content; our forms are small


async def answer(call: Call, page: Page, connection: RequestHandler) -> None:
    """Has `page` answer `call`. Raises Refused for malformed, late or too much content, and what `page` raises."""
    content = await _content(call)
    loop = asyncio.get_running_loop()
    payload = StreamReader(connection, 2 * _LONGEST, loop=loop)
    payload.feed_data(content)
    payload.feed_eof()
    writer = StreamWriter(connection, loop)
    task = cast("asyncio.Task[None]", asyncio.current_task())
    request = web.BaseRequest(_message(call), payload, connection, writer, task, loop)
    try:
        response = await page(request)
    except web.HTTPException as exception:
        response = exception
    response.headers.setdefault("Server", "krebit-proxy")
    if b"close" in call.connection_field():
        response.force_close()
    call.status = response.status
    await response.prepare(request)
    await response.write_eof()
    call.persistent = bool(response.keep_alive)
    call.sent = writer.output_size


async def _content(call: Call) -> bytes:
    call.go_on()
    pieces = []
    while await call.content.ready():
        pieces.append(call.content.take())
        if call.content.received > _LONGEST:
            raise Refused("bad_request", "This is more than a form of this page can hold.")
    return b"".join(pieces)


def _message(call: Call) -> RawRequestMessage:
    fields = [(name.decode("ascii"), value.decode("utf-8", "surrogateescape")) for name, value in call.fields]
    target = call.target.decode("ascii")
    if target.startswith("/"):
        path, _, query = target.partition("?")
        url = URL.build(path=path, query_string=query, encoded=True)
    else:
        url = URL(target, encoded=True)
    return RawRequestMessage(
        call.method.decode("ascii"),
        target,
        HttpVersion10 if call.http10 else HttpVersion11,
        CIMultiDictProxy(CIMultiDict(fields)),
        tuple(call.fields),
        not call.persistent,
        None,
        False,
        False,
        url,
    )
