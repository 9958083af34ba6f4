"""Forwarding as a black box: a scripted upstream, the real proxy in front of it, and a raw client, for each test anew.

These tests mirror no module. They know the proxy by its sockets, settings and log only, so that they hold whatever its
inside looks like.
"""

import asyncio
import os
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.certificates import Authority
from tests.fakes.client import Client
from tests.fakes.proxy import RunningProxy, StartProxy, started_proxies
from tests.fakes.upstream import Upstream
from tests.http.shooting_range import LIMITS, Range, echo

# Every test runs with TLS to the upstream, as in production; KREBIT_TEST_UPSTREAM=plain runs them without.
PLAIN = os.environ.get("KREBIT_TEST_UPSTREAM") == "plain"


# And on the event loop that runs it; KREBIT_TEST_LOOP=asyncio is what runs it on Windows.
LOOP = os.environ.get("KREBIT_TEST_LOOP", "asyncio" if sys.platform == "win32" else "uvloop")


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    if LOOP == "asyncio":
        return {"asyncio": asyncio.new_event_loop}
    import uvloop

    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def server_tls(authority: Authority) -> ssl.SSLContext | None:
    return None if PLAIN else authority.server("127.0.0.1")


@pytest.fixture(autouse=True)
def _few_trusted_authorities(monkeypatch: pytest.MonkeyPatch, authority: Authority) -> None:
    """Reading all the authorities that a system trusts would take half of the time of these tests."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca_file))
    monkeypatch.setenv("SSL_CERT_DIR", str(authority.ca_file.parent / "none"))


@pytest.fixture
async def upstream(server_tls: ssl.SSLContext | None) -> AsyncIterator[Upstream]:
    async with Upstream(server_tls) as upstream:
        yield upstream


@pytest.fixture
async def start_proxy(upstream: Upstream, tmp_path: Path, authority: Authority) -> AsyncIterator[StartProxy]:
    """Starts the proxy with settings of the test's own: `await start_proxy(limits={"header_timeout": 0.5})`."""
    async with started_proxies(tmp_path) as start:

        async def start_with_tls(*, to: Upstream | str = upstream, **options: Any) -> RunningProxy:
            options["upstream"] = {"ca_file": authority.ca_file, **options.get("upstream", {})}
            return await start(to, **options)

        yield start_with_tls


@pytest.fixture
async def proxy(start_proxy: StartProxy) -> RunningProxy:
    return await start_proxy()


@pytest.fixture
async def client(proxy: RunningProxy) -> Client:
    return await proxy.connect()


@pytest.fixture
async def shooting_range(start_proxy: StartProxy, upstream: Upstream) -> AsyncIterator[Range]:
    upstream.default = echo
    proxy = await start_proxy(limits=LIMITS)
    yield Range(proxy, upstream)
    client = await proxy.connect()
    metrics = await client.ask("GET", "/metrics")
    assert metrics.status == 200
    assert b"marker" not in metrics.content
    assert "marker" not in proxy.written()
    assert "Traceback" not in proxy.written()
