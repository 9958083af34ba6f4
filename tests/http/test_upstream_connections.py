"""Connections to the upstream on a bad day: its address changes, it restarts, they die without a word."""

import asyncio
import ctypes
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fakes.certificates import Authority
from tests.fakes.client import Client
from tests.fakes.proxy import RunningProxy, StartProxy, proxy_process
from tests.fakes.silence import needs_silence, revive, silence
from tests.fakes.upstream import Call, Step, Upstream, answer, response
from tests.fakes.waiting import DEADLINE, eventually

LONG = 4 * DEADLINE  # a response_timeout that no test may wait for


# Its address changes


def with_own_hosts(file: Path) -> Callable[[], None]:
    """For the child process: `file` is its /etc/hosts, and nobody else's."""
    libc = ctypes.CDLL(None, use_errno=True)
    new_namespace, bind, recursive_private = 0x20000, 4096, (1 << 18) | 16384

    def enter() -> None:
        for failed in (
            libc.unshare(new_namespace),
            libc.mount(b"none", b"/", None, recursive_private, None),
            libc.mount(os.fsencode(file), b"/etc/hosts", None, bind, None),
        ):
            if failed:
                raise OSError(ctypes.get_errno(), "no mount namespace")

    return enter


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root may mount another /etc/hosts")
async def test_a_change_in_dns_is_noticed_while_the_old_server_still_answers(
    tmp_path: Path, authority: Authority
) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 krebit.test\n")
    context = authority.server("krebit.test")
    async with Upstream(context) as old, Upstream(context, host="127.0.0.2", port=old.port) as new:
        settings = {"url": f"https://krebit.test:{old.port}", "ca_file": str(authority.ca_file), "max_age": 2}
        async with proxy_process(old, tmp_path, before=with_own_hosts(hosts), upstream=settings) as proxy:
            client = await proxy.connect()
            await client.ask("GET", "/api/x")
            hosts.write_text("127.0.0.2 krebit.test\n")
            loop = asyncio.get_running_loop()
            end = loop.time() + DEADLINE
            while not new.calls:
                assert loop.time() < end, f"it went on with the old address for {len(old.calls)} calls"
                assert (await client.ask("GET", "/api/x")).status == 200
            await old.connections[0].gone()  # its connection is closed, too
            client.close()


# It restarts


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_restart_of_the_upstream_is_waited_for(
    start_proxy: StartProxy, upstream: Upstream, method: str
) -> None:
    proxy = await start_proxy(upstream={"connect_timeout": DEADLINE})
    client = await proxy.connect()
    await client.ask("GET", "/api/first")
    await upstream.shut()
    await client.send(client.request(method, "/api/second", content=b"hello" if method == "POST" else b""))
    await asyncio.sleep(0.5)
    async with upstream:
        assert (await client.response()).content == b"ok"

    assert [call.method for call in upstream.calls] == [b"GET", method.encode()]


async def test_readiness_does_not_depend_on_an_upstream_that_is_away(
    start_proxy: StartProxy, upstream: Upstream
) -> None:
    proxy = await start_proxy(upstream={"connect_timeout": DEADLINE})
    await upstream.shut()
    waiting, client = await proxy.connect(), await proxy.connect()
    await waiting.send(waiting.request("GET", "/api/x"))

    assert (await client.ask("GET", "/readyz")).status == 200


# Connections die without a word


async def silenced(proxy: RunningProxy, upstream: Upstream) -> Client:
    """A client, once the connection to the upstream that has served it is dead."""
    client = await proxy.connect()
    assert (await client.ask("GET", "/api/first")).content == b"ok"
    silence(upstream.connections[0].writer.get_extra_info("socket"))
    return client


@needs_silence
@pytest.mark.slow
@pytest.mark.parametrize("method", ["GET", "PUT"])
async def test_the_first_call_after_a_silent_death_does_not_pay_the_whole_time_out(
    start_proxy: StartProxy, upstream: Upstream, method: str
) -> None:
    proxy = await start_proxy(upstream={"response_timeout": LONG})
    client = await silenced(proxy, upstream)
    got = await client.ask(method, "/api/second", content=b"hello" if method == "PUT" else b"")

    assert got.content == b"ok"
    assert [call.target for call in upstream.calls] == [b"/api/first", b"/api/second"]
    metrics = await client.ask("GET", "/metrics")
    assert b'krebit_proxy_retries_total{outcome="done"} 1.0' in metrics.content


@needs_silence
@pytest.mark.slow
async def test_a_connection_that_comes_back_first_answers(start_proxy: StartProxy, upstream: Upstream) -> None:
    released = asyncio.Event()

    async def held(call: Call) -> None:
        await released.wait()
        await call.send(response(content=b"second"))

    proxy = await start_proxy(upstream={"response_timeout": 8})
    client = await silenced(proxy, upstream)
    upstream.script = [held, answer(content=b"first")]
    await client.send(client.request("GET", "/api/second"))
    await upstream.called(2)
    revive(upstream.connections[0].writer.get_extra_info("socket"))
    got = await client.response()
    released.set()

    assert got.content == b"first"
    assert [call.connection.number for call in upstream.calls] == [1, 2, 1]
    await asyncio.wait_for(upstream.connections[1].ended.wait(), DEADLINE)
    await client.still_open()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_slow_answer_is_asked_for_once(start_proxy: StartProxy, upstream: Upstream, method: str) -> None:
    async def slow(call: Call) -> None:
        await call.read()
        await asyncio.sleep(2.5)  # by far longer than the patience with a dead connection
        await call.send(response(content=b"late"))

    proxy = await start_proxy(upstream={"response_timeout": 4})
    client = await proxy.connect()
    await client.ask("GET", "/api/first")
    upstream.script = [slow]
    got = await client.ask(method, "/api/second", content=b"hello" if method == "POST" else b"")

    assert got.content == b"late"
    assert len(upstream.calls) == 2


@needs_silence
@pytest.mark.slow
@pytest.mark.parametrize("last", [True, False], ids=["answers", "fails"])
async def test_a_failing_request_is_seen_twice_at_most(start_proxy: StartProxy, upstream: Upstream, last: bool) -> None:
    async def hang_up(call: Call) -> None:
        call.connection.close()

    steps: list[Step] = [hang_up, answer() if last else hang_up]
    proxy = await start_proxy(upstream={"response_timeout": 8})
    client = await silenced(proxy, upstream)
    upstream.script = steps
    await client.send(client.request("GET", "/api/second"))
    await upstream.called(2)
    revive(upstream.connections[0].writer.get_extra_info("socket"))
    got = await client.response()

    assert (got.status, got.code) == ((200, "") if last else (502, "upstream_unreachable"))
    await eventually(lambda: len(upstream.calls) == 3)
    assert upstream.opened == 2
