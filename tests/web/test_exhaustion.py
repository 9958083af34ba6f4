"""Callers that use up what there is, slowly or greedily: others still get through, and memory stays bounded."""

import gc
import re
import resource
import socket
from contextlib import AsyncExitStack, ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from krebit_proxy.web.seats import Seats
from krebit_proxy.web.server import Server
from tests.fakes.client import Client
from tests.fakes.door import ask, ask_in_tls, own_address, speaking_tls
from tests.fakes.proxy import RunningProxy, StartProxy, proxy_process
from tests.fakes.upstream import Call, Upstream
from tests.fakes.waiting import eventually


async def unanswered(call: Call) -> None:
    await call.gone()


def ports(proxy: RunningProxy) -> list[int]:
    return [int(url.rpartition(":")[2]) for url in proxy.proxy.urls]


EXPOSED: dict[str, Any] = {
    "listen": ("0.0.0.0:0", "[::]:0"),
    "access": {"expose": True, "allow_clients": ["0.0.0.0/0", "::/0"]},
}


async def test_one_address_beyond_loopback_gets_half_of_the_connections(start: StartProxy, upstream: Upstream) -> None:
    beyond = own_address()
    upstream.default = unanswered
    proxy = await start(**EXPOSED, limits={"connections": 4})
    greedy = [await proxy.connect(host=beyond) for _ in range(2)]
    for client in greedy:
        await client.send(client.request("GET", "/api/x"))
    await upstream.called(2)
    third = await proxy.connect(host=beyond)
    assert (await third.ask("GET", "/api/x")).code == "overloaded"
    neighbour = await proxy.connect()
    assert (await neighbour.ask("GET", "/healthz")).status == 200


async def test_the_new_connections_of_an_address_replace_its_idle_ones_beyond_half(start: StartProxy) -> None:
    beyond = own_address()
    proxy = await start(**EXPOSED, limits={"connections": 4})
    neighbour = await proxy.connect()
    await neighbour.still_open()
    greedy = []
    for _ in range(5):
        greedy.append(await proxy.connect(host=beyond))
        await greedy[-1].still_open()
    for client in greedy[:3]:
        assert (await client.rest()).got == b""
    for client in [*greedy[3:], neighbour]:
        await client.still_open()


async def test_one_computer_is_one_place_whichever_protocol_it_uses(start: StartProxy, upstream: Upstream) -> None:
    ways = [own_address(), own_address(socket.AF_INET6)]
    upstream.default = unanswered
    proxy = await start(**EXPOSED, limits={"connections": 4})
    busy = [await Client.connect(port, host=beyond) for port, beyond in zip(ports(proxy), ways, strict=True)]
    for client in busy:
        await client.send(client.request("GET", "/api/x"))
    await upstream.called(2)
    for port, beyond in zip(ports(proxy), ways, strict=True):
        client = await Client.connect(port, host=beyond)
        assert (await client.ask("GET", "/api/x")).code == "overloaded"
        client.close()
    for client in busy:
        client.close()


async def test_slow_heads_by_the_hundred_do_not_keep_others_out(start: StartProxy) -> None:
    proxy = await start(limits={"connections": 5})
    slow = [await proxy.connect() for _ in range(100)]
    for client in slow:
        with suppress(OSError):  # it was ended already
            await client.send(b"GET /api/x HTTP/1.1\r\nHost: localhost\r\nX-A: ")
    for _ in range(3):
        assert (await ask(proxy, "GET", "/api/x")).status == 200


async def test_callers_that_let_their_connections_close_slowly_do_not_pile_up(start: StartProxy) -> None:
    proxy = await start(limits={"connections": 5})
    gc.unfreeze()
    (server,) = [thing for thing in gc.get_objects() if isinstance(thing, Server) and not thing.draining]
    for _ in range(40):
        client = await proxy.connect()
        await client.send(b"garbage\r\n\r\n")
        assert (await client.response()).status == 400  # and now it waits for our end of the connection
    assert len(server.seats.all()) <= 11


async def test_a_burst_of_callers_finds_room_to_wait(start: StartProxy) -> None:
    proxy = await start()
    with ExitStack() as stack:
        for _ in range(200):  # while nothing is accepted: the proxy shares the thread of this test
            stack.enter_context(socket.create_connection(("127.0.0.1", proxy.port), timeout=0.5))


async def test_handshakes_that_never_come_by_the_hundred_do_not_keep_others_out(
    start: StartProxy, tmp_path: Path
) -> None:
    tls, context = speaking_tls(tmp_path)
    proxy = await start(limits={"connections": 5}, **tls)
    silent = [await proxy.connect() for _ in range(100)]
    for _ in range(3):
        assert (await ask_in_tls(proxy.port, context)).startswith(b"HTTP/1.1 200 ")
    ended = proxy.events("connection.refused")
    assert {(event["reason"], event["peer"]) for event in ended} == {("closed to make room", "127.0.0.1")}
    assert len(ended) >= len(silent) - 5


