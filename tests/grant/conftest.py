"""An API and its token endpoint, scripted, and the real proxy in front of them, over plain sockets."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.fakes.door import ask
from tests.fakes.proxy import RunningProxy, StartProxy, started_proxies
from tests.fakes.resource_server import ResourceServer
from tests.fakes.upstream import Upstream

# A token that has been in use for a while, and is good for a while.
SETTLED = {"expires_in": 3000, "lifetime": 3600}


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream() as upstream:
        yield upstream


@pytest.fixture
def api(upstream: Upstream) -> ResourceServer:
    upstream.default = server = ResourceServer(upstream.tokens)
    return server


@pytest.fixture
async def start_proxy(upstream: Upstream, api: ResourceServer, tmp_path: Path) -> AsyncIterator[StartProxy]:
    """Starts the proxy, with a settled token unless `grant` says otherwise."""
    async with started_proxies(tmp_path) as start:
        yield lambda *, grant=SETTLED, **options: start(upstream, grant=grant, **options)
        upstream.tokens.open.set()  # a proxy that stops waits for its token request


@pytest.fixture
async def proxy(start_proxy: StartProxy) -> RunningProxy:
    return await start_proxy()


@pytest.fixture
async def webhook() -> AsyncIterator[tuple[str, list[dict[str, Any]]]]:
    """The address of a webhook, and the alarms that came there."""
    alarms: list[dict[str, Any]] = []

    async def take(request: web.Request) -> web.Response:
        alarms.append(json.loads(await request.text()))
        return web.Response()

    app = web.Application()
    app.router.add_post("/alarm", take)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/alarm", alarms
    await runner.cleanup()


async def status_of(proxy: RunningProxy) -> dict[str, Any]:
    """What the status page tells programs."""
    got = await ask(proxy, "GET", "/", b"Accept: application/json")
    assert got.status == 200
    document: dict[str, Any] = json.loads(got.content)
    return document


async def readiness(proxy: RunningProxy) -> tuple[int, dict[str, Any]]:
    """The status of /readyz, and what it says."""
    got = await ask(proxy, "GET", "/readyz")
    return got.status, json.loads(got.content)
