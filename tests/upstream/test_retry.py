"""A connection that died without a word is told from a slow answer, and its request is sent once more."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from krebit_proxy import sockets
from krebit_proxy.errors import Refused
from krebit_proxy.upstream import Upstream, UpstreamBroken, exchange
from tests.fakes.silence import needs_silence, revive, silence
from tests.fakes.waiting import DEADLINE, eventually
from tests.upstream.conftest import Open, Serve
from tests.upstream.scripted import GET, Peer, Server, content_of, get, request, settings_for

both = pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
pytestmark = needs_silence
LONG = 4 * DEADLINE  # a response_timeout that no test may wait for
SHORT = 0.4  # seconds of patience: a request without a sign of life is sent once more


class Site:
    """A server, and a pool that has one idle connection to it."""

    def __init__(self, server: Server, pool: Upstream) -> None:
        self.server = server
        self.pool = pool
        pool.patience, pool._interval = SHORT, 0.05

    def silence(self, number: int = 0) -> None:
        silence(self.server.peers[number].writer.get_extra_info("socket"))

    def revive(self, number: int = 0) -> None:
        revive(self.server.peers[number].writer.get_extra_info("socket"))

    def retries(self) -> dict[str, int]:
        return dict(self.pool.metrics._retries)


class Answering:
    """A script: each connection answers, the first one always, the others when `go` is set. Counts the requests."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.go.set()
        self.heads: list[tuple[int, bytes]] = []  # number of the connection, method
        self.server: Server | None = None

    async def __call__(self, peer: Peer) -> None:
        assert self.server is not None
        number = self.server.peers.index(peer)
        while head := await peer.head():
            self.heads.append((number, head.split(b" ")[0]))
            if b"Content-Length" in head:
                await peer.reader.readexactly(int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0]))
            if number:
                await self.go.wait()
            await peer.answer(b"%d" % number)


async def warm(serve: Serve, upstream: Open, script: Answering, *, tls: bool = False, **settings: float) -> Site:
    script.server = server = await serve(script, tls=tls)
    pool = upstream(server, **{"response_timeout": LONG, **settings})
    site = Site(server, pool)
    assert await get(pool) == b"0"
    return site


@both
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
async def test_after_a_silent_death_an_idempotent_request_goes_on_a_fresh_connection(
    serve: Serve, upstream: Open, monkeypatch: pytest.MonkeyPatch, tls: bool, method: str
) -> None:
    monkeypatch.setattr(exchange, "_LOST", LONG)  # which would help too, but much later
    script = Answering()
    site = await warm(serve, upstream, script, tls=tls)
    site.silence()
    sent = await site.pool.open(**request(method))
    async with asyncio.timeout(DEADLINE):
        assert (await sent.response()).status == 200
    sent.abort()

    assert script.heads == [(0, b"GET"), (1, method.encode())]
    assert site.retries() == {"done": 1}


@both
async def test_held_content_is_sent_once_more_too(serve: Serve, upstream: Open, tls: bool) -> None:
    script = Answering()
    site = await warm(serve, upstream, script, tls=tls)
    site.silence()
    sent = await site.pool.open(**request("PUT", 5))
    sent.send(b"hello")
    sent.finish()
    async with asyncio.timeout(DEADLINE):
        await sent.response()
    assert await content_of(sent) == b"1"
    sent.release()


async def test_the_next_requests_find_no_dead_connection(serve: Serve, upstream: Open) -> None:
    script = Answering()
    site = await warm(serve, upstream, script)
    several = [await site.pool.open(GET, method="GET") for _ in range(3)]
    for sent in several:
        await sent.response()
        await content_of(sent)
        sent.release()
    for number in range(3):
        site.silence(number)
    async with asyncio.timeout(DEADLINE):
        assert await get(site.pool) == b"3"
    assert repr(site.pool).endswith("0 active, 1 idle>")
    several = [await site.pool.open(GET, method="GET") for _ in range(3)]
    for sent in several:
        await sent.response()
        sent.abort()
    assert site.retries() == {"done": 1}


# A slow answer


@both
async def test_a_slow_answer_is_awaited_on_the_connection_that_is_alive(
    serve: Serve, upstream: Open, tls: bool
) -> None:
    slow = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.answer()
        await peer.head()
        await slow.wait()
        await peer.answer(b"late")

    server = await serve(script, tls=tls)
    site = Site(server, upstream(server, response_timeout=LONG))
    await get(site.pool)
    sent = await site.pool.open(GET, method="GET")
    await asyncio.sleep(4 * SHORT)
    slow.set()
    await sent.response()
    assert await content_of(sent) == b"late"
    sent.release()
    assert len(server.peers) == 1
    assert not site.retries()


