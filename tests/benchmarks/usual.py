"""The proxy that people write with aiohttp in an afternoon. Arguments: port, upstream, CA file."""

import ssl
import sys
from collections.abc import AsyncIterator

from aiohttp import ClientSession, TCPConnector, web

PORT, UPSTREAM, CA_FILE = sys.argv[1:]
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "host", "authorization"}
SESSION = web.AppKey("session", ClientSession)


async def forward(request: web.Request) -> web.StreamResponse:
    headers = [(name, value) for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP]
    headers.append(("Authorization", "Bearer token"))
    data = request.content if request.body_exists else None
    url = UPSTREAM + request.raw_path
    async with request.app[SESSION].request(request.method, url, headers=headers, data=data) as upstream:
        response = web.StreamResponse(status=upstream.status)
        response.headers.extend(
            (name, value) for name, value in upstream.headers.items() if name.lower() not in HOP_BY_HOP
        )
        await response.prepare(request)
        async for chunk in upstream.content.iter_any():
            await response.write(chunk)
        await response.write_eof()
        return response


async def session(app: web.Application) -> AsyncIterator[None]:
    connector = TCPConnector(ssl=ssl.create_default_context(cafile=CA_FILE), limit=0)
    app[SESSION] = ClientSession(connector=connector, auto_decompress=False)
    yield
    await app[SESSION].close()


app = web.Application()
app.cleanup_ctx.append(session)
app.router.add_route("*", "/{path:.*}", forward)
web.run_app(app, host="127.0.0.1", port=int(PORT), print=None)
