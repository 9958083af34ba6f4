"""An upstream that takes no connection just now: requests wait for it, a little."""

import asyncio
import socket

import pytest

from krebit_proxy.errors import Refused
from krebit_proxy.upstream import Upstream
from tests.fakes.certificates import Authority
from tests.fakes.waiting import DEADLINE, eventually
from tests.upstream.scripted import GET, Peer, Server, content_of, get, request, settings_for


async def answering(peer: Peer) -> None:
    while head := await peer.head():
        if b"Content-Length: 5" in head:
            assert await peer.reader.readexactly(5) == b"hello"
        await peer.answer(head.split(b" ")[0])


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


class Restart:
    """A server that comes back at the port of its predecessor."""

    def __init__(self, script: object = answering) -> None:
        self.port = free_port()
        self.server = Server(script, False)  # type: ignore[arg-type]
        self.listener: asyncio.Server | None = None

    async def back(self) -> None:
        self.listener = await asyncio.start_server(self.server.play, "127.0.0.1", self.port)

    def pool(self, **settings: object) -> Upstream:
        return Upstream(settings_for(f"http://127.0.0.1:{self.port}", **settings))

    async def end(self, pool: Upstream) -> None:
        await pool.close()
        if self.listener is not None:
            self.listener.close()


@pytest.mark.parametrize("method", ["GET", "POST", "PATCH", "DELETE"])
async def test_a_request_that_was_not_sent_yet_waits_for_a_restart(method: str) -> None:
    site = Restart()
    pool = site.pool(connect_timeout=DEADLINE)
    sent = pool.open(**request(method, 5))
    await eventually(lambda: pool._pauses >= 3)
    await site.back()
    await sent
    sent.send(b"hello")
    sent.finish()
    async with asyncio.timeout(DEADLINE):
        await sent.response()
        assert await content_of(sent) == method.encode()
    sent.release()
    assert (len(site.server.peers), pool._away, pool._pauses) == (1, None, 0)
    await site.end(pool)


async def test_one_attempt_at_a_time_for_all_that_wait() -> None:
    tries = 0
    back = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal tries
        tries += 1
        if back.is_set():
            await Server(answering, False).play(reader, writer)
        await asyncio.sleep(0.05)  # so that others could come meanwhile
        writer.transport.abort()  # in place of a TLS handshake

    listener = await asyncio.start_server(script, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    pool = Upstream(settings_for(f"https://127.0.0.1:{port}", connect_timeout=DEADLINE))
    waiting = [pool.open(GET, method="GET") for _ in range(1000)]
    await eventually(lambda: pool._pauses >= 4)
    assert tries <= 64 + pool._pauses  # the first connections were under way together
    for sent in waiting:
        sent.abort()
    assert repr(pool).endswith("0 active, 0 idle>")
    before = pool._pauses
    await eventually(lambda: pool._pause is None)  # nobody waits, so nobody tries
    assert pool._pauses in {0, before}
    assert not pool._dials
    await pool.close()
    listener.close()


async def test_all_that_wait_are_served_when_it_is_back() -> None:
    site = Restart()
    pool = site.pool(connect_timeout=DEADLINE)
    waiting = [pool.open(GET, method="GET") for _ in range(300)]
    await eventually(lambda: pool._pauses >= 2)
    await site.back()
    async with asyncio.timeout(DEADLINE):
        for sent in waiting:
            assert (await sent.response()).status == 200
            await content_of(sent)
            sent.release()
    await site.end(pool)


async def test_a_request_cut_off_by_the_restart_waits_too() -> None:
    """It was sent on a connection that was already open, and gave no octet."""

    async def cut(peer: Peer) -> None:
        await peer.head()
        await peer.answer()
        await peer.head()
        assert site.listener is not None
        site.listener.close()
        peer.reset()

    site = Restart(cut)
    await site.back()
    pool = site.pool(connect_timeout=DEADLINE)
    await get(pool)
    sent = await pool.open(GET, method="GET")
    await eventually(lambda: pool._pauses >= 2)
    site.server.script = answering
    await site.back()
    await asyncio.wait_for(sent.response(), DEADLINE)
    assert await content_of(sent) == b"GET"
    sent.release()
    assert dict(pool.metrics._retries) == {"done": 1}
    await site.end(pool)


async def test_in_the_end_the_cause_and_the_time_are_told() -> None:
    site = Restart()
    pool = site.pool(connect_timeout=1.5)
    with pytest.raises(Refused) as refused:
        await pool.open(**request("POST"))
    assert refused.value.code == "upstream_unreachable"
    assert refused.value.detail == (
        f"127.0.0.1 refuses connections on port {site.port}. The proxy tried for 1.5 seconds."
    )
    await site.end(pool)


async def test_later_requests_do_not_pay_for_earlier_ones() -> None:
    site = Restart()
    pool = site.pool(connect_timeout=0.3)
    with pytest.raises(Refused):
        await pool.open(GET, method="GET")
    await eventually(lambda: pool._pause is None)
    await site.back()
    assert await get(pool) == b"GET"
    await site.end(pool)


async def test_a_certificate_that_is_not_trusted_is_told_at_once(authority: Authority) -> None:
    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    context = authority.server("other.example")
    async with await asyncio.start_server(play, "127.0.0.1", 0, ssl=context) as listener:
        url = f"https://localhost:{listener.sockets[0].getsockname()[1]}"
        pool = Upstream(settings_for(url, ca_file=authority.ca_file, connect_timeout=10 * DEADLINE))
        with pytest.raises(Refused, match="is not trusted"):
            await asyncio.wait_for(get(pool), DEADLINE)
        await pool.close()


@pytest.mark.parametrize(("status", "waits"), [(b"503", True), (b"407", False)])
async def test_a_forward_proxy_that_finds_nobody_just_now_is_asked_again(status: bytes, waits: bool) -> None:
    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 " + status + b" No\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(play, "127.0.0.1", 0) as listener:
        proxy = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        pool = Upstream(settings_for("https://acme.krebit.se", proxy=proxy, connect_timeout=1.5))
        with pytest.raises(Refused, match=status.decode()) as refused:
            await pool.open(GET, method="GET")
        assert ("tried for" in refused.value.detail) == waits
        await pool.close()
