"""Scripted upstreams on 127.0.0.1 port 0, with TLS from a CA of our own."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from krebit_proxy.upstream import Upstream
from tests.fakes.certificates import Authority
from tests.upstream.scripted import Script, Server, settings_for

Serve = Callable[..., Awaitable[Server]]
Open = Callable[..., Upstream]


@pytest.fixture(scope="session", name="authority")
def _authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(name="serve")
async def _serve(authority: Authority) -> AsyncIterator[Serve]:
    servers: list[Server] = []

    async def serve(script: Script, *, tls: bool = False) -> Server:
        server = Server(script, tls)
        context = authority.server("localhost", "127.0.0.1") if tls else None
        if context is not None:
            context.set_alpn_protocols(["http/1.1"])
        listener = await asyncio.start_server(server.play, "127.0.0.1", 0, ssl=context, limit=1 << 18)
        server.port = listener.sockets[0].getsockname()[1]
        server.listener = listener
        servers.append(server)
        return server

    yield serve
    for server in servers:
        server.listener.close()
        assert not server.failures
        for peer in server.peers:
            peer.writer.transport.abort()
    await asyncio.sleep(0)


@pytest.fixture(name="upstream")
async def _upstream(authority: Authority) -> AsyncIterator[Open]:
    opened: list[Upstream] = []

    def upstream(server: Server, **settings: Any) -> Upstream:
        url = f"{'https' if server.tls else 'http'}://localhost:{server.port}"
        settings.setdefault("ca_file", authority.ca_file)
        opened.append(Upstream(settings_for(url, **settings)))
        return opened[-1]

    yield upstream
    for each in opened:
        await each.close()
