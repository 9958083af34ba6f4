"""A stop resets nobody: restarts under clients that keep their connections open."""

import asyncio
import gc
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from krebit_proxy.web.connection import Connection
from tests.fakes.client import Client, Ended
from tests.fakes.proxy import CLIENT_ID, CLIENT_SECRET, ORGANIZATION, StartProxy, settings_of, store_grant
from tests.fakes.upstream import Call, Upstream
from tests.fakes.waiting import DEADLINE, eventually


class Pool:
    """A client that keeps its connection as long as it may, as pools do. Whatever fails ends it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.calls = 0
        self.connections = 0

    async def run(self, stopped: asyncio.Event) -> None:
        client: Client | None = None
        while not stopped.is_set():
            if client is None:
                client = await Client.connect(self._port)
                self.connections += 1
            got = await client.ask("POST", "/api/x", content=b"hello")
            assert got.status == 200
            self.calls += 1
            if got.closes:
                client.close()
                client = None
        if client is not None:
            client.close()


@asynccontextmanager
async def proxy_on(sock: socket.socket, folder: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """`krebit-proxy run` on a socket that it inherits, once it is ready."""
    log_file = folder / "log"
    with log_file.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "krebit_proxy", "run", "--config", str(folder / "config.yaml"),
            pass_fds=[sock.fileno()], stdout=output, stderr=output,
        )  # fmt: skip
    try:
        await eventually(lambda: "proxy.started" in log_file.read_text(), deadline=30)
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(DEADLINE):
            await process.wait()


async def test_restarts_on_an_inherited_socket_fail_no_call_of_pools(tmp_path: Path) -> None:
    stopped = asyncio.Event()
    with socket.create_server(("127.0.0.1", 0), backlog=128) as sock:
        async with Upstream() as upstream:
            await store_grant(settings_of(upstream.url, tmp_path))
            config = {
                "organization": ORGANIZATION,
                "client_id": CLIENT_ID,
                "client_secret": CLIENT_SECRET,
                "listen": [f"fd:{sock.fileno()}"],
                "store": f"file:{tmp_path / 'grant'}",
                "upstream": {"url": upstream.url},
            }
            (tmp_path / "config.yaml").write_text(json.dumps(config))
            (tmp_path / "config.yaml").chmod(0o600)
            pools = [Pool(sock.getsockname()[1]) for _ in range(10)]
            running = [asyncio.ensure_future(pool.run(stopped)) for pool in pools]
            for _ in range(3):
                async with proxy_on(sock, tmp_path):
                    for pool in pools:
                        pool.calls = 0
                    await eventually(lambda: min(pool.calls for pool in pools) > 5)
            async with proxy_on(sock, tmp_path):
                stopped.set()
                await asyncio.gather(*running)

    assert min(pool.connections for pool in pools) >= 3  # each met each restart


async def test_for_a_moment_before_the_end_callers_are_told_and_served(start_proxy: StartProxy) -> None:
    proxy = await start_proxy()
    idle, other = await proxy.connect(), await proxy.connect()
    await idle.still_open()
    await other.still_open()
    stopping = asyncio.ensure_future(proxy.proxy.stop())
    await asyncio.sleep(0)
    got = await idle.ask("GET", "/api/x")
    late = await proxy.connect()
    new = await late.ask("GET", "/api/x")

    assert (got.status, got.closes, new.status, new.closes) == (200, True, 200, True)
    assert not (await other.closed()).reset
    await stopping


async def test_a_caller_that_waits_to_be_accepted_is_served(start_proxy: StartProxy) -> None:
    """At the moment in which accepting ends, its connection and request are in the kernel only."""
    proxy = await start_proxy()
    listening = await proxy.connect()
    await listening.still_open()
    stopping = asyncio.ensure_future(proxy.proxy._listeners.refuse())
    callers = []
    for _ in range(20):
        sock = socket.create_connection(("127.0.0.1", proxy.port))
        sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        callers.append(sock)
    await stopping
    for sock in callers:
        assert (await asyncio.to_thread(sock.recv, 1 << 16)).startswith(b"HTTP/1.1 200 ")
        sock.close()


async def test_a_request_that_arrives_when_idle_connections_close_is_answered(start_proxy: StartProxy) -> None:
    proxy = await start_proxy()
    client = await proxy.connect()
    await client.still_open()
    client.sock.send(client.request("GET", "/healthz"))  # the loop has not read it yet
    for connection in _connections():
        connection.close()

    assert (await client.response()).status == 200


def _connections() -> list[Connection]:
    return [thing for thing in gc.get_objects() if isinstance(thing, Connection) and thing.transport is not None]


async def test_a_long_stream_does_not_stretch_a_stop_beyond_its_limit(
    start_proxy: StartProxy, upstream: Upstream
) -> None:
    async def stream(call: Call) -> None:
        await call.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
        await call.gone()

    upstream.default = stream
    proxy = await start_proxy(limits={"drain": 1})
    client = await proxy.connect()
    await client.send(client.request("GET", "/api/x"))
    head = await client.head()
    assert await client.chunk() == b"data: 1\n\n"
    loop = asyncio.get_running_loop()
    started = loop.time()
    await proxy.proxy.stop()
    took = loop.time() - started
    with pytest.raises(Ended, match="reset"):
        await client.content(head)

    assert 0.9 < took < 1 + DEADLINE
