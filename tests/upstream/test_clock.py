"""The clock of connections: how old they get, and whether a change in DNS is noticed."""

import asyncio
import shutil
import socket
import subprocess
import sys
from typing import Literal

import pytest

from krebit_proxy.errors import Refused
from krebit_proxy.upstream import Upstream
from krebit_proxy.upstream.clock import elapsed
from tests.fakes.waiting import DEADLINE, eventually
from tests.upstream.conftest import Open, Serve
from tests.upstream.scripted import GET, Peer, Script, Server, content_of, get, request

both = pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])


async def answering(peer: Peer) -> None:
    while await peer.head():
        await peer.answer(b"hello")


class NameServer:
    """What DNS says on this event loop: an address, a failure, or nothing for ever."""

    def __init__(self) -> None:
        self.address = "127.0.0.1"
        self.failure: OSError | Literal[False] | None = False
        loop = asyncio.get_running_loop()
        self._resolve = loop.getaddrinfo
        loop.getaddrinfo = self.look_up  # type: ignore[method-assign, assignment]

    async def look_up(self, _host: str, port: int, **options: int) -> object:
        if self.failure is None:
            await asyncio.get_running_loop().create_future()
        if self.failure:
            raise self.failure
        return await self._resolve(self.address, port, **options)


async def post(pool: Upstream) -> None:
    sent = await pool.open(**request("POST"))
    await sent.response()
    await content_of(sent)
    sent.release()


@both
async def test_steady_traffic_goes_on_new_connections_in_time(serve: Serve, upstream: Open, tls: bool) -> None:
    server = await serve(answering, tls=tls)
    pool = upstream(server, max_age=0.3)
    await get(pool)
    old = pool._idle[0]
    assert old.expires < elapsed() + 0.3
    end = elapsed() + 0.31
    while elapsed() < end:
        await get(pool)
    assert len(server.peers) >= 2
    assert old.closed
    await asyncio.wait_for(server.finished.acquire(), DEADLINE)


async def test_an_old_idle_connection_ends(serve: Serve, upstream: Open) -> None:
    pool = upstream(await serve(answering), max_age=0.2)
    await get(pool)
    await eventually(lambda: repr(pool).endswith("0 active, 0 idle>"))


async def test_an_old_connection_is_not_used_even_if_nobody_looked(serve: Serve, upstream: Open) -> None:
    server = await serve(answering)
    pool = upstream(server)
    await get(pool)
    pool._idle[0].expires -= 300
    await get(pool)
    assert len(server.peers) == 2


async def test_a_busy_connection_finishes_its_exchange_and_is_not_used_again(serve: Serve, upstream: Open) -> None:
    over = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlo")
        await over.wait()
        peer.send(b"ng")
        assert await peer.gone() == b""

    server = await serve(script)
    pool = upstream(server, max_age=0.2)
    sent = await pool.open(GET, method="GET")
    await sent.response()
    await asyncio.sleep(0.4)
    over.set()
    assert await content_of(sent) == b"long"
    sent.release()
    assert repr(pool).endswith("0 active, 0 idle>")
    await asyncio.wait_for(server.finished.acquire(), DEADLINE)


async def test_connections_of_one_burst_do_not_all_end_at_once(serve: Serve, upstream: Open) -> None:
    pool = upstream(await serve(answering))
    for sent in [await pool.open(GET, method="GET") for _ in range(20)]:
        await sent.response()
        await content_of(sent)
        sent.release()
    left = [link.expires - elapsed() for link in pool._idle]
    assert min(left) > 250
    assert max(left) < 300
    assert max(left) - min(left) > 5


async def test_a_change_in_dns_is_noticed_within_the_greatest_age(serve: Serve, upstream: Open) -> None:
    """Both servers answer, on 127.0.0.1 and 127.0.0.2, and there is no pause in the traffic."""
    seen: list[str] = []

    def at(address: str) -> Script:
        async def script(peer: Peer) -> None:
            while await peer.head():
                seen.append(address)
                await peer.answer()

        return script

    old = await serve(at("127.0.0.1"))
    new = Server(at("127.0.0.2"), False)
    async with await asyncio.start_server(new.play, "127.0.0.2", old.port):
        dns = NameServer()
        pool = upstream(old, max_age=1)
        await get(pool)
        dns.address = "127.0.0.2"
        changed = elapsed()
        while elapsed() < changed + 1:
            await get(pool)
        seen.clear()
        await get(pool)
        assert seen == ["127.0.0.2"]
        await pool.close()


async def test_an_outage_of_dns_alone_stops_nothing(serve: Serve, upstream: Open) -> None:
    server = await serve(answering)
    dns = NameServer()
    pool = upstream(server, max_age=0.2)
    await get(pool)
    for failure in (socket.gaierror(socket.EAI_AGAIN, "later"), None):
        dns.failure = failure
        pool._connector._timeout = 3  # a third of which it waits for a name server that is silent
        await eventually(lambda: repr(pool).endswith("0 active, 0 idle>"))
        await get(pool)
    assert len(server.peers) == 3
    dns.failure = socket.gaierror(socket.EAI_NONAME, "no such name")
    await eventually(lambda: repr(pool).endswith("0 active, 0 idle>"))
    with pytest.raises(Refused, match="cannot resolve"):
        await get(pool)


async def test_after_a_sleep_idle_connections_are_old(serve: Serve, upstream: Open) -> None:
    server = await serve(answering)
    pool = upstream(server)
    await get(pool)
    pool._clock = lambda: elapsed() + 3600  # the loop's clock stood still
    await get(pool)
    assert len(server.peers) == 2


def test_the_clock_goes_on_during_sleep() -> None:
    """In a process that thinks that the computer has slept for a day: its CLOCK_BOOTTIME is ahead by that much."""
    slept = ["unshare", "--time", "--boottime", "86400", "--"]
    if shutil.which("unshare") is None or subprocess.run([*slept, "true"], capture_output=True, check=False).returncode:
        pytest.skip("only root on Linux may pretend to have slept")
    program = "import time; from krebit_proxy.upstream.clock import elapsed; print(elapsed() - time.monotonic())"
    finished = subprocess.run([*slept, sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert float(finished.stdout) >= 86399


async def test_what_must_not_be_sent_twice_takes_no_connection_that_may_be_dead(serve: Serve, upstream: Open) -> None:
    server = await serve(answering)
    pool = upstream(server)
    await get(pool)
    await post(pool)
    assert len(server.peers) == 1
    pool._clock = lambda: elapsed() + 6
    await get(pool)  # may be sent twice
    assert len(server.peers) == 1
    pool._clock = lambda: elapsed() + 12
    await post(pool)
    assert len(server.peers) == 2
    assert repr(pool).endswith("0 active, 2 idle>")
    pool._clock = lambda: elapsed() + 18
    sent = await pool.open(**request("PUT", 100_000))  # too much to keep
    sent.abort()
    assert repr(pool).endswith("0 active, 2 idle>")