async def test_a_handshake_that_never_comes_is_ended_and_told_of(start: StartProxy, tmp_path: Path) -> None:
    tls, _ = speaking_tls(tmp_path)
    proxy = await start(limits={"header_timeout": 0.1}, **tls)
    assert (await (await proxy.connect()).rest()).got == b""
    garbage = await proxy.connect()
    await garbage.send(b"\x00garbage\r\n\r\n")
    await garbage.rest()
    await eventually(lambda: len(proxy.events("connection.refused")) == 2)
    assert all(event["reason"].startswith("TLS handshake failed: ") for event in proxy.events("connection.refused"))


async def test_a_fault_at_one_caller_does_not_keep_out_the_next(
    start: StartProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls, context = speaking_tls(tmp_path)
    proxy = await start(**tls)
    with monkeypatch.context() as broken:
        broken.delattr(Seats, "take")
        assert (await (await proxy.connect()).rest()).got == b""
    assert (await ask_in_tls(proxy.port, context)).startswith(b"HTTP/1.1 200 ")
    assert proxy.events("connection.failed")[0]["error"] == "AttributeError"


async def test_the_share_of_one_address_counts_its_handshakes(start: StartProxy, tmp_path: Path) -> None:
    beyond = own_address()
    tls, context = speaking_tls(tmp_path)
    access = {"expose": True, "allow_clients": ["0.0.0.0/0"]}
    proxy = await start(listen=("0.0.0.0:0",), limits={"connections": 4}, access=access, **tls)
    greedy = [await proxy.connect(host=beyond) for _ in range(3)]
    assert (await greedy[0].rest()).got == b""
    await eventually(lambda: proxy.events("connection.refused"))
    assert [event["reason"] for event in proxy.events("connection.refused")] == ["closed to make room"]
    assert (await ask_in_tls(proxy.port, context)).startswith(b"HTTP/1.1 200 ")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the memory of a process from /proc")
@pytest.mark.parametrize(("attack", "each"), [("handshakes", 120 << 10), ("heads", 50 << 10), ("contents", 80 << 10)])
async def test_memory_is_bounded_however_many_callers_are_slow(
    upstream: Upstream, tmp_path: Path, attack: str, each: int
) -> None:
    """400 callers come where 100 may be; what all of them take, seen from outside, is less than `each` for those.

    And for as many as may just be on their way out.
    """
    tls, context = speaking_tls(tmp_path) if attack == "handshakes" else ({}, None)
    first = {
        "handshakes": b"\x16\x03\x01\x02\x00\x01",
        "heads": b"GET /api/x HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 15_000,
        "contents": b"POST /setup/paste HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000\r\n\r\n" + b"x" * 50_000,
    }[attack]
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(proxy_process(upstream, tmp_path, limits={"connections": 100}, **tls))
        before = proxy.memory()
        for _ in range(400):
            client = await proxy.connect()
            stack.callback(client.close)
            with suppress(OSError):  # it was ended already
                await client.send(first)
        if context is not None:
            assert (await ask_in_tls(proxy.port, context)).startswith(b"HTTP/1.1 200 ")
        else:
            client = await proxy.connect()
            stack.callback(client.close)
            assert (await client.ask("GET", "/api/x")).status == 200
        assert proxy.memory() - before < (100 + 64) * each


@pytest.mark.parametrize(("hard", "soft", "told"), [(4096, 3 * 1000 + 384, False), (512, 512, True)])
async def test_a_process_has_descriptors_for_all_its_connections_or_says_so(
    upstream: Upstream, tmp_path: Path, hard: int, soft: int, told: bool
) -> None:
    def narrow() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))

    async with proxy_process(upstream, tmp_path, before=narrow) as proxy:
        limits = (Path("/proc") / str(proxy.process.pid) / "limits").read_text()
        assert ("limits.few_descriptors" in proxy.log_file.read_text()) is told
        assert ('"connections":42,' in proxy.log_file.read_text()) is told  # and not the thousand of the settings
    assert re.search(rf"Max open files +{soft} +{hard} ", limits)


@pytest.mark.slow
async def test_a_process_with_few_descriptors_still_answers_a_probe(upstream: Upstream, tmp_path: Path) -> None:
    """Without a free descriptor, it could not even accept the connection. So there are fewer seats than asked for."""

    def narrow() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, 512))

    upstream.default = unanswered
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(proxy_process(upstream, tmp_path, before=narrow))
        for _ in range(600):
            client = await proxy.connect()
            stack.callback(client.close)
            with suppress(OSError):  # it was refused already
                await client.send(client.request("GET", "/api/x"))
        client = await proxy.connect()
        stack.callback(client.close)
        assert (await client.ask("GET", "/healthz")).status == 200