STOPPED = """
import socket
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
peer, _ = server.accept()
for _ in range(2):
    head = b""
    while b"\\r\\n\\r\\n" not in head:
        head += peer.recv(1000)
    peer.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok")
peer.recv(1)
"""


@contextmanager
def stoppable_server() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process that takes one connection only, and answers two requests on it."""
    with subprocess.Popen([sys.executable, "-c", STOPPED], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, int(process.stdout.readline())
        finally:
            process.kill()


async def test_a_process_that_is_stopped_is_slow_and_not_dead() -> None:
    with stoppable_server() as (process, port):
        pool = Upstream(settings_for(f"http://localhost:{port}", response_timeout=LONG))
        pool.patience, pool._interval = SHORT, 0.05
        assert await get(pool) == b"ok"
        process.send_signal(signal.SIGSTOP)
        sent = await pool.open(GET, method="GET")
        await asyncio.sleep(4 * SHORT)
        assert not pool._dials
        process.send_signal(signal.SIGCONT)
        await sent.response()
        assert await content_of(sent) == b"ok"
        sent.release()
        await pool.close()


# A death while the response is awaited or arrives: the request was acknowledged, so only probes can tell


@pytest.fixture
def _quick_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "_PROBES", {"TCP_KEEPIDLE": 1, "TCP_KEEPINTVL": 1, "TCP_KEEPCNT": 1})  # 30 s otherwise


@pytest.mark.usefixtures("_quick_probes")
@pytest.mark.slow
@both
async def test_a_connection_that_dies_before_the_response_is_noticed(serve: Serve, upstream: Open, tls: bool) -> None:
    asked = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.answer(b"%d" % len(server.peers))
        if len(server.peers) == 1:
            await peer.head()
            asked.set()
            await peer.gone()

    server = await serve(script, tls=tls)
    site = Site(server, upstream(server, response_timeout=LONG))
    await get(site.pool)
    sent = await site.pool.open(GET, method="GET")
    await asked.wait()
    await eventually(lambda: not sent._link or not sent._link.untaken())
    site.silence()
    await asyncio.wait_for(sent.response(), DEADLINE)
    assert await content_of(sent) == b"2"
    sent.release()


@pytest.mark.usefixtures("_quick_probes")
@pytest.mark.slow
@both
async def test_a_connection_that_dies_in_the_content_is_noticed(serve: Serve, upstream: Open, tls: bool) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        await peer.gone()

    server = await serve(script, tls=tls)
    site = Site(server, upstream(server, idle_timeout=LONG))
    sent = await site.pool.open(GET, method="GET")
    await sent.response()
    assert await sent.read() == b"half"
    site.silence()
    with pytest.raises(UpstreamBroken):
        await asyncio.wait_for(sent.read(), DEADLINE)
    sent.release()


# Two connections for one request


async def test_the_first_connection_may_still_answer(serve: Serve, upstream: Open) -> None:
    script = Answering()
    site = await warm(serve, upstream, script)
    script.go.clear()
    site.silence()
    sent = await site.pool.open(GET, method="GET")
    await eventually(lambda: len(script.heads) == 2)
    site.revive()
    await asyncio.wait_for(sent.response(), DEADLINE)
    assert await content_of(sent) == b"0"
    sent.release()
    await eventually(site.server.peers[1].reader.at_eof, what="the end of the second connection")
    script.go.set()
    assert script.heads == [(0, b"GET"), (1, b"GET"), (0, b"GET")]
    assert site.retries() == {"first_answered": 1}
    assert repr(site.pool).endswith("0 active, 1 idle>")


async def test_the_first_connection_goes_on_when_the_second_one_fails(serve: Serve, upstream: Open) -> None:
    script = Answering()
    site = await warm(serve, upstream, script)
    site.silence()

    async def hangs_up(peer: Peer) -> None:
        script.heads.append((1, await peer.head()))

    site.server.script = hangs_up
    sent = await site.pool.open(GET, method="GET")
    await eventually(lambda: site.retries() == {"failed": 1})
    site.revive()
    await asyncio.wait_for(sent.response(), DEADLINE)
    assert await content_of(sent) == b"0"
    sent.release()
    assert len(script.heads) == 3


async def test_the_first_connection_goes_on_when_there_is_no_second_one(serve: Serve, upstream: Open) -> None:
    script = Answering()
    site = await warm(serve, upstream, script, connect_timeout=0.3)
    site.silence()
    site.server.listener.close()
    sent = await site.pool.open(GET, method="GET")
    await eventually(lambda: site.retries() == {"failed": 1})
    site.revive()
    await asyncio.wait_for(sent.response(), DEADLINE)
    assert await content_of(sent) == b"0"
    sent.release()


async def test_both_connections_end_without_an_answer(serve: Serve, upstream: Open) -> None:
    heads: list[bytes] = []
    close = asyncio.Event()

    async def script(peer: Peer) -> None:
        heads.append(await peer.head())
        if len(heads) == 1:
            await peer.answer()
            heads.append(await peer.head())
        else:
            await close.wait()

    server = await serve(script)
    site = Site(server, upstream(server, response_timeout=LONG))
    await get(site.pool)
    site.silence()
    sent = await site.pool.open(GET, method="GET")
    await eventually(lambda: len(heads) == 2)
    site.revive()  # it takes the request, and hangs up
    await eventually(lambda: len(heads) == 3)
    close.set()
    with pytest.raises(Refused) as refused:
        await asyncio.wait_for(sent.response(), DEADLINE)
    sent.release()
    assert refused.value.code == "upstream_unreachable"
    assert (len(heads), site.retries()) == (3, {"failed": 1})


async def test_giving_up_cuts_both_connections(serve: Serve, upstream: Open) -> None:
    script = Answering()
    site = await warm(serve, upstream, script)
    script.go.clear()
    site.silence()
    sent = await site.pool.open(GET, method="GET")
    await eventually(lambda: len(script.heads) == 2)
    sent.abort()
    script.go.set()
    site.revive()
    for _ in range(2):
        await asyncio.wait_for(site.server.finished.acquire(), DEADLINE)
    assert repr(site.pool).endswith("0 active, 0 idle>")
    assert site.retries() == {"cancelled": 1}


# What is never sent twice


@pytest.mark.parametrize("arguments", [request("POST"), {**request("GET"), "retry": False}], ids=["POST", "replay"])
async def test_what_must_not_be_sent_twice_is_told_of_the_death_soon(
    serve: Serve, upstream: Open, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, object]
) -> None:
    monkeypatch.setattr(exchange, "_LOST", 3 * SHORT)  # 20 seconds otherwise
    script = Answering()
    site = await warm(serve, upstream, script)
    several = [await site.pool.open(GET, method="GET") for _ in range(3)]
    for sent in several:
        await sent.response()
        await content_of(sent)
        sent.release()
    site.silence(2)
    sent = await site.pool.open(**arguments)  # type: ignore[arg-type]
    with pytest.raises(Refused, match="is dead") as refused:
        await asyncio.wait_for(sent.response(), DEADLINE)
    sent.release()
    assert refused.value.code == "upstream_unreachable"
    assert len(site.server.peers) == 3
    assert not site.retries()
    assert repr(site.pool).endswith("0 active, 0 idle>")  # the others are as old


@both
async def test_content_that_nobody_acknowledges_ends_the_upload(
    serve: Serve, upstream: Open, monkeypatch: pytest.MonkeyPatch, tls: bool
) -> None:
    monkeypatch.setattr(exchange, "_LOST", 2 * SHORT)
    server = await serve(Peer.gone, tls=tls)
    site = Site(server, upstream(server, response_timeout=LONG, idle_timeout=LONG))
    sent = await site.pool.open(**request("POST", 1 << 30))
    await eventually(lambda: server.peers)
    site.silence()

    async def send_for_ever() -> None:
        while True:
            sent.send(b"x" * 65536)
            await sent.drain()

    with pytest.raises(UpstreamBroken):
        await asyncio.wait_for(send_for_ever(), DEADLINE)
    sent.release()


@pytest.mark.slow
@both
async def test_an_upstream_without_room_for_content_is_alive(
    serve: Serve, upstream: Open, monkeypatch: pytest.MonkeyPatch, tls: bool
) -> None:
    """Its window is zero: TCP_USER_TIMEOUT would end this connection."""
    monkeypatch.setattr(exchange, "_LOST", SHORT)
    room = asyncio.Event()

    async def script(peer: Peer) -> None:
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]  # the transport of a stream reads
        await room.wait()
        peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
        await peer.head()
        await peer.reader.readexactly(16 << 20)
        await peer.answer(b"all of it")

    server = await serve(script, tls=tls)
    site = Site(server, upstream(server, response_timeout=LONG, idle_timeout=LONG))
    sent = await site.pool.open(**request("POST", 16 << 20))

    async def send() -> None:
        for _ in range(256):
            sent.send(b"x" * 65536)
            await sent.drain()
        sent.finish()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(send())
        await asyncio.sleep(6 * SHORT)
        room.set()
    await asyncio.wait_for(sent.response(), DEADLINE)
    assert await content_of(sent) == b"all of it"
    sent.release()
