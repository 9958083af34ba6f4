"""Real proxies that share one store: stopped and continued, killed and started again, with their database restarted."""

import asyncio
import logging
import random
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from krebit_proxy.sandbox import Options, Sandbox
from krebit_proxy.sandbox.visitor import Visitor
from krebit_proxy.stores.encryption import new_key
from tests.fakes.command import run, running
from tests.fakes.fleet import Fleet, fleet
from tests.fakes.pooler import needs_pooler
from tests.fakes.waiting import eventually
from tests.stores.conftest import Place
from tests.stores.site import Site

pytestmark = pytest.mark.slow

_log = logging.getLogger(__name__)  # --log-cli-level=INFO shows the figures


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    """A server with a grace time: on one without, a kill between its answer and our write costs the grant."""
    running = Sandbox(Options(rotation="grace", organization="acme"))
    await running.start()
    yield running
    await running.stop()


@pytest.fixture(params=["file", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    key_file = tmp_path / "keys"
    key_file.touch(0o600)
    key_file.write_text(new_key())
    if request.param == "file":
        return Place(f"file:{tmp_path / 'grant'}")
    database = request.getfixturevalue("postgres")
    if request.param == "pooler":
        return Place(request.getfixturevalue("running_pooler").address(), key_file)
    return Place(database.url, key_file)


@dataclass
class Load:
    """What came of a time of load."""

    proxies: Fleet
    seconds: float  # with the start of the proxies
    generations: int  # how many came since the start
    token_requests: int

    def __str__(self) -> str:
        return (
            f"{self.seconds:.0f} s: {dict(self.proxies.results)} calls, {self.proxies.broken} tried again, "
            f"{self.generations} generations, {self.token_requests} token requests"
        )


@pytest.fixture
def site(place: Place, sandbox: Sandbox) -> Site:
    return Site(place, sandbox)


async def test_a_process_that_was_stopped_over_the_expiry_gets_a_fresh_token_for_the_next_call(
    site: Site, sandbox: Sandbox, tmp_path: Path
) -> None:
    sandbox.faults.token_lifetime = 6
    place = await site.grant("acme")
    async with fleet(site.settings(place), tmp_path, 1) as proxies:
        [proxy] = proxies.members
        assert (await proxies.get(proxy, "/api/me"))[0] == 200
        expires = time.time() + 6
        assert proxy.running is not None
        proxy.running.process.send_signal(signal.SIGSTOP)
        before = sandbox.counters["refreshes"]
        sandbox.faults.token_lifetime = 3600
        await eventually(lambda: time.time() > expires, deadline=20)
        calls = [asyncio.ensure_future(proxies.get(proxy, "/api/me")) for _ in range(20)]
        proxy.running.process.send_signal(signal.SIGCONT)

        assert {status for status, _ in await asyncio.gather(*calls)} == {200}
    assert sandbox.counters["refreshes"] == sandbox.counters["token_requests"] == before + 1
    assert sandbox.counters["api_unauthorized"] == 0  # no call was sent with the token that had expired


async def load(
    site: Site, folder: Path, seconds: float, harm: Callable[[Fleet], Awaitable[None]] | None = None
) -> Load:
    """Four proxies under load, with tokens of three seconds, `harm` being done all the time."""
    site.sandbox.faults.token_lifetime = 3
    place, start = await site.grant("acme", left=3), time.monotonic()
    async with fleet(site.settings(place), folder, 4) as proxies, proxies.under_load():
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            await (harm(proxies) if harm else asyncio.sleep(seconds))
    took = time.monotonic() - start
    store = place.open()
    grant = await store.read()
    await store.close()
    assert grant is not None
    assert grant.verdict is None
    return Load(proxies, took, grant.generation - 1, site.sandbox.counters["token_requests"])


@pytest.mark.parametrize("place", ["file", "postgres", pytest.param("pooler", marks=needs_pooler)], indirect=True)
async def test_four_proxies_under_load_refresh_once_for_each_expiry_and_fail_no_call(
    site: Site, tmp_path: Path, effort: Callable[[int, int], int]
) -> None:
    done = await load(site, tmp_path, effort(4, 60))
    _log.info("%s", done)

    assert set(done.proxies.results) == {200}
    assert done.proxies.broken == 0
    assert done.token_requests == done.generations
    assert 0 < done.generations <= done.seconds / 1.5 + 1  # a token of three seconds is renewed at half its life


async def test_no_call_fails_while_proxies_are_killed_and_the_database_restarts(
    site: Site, tmp_path: Path, effort: Callable[[int, int], int], request: pytest.FixtureRequest
) -> None:
    dice, kills, restarts = random.Random(11), 0, 0
    database = None if site.place.store.startswith("file:") else request.getfixturevalue("postgres")

    async def harm(proxies: Fleet) -> None:
        nonlocal kills, restarts
        await asyncio.sleep(dice.uniform(0.2, 1.5))
        member = dice.choice(proxies.members)
        await member.kill()
        kills += 1
        if database is not None and kills % 3 == 2:
            await asyncio.to_thread(database.restart)
            restarts += 1
        await member.start()

    done = await load(site, tmp_path, effort(6, 60), harm)
    _log.info("%s, %d kills, %d restarts", done, kills, restarts)

    assert set(done.proxies.results) == {200}
    # Each kill can lose the answer to one request, which the next holder has to ask for again.
    assert done.generations <= done.token_requests <= done.generations + kills


async def test_a_setup_and_a_logout_are_seen_by_every_proxy_and_interrupt_nobody(site: Site, tmp_path: Path) -> None:
    async with fleet(site.settings(site.place), tmp_path, 3) as proxies:
        folder = tmp_path / "proxy-0"  # where settings are
        await proxies.everywhere(lambda _, told: told["code"] == "setup_required")
        await set_up(folder)
        await proxies.everywhere(lambda status, told: (status, told["generation"]) == (200, 1))
        async with proxies.under_load():
            await set_up(folder)
            await proxies.everywhere(lambda status, told: (status, told["generation"]) == (200, 2))
        assert set(proxies.results) == {200}
        assert (await run("logout", folder=folder)).status == 0
        await proxies.everywhere(lambda _, told: told["code"] == "setup_required")


async def set_up(folder: Path) -> None:
    """A person authorizes with a command of its own."""
    async with running("setup", "--no-browser", folder=folder) as setup, Visitor() as visitor:
        link = next(line for line in (await setup.until("Address: ")).splitlines() if "response_type" in line)
        setup.type(await visitor.consent(link.strip(), "allow"))
        done = await setup.finished()
        assert done.status == 0, done.err
