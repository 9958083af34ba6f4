"""An API and its token endpoint, scripted, and the real proxy in front of them, over plain sockets."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.fakes.door import ask
from tests.fakes.proxy import CLIENT_SECRET, RunningProxy, StartProxy, running_proxy
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
    started: list[RunningProxy] = []
    async with AsyncExitStack() as stack:

        async def start(*, grant: dict[str, Any] = SETTLED, **options: Any) -> RunningProxy:
            folder = tmp_path / f"proxy-{len(started)}"
            folder.mkdir()
            started.append(await stack.enter_async_context(running_proxy(upstream, folder, grant=grant, **options)))
            return started[-1]

        yield start
    for proxy in started:
        written = proxy.written()
        assert "Traceback" not in written, written
        for secret in ("token-1", "token-2", "refresh-1", "refresh-2", CLIENT_SECRET):
            assert secret not in written, f"{secret} is in the log"


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
