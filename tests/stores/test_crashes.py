"""SIGKILL at every step of the protocol, by the names of the steps, and at random under load."""

import asyncio
import random
import re
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

import pytest

from krebit_proxy.sandbox import Options, Sandbox
from krebit_proxy.stores.encryption import new_key
from tests.fakes.processes import Process
from tests.fakes.programs import call_all_the_time, refresh_once
from tests.fakes.waiting import eventually
from tests.stores.conftest import Place
from tests.stores.site import Site

pytestmark = pytest.mark.slow

# One refresh, step by step. Between two of them nothing happens that outlives the process.
STEPS: Final = [
    "before read",
    "after read",
    "before lock",
    "after lock",
    "before read under lock",
    "after read under lock",
    "before write intent",
    "write intent: ...",
    "after write intent",
    "before confirm lock",
    "after confirm lock",
    "before spend",
    "after spend",
    "before write tokens",
    "write tokens: ...",
    "after write tokens",
    "before unlock",
    "after unlock",
]
# What each store does within a write.
FILE: Final = ["link backup", "fsync file", "replace", "fsync folder"]
DATABASE: Final = ["update"]
# The one window that nobody can close: the server has spent the token, and its answer is not stored yet.
WINDOW: Final = {
    "after spend",
    "before write tokens",
    "write tokens: link backup",
    "write tokens: fsync file",
    "write tokens: update",  # not committed
}


def steps_of(place: Place) -> list[str]:
    parts = FILE if place.store.startswith("file:") else DATABASE
    return [step.replace("...", part) for step in STEPS for part in (parts if "..." in step else [""])]


@pytest.fixture(params=["family", "grace", "off"])
async def site(request: pytest.FixtureRequest, place: Place) -> AsyncIterator[Site]:
    """Servers that revoke everything at a second use, that have a grace time, and that never rotate."""
    sandbox = Sandbox(Options(rotation=request.param, token_lifetime=3600))
    await sandbox.start()
    yield Site(place, sandbox)
    await sandbox.stop()


@pytest.fixture(params=["file", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    key_file = tmp_path / "keys"
    key_file.write_text(new_key())
    if request.param == "postgres":
        return Place(request.getfixturevalue("postgres").url, key_file)
    return Place(f"file:{tmp_path / 'grant'}")


async def test_a_process_killed_at_any_step_costs_the_grant_in_one_window_on_strict_servers_only(site: Site) -> None:
    steps = steps_of(site.place)
    undisturbed = await site.grant("undisturbed")
    process = Process(refresh_once, site.plain(undisturbed), None)
    assert await process.heard() == steps
    assert await process.ended() == 0
    assert await site.outcome(undisturbed) == "kept"
    few = asyncio.Semaphore(3)

    async def lost(number: int, step: str) -> bool:
        async with few:
            place = await site.grant(f"killed-{number}")
            process = Process(refresh_once, site.plain(place), step)
            pid = process.pid
            assert await process.heard() is None
            assert await process.ended() == -signal.SIGKILL
            outcome = await site.outcome(place)
        if outcome != "kept":
            assert outcome.startswith("reauthorization_required")
            assert re.search(rf"/{pid}/\w+ probably used the token at .+, and the response was lost", outcome)
        return outcome != "kept"

    async with asyncio.TaskGroup() as group:
        results = {step: group.create_task(lost(number, step)) for number, step in enumerate(steps)}
    costly = {step for step, result in results.items() if result.result()}
    assert costly == (WINDOW & set(steps) if site.sandbox.options.rotation == "family" else set())


@pytest.mark.parametrize("site", ["grace", "strict"], indirect=True)
async def test_killing_at_random_under_load_costs_nothing_but_in_that_window(
    site: Site, effort: Callable[[int, int], int]
) -> None:
    site.sandbox.faults.token_lifetime = 1  # second: most of the time somebody refreshes
    place, dice = await site.grant("load"), random.Random(11)
    killed: set[int] = set()

    async def proxy() -> None:
        """A proxy that is killed and started again."""
        while len(killed) < effort(20, 1000):
            process = Process(call_all_the_time, site.plain(place), site.sandbox.url, 0)
            assert await process.heard() == "started"
            await asyncio.sleep(dice.uniform(0.05, 0.6))
            killed.add(process.pid)
            await process.kill()

    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(proxy())
    outcome = await site.outcome(place)

    if outcome != "kept":
        assert site.sandbox.options.rotation == "strict"
        holder = re.search(r"\S+/(\d+)/\w+ probably used the token at .+, and the response was lost", outcome)
        assert holder is not None
        assert int(holder[1]) in killed


@pytest.mark.parametrize("site", ["family"], indirect=True)
@pytest.mark.parametrize("restarts", [0, 2])
async def test_many_proxies_share_one_grant_with_one_refresh_for_each_expiry_and_no_failed_call(
    site: Site, effort: Callable[[int, int], int], restarts: int, request: pytest.FixtureRequest
) -> None:
    if restarts and site.place.store.startswith("file:"):
        pytest.skip("a file is not restarted")
    site.sandbox.faults.token_lifetime = 3  # seconds
    place = await site.grant("shared", left=2)
    processes = [Process(call_all_the_time, site.plain(place), site.sandbox.url, 60) for _ in range(4)]
    for process in processes:
        assert await process.heard() == "started"
    for _ in range(restarts):
        await next_refresh(site)
        await asyncio.to_thread(request.getfixturevalue("postgres").restart)
    await eventually(lambda: site.sandbox.counters["refreshes"] >= effort(3, 40), deadline=180)
    for process in processes:
        process.say("stop")
    results = [await process.heard() for process in processes]
    assert [await process.ended() for process in processes] == [0] * 4

    assert [set(result) for result in results] == [{"200"}] * 4
    store = place.open()
    grant = await store.read()
    await store.close()
    assert grant is not None
    # Each generation took exactly one token request, and none was refused.
    assert grant.generation - 1 == site.sandbox.counters["token_requests"] == site.sandbox.counters["refreshes"]


async def next_refresh(site: Site) -> None:
    so_far = site.sandbox.counters["refreshes"]
    await eventually(lambda: site.sandbox.counters["refreshes"] > so_far, deadline=20)
