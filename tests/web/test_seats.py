"""Who may not call, or takes no answers, keeps nobody out; and nobody stays for ever."""

import asyncio
from contextlib import suppress
from pathlib import Path
from time import monotonic

import pytest

from tests.fakes.client import Client
from tests.fakes.door import ask
from tests.fakes.proxy import RunningProxy, StartProxy
from tests.fakes.upstream import Upstream, answer
from tests.fakes.waiting import eventually

TRICKLED = b"Content-Length: 60000"


async def keyed(start: StartProxy, folder: Path, **limits: float) -> RunningProxy:
    keys = folder / "keys"
    keys.write_text("billing:0123456789abcdef\n")
    keys.chmod(0o600)
    return await start(limits={"connections": 4, **limits}, access={"client_keys_file": keys})


async def refused_call(client: Client) -> None:
    await client.send(client.request("POST", "/api/x", TRICKLED) + b"a")


async def page_with_content(client: Client) -> None:
    await client.send(client.request("GET", "/healthz", TRICKLED) + b"a")


async def form_with_content(client: Client) -> None:
    await client.send(client.request("POST", "/setup/paste", TRICKLED, b"Expect: 100-continue"))


async def unread_answers(client: Client) -> None:
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(1):
            await client.pump(client.request("GET", "/", b"Accept: text/html") * 100, 100)


async def early_answer(client: Client) -> None:
    await client.send(client.request("GET", "/nowhere", TRICKLED) + b"a")


async def half_a_head(client: Client) -> None:
    await client.send(b"GET / HTTP/1.1\r\nHost")


async def nothing(_client: Client) -> None:
    pass


@pytest.mark.parametrize(
    "attack",
    [refused_call, page_with_content, form_with_content, unread_answers, early_answer, half_a_head, nothing],
)
async def test_who_may_not_call_keeps_nobody_out(start: StartProxy, tmp_path: Path, attack: object) -> None:
    proxy = await keyed(start, tmp_path)
    assert callable(attack)
    await asyncio.gather(*[attack(await proxy.connect(receive_buffer=4096)) for _ in range(4)])

    for _ in range(6):
        assert (await ask(proxy, "GET", "/api/x", b"X-Api-Key: 0123456789abcdef")).status == 200


async def test_a_reader_that_takes_nothing_makes_room_after_a_second(start: StartProxy, upstream: Upstream) -> None:
    upstream.script = [answer(content=bytes(32 << 20))] * 2 + [answer()] * 10
    proxy = await start(limits={"connections": 2})
    slow = [await proxy.connect(receive_buffer=4096) for _ in range(2)]
    for client in slow:
        await client.send(client.request("GET", "/api/x"))
        await client.head()

    for _ in range(50):  # what makes it slow is that it takes nothing for a second
        if (await ask(proxy, "GET", "/api/x")).status == 200:
            break
        await asyncio.sleep(0.1)
    await eventually(lambda: proxy.events("request.done"))
    assert "overloaded" in [event.get("code") for event in proxy.events("request.done")]


async def test_refused_connections_make_room_before_idle_ones(start: StartProxy, tmp_path: Path) -> None:
    proxy = await keyed(start, tmp_path, connections=2)
    idle, refused = await proxy.connect(), await proxy.connect()
    await idle.ask("GET", "/healthz")
    await refused.send(refused.request("POST", "/api/x", TRICKLED) + b"a")
    assert (await refused.response()).status == 401

    assert (await ask(proxy, "GET", "/healthz")).status == 200
    assert (await refused.rest()).got == b""
    await idle.still_open()


async def test_a_page_that_made_room_says_that_its_content_was_late(start: StartProxy) -> None:
    proxy = await start(limits={"connections": 1})
    slow = await proxy.connect()
    await form_with_content(slow)
    assert (await slow.head()).status == 100

    assert (await ask(proxy, "GET", "/healthz")).status == 200
    assert (await slow.response()).code == "request_timeout"


async def test_after_a_refusal_a_caller_that_trickles_has_two_seconds(start: StartProxy, tmp_path: Path) -> None:
    proxy = await keyed(start, tmp_path)
    client = await proxy.connect()
    await refused_call(client)
    assert (await client.response()).status == 401
    began = monotonic()

    async def trickle() -> None:
        with suppress(OSError):
            while True:
                await client.send(b"a")
                await asyncio.sleep(0.1)

    trickling = asyncio.ensure_future(trickle())
    assert (await client.rest()).got == b""
    trickling.cancel()
    # Two seconds to send the rest of it, two to see the answer, and the looks of the clock.
    assert monotonic() - began < 8


async def test_a_caller_that_sends_quickly_may_finish_before_it_reads_the_refusal(
    start: StartProxy, tmp_path: Path
) -> None:
    """As urllib, http.client and .NET do: they read when everything is sent."""
    proxy = await keyed(start, tmp_path)
    client = await proxy.connect()
    size = 12 << 20
    await client.send(client.request("POST", "/api/x", b"Content-Length: %d" % size))
    for _ in range(48):  # four megabytes a second, for longer than two seconds
        await client.send(bytes(size // 48))
        await asyncio.sleep(0.06)

    got = await client.response()
    assert (got.status, got.closes) == (401, True)


async def test_content_for_a_page_has_its_time_in_all_and_not_for_each_byte(start: StartProxy) -> None:
    proxy = await start(limits={"body_timeout": 0.5})
    client = await proxy.connect()
    await client.send(client.request("POST", "/setup/paste", TRICKLED))

    async def trickle() -> None:
        with suppress(OSError):
            while True:
                await client.send(b"a")
                await asyncio.sleep(0.05)

    trickling = asyncio.ensure_future(trickle())
    assert (await client.response()).code == "request_timeout"
    trickling.cancel()
