"""What every store must do."""

import asyncio
from dataclasses import replace

import pytest

from krebit_proxy.core.grant import Grant, Intent, Verdict
from krebit_proxy.errors import StoreBusyError, StoreConflictError, StoreError
from krebit_proxy.stores import Store
from tests.fakes.processes import Process, plain
from tests.fakes.programs import hold_the_lock
from tests.stores.conftest import Place


async def test_a_new_store_holds_nothing(place: Place) -> None:
    assert await place.open().read() is None


async def test_what_one_writes_all_others_read(place: Place) -> None:
    intent, verdict = Intent(1.5, "abcdef01", "host/17"), Verdict(2.5, "The refresh token was refused.")
    grant = replace(place.grant(), intent=intent, verdict=verdict)
    await place.open().write(0, grant)

    assert await place.open().read() == grant


async def test_a_write_names_the_generation_that_it_replaces(place: Place) -> None:
    store = place.open()
    await store.write(0, place.grant(1))
    await store.write(1, place.grant(2))
    for expected in (0, 1, 3):
        with pytest.raises(StoreConflictError):
            await store.write(expected, place.grant(4))

    assert await place.open().read() == place.grant(2)


async def test_nothing_stored_is_not_a_generation_that_can_be_replaced(place: Place) -> None:
    with pytest.raises(StoreConflictError):
        await place.open().write(1, place.grant(2))


async def test_of_many_writers_one_wins(place: Place) -> None:
    await place.open().write(0, place.grant(1))

    async def attempt(number: int) -> bool:
        try:
            await place.open().write(1, place.grant(2, refresh=f"refresh-{number}"))
        except StoreConflictError:
            return False
        return True

    assert sum(await asyncio.gather(*(attempt(number) for number in range(8)))) == 1


async def test_notes_do_not_change_the_generation(place: Place) -> None:
    store = place.open()
    await store.write(0, place.grant(1))
    noted = replace(place.grant(1), intent=Intent(1.0, "abcdef01", "host/17"))
    await store.write(1, noted)
    await store.write(1, place.grant(1))

    assert await store.read() == place.grant(1)


async def test_a_logout_keeps_counting_and_forgets_the_tokens(place: Place) -> None:
    store = place.open()
    await store.write(0, place.grant(1))
    forgotten = Grant(2, place.organization, place.client_id, None)
    await store.write(1, forgotten)

    assert await store.read() == forgotten
    with pytest.raises(StoreConflictError):
        await store.write(0, place.grant(1))


async def test_one_holds_the_lock_and_others_give_up_in_time(place: Place) -> None:
    one, two = place.open(), place.open()
    await one.lock(5)
    with pytest.raises(StoreBusyError) as busy:
        await two.lock(0)

    assert busy.value.code == "token_unavailable"
    await one.confirm_lock()
    with pytest.raises(StoreError):
        await two.confirm_lock()


async def test_who_waits_gets_the_lock_when_it_is_freed(place: Place) -> None:
    one, two = place.open(), place.open()
    await one.lock(5)
    waiting = asyncio.ensure_future(two.lock(20))
    await asyncio.sleep(0)
    await one.unlock()
    await waiting

    await two.confirm_lock()


async def test_the_lock_lets_one_in_at_a_time(place: Place) -> None:
    inside = 0

    async def enter(store: Store) -> int:
        nonlocal inside
        await store.lock(20)
        inside += 1
        most = inside
        await store.read()
        inside -= 1
        await store.unlock()
        return most

    assert await asyncio.gather(*(enter(place.open()) for _ in range(4))) == [1] * 4


async def test_taking_a_lock_twice_and_freeing_it_twice_is_harmless(place: Place) -> None:
    store = place.open()
    await store.lock(5)
    await store.lock(5)
    await store.unlock()
    await store.unlock()

    await place.open().lock(5)


async def test_who_stops_waiting_does_not_get_the_lock_later(place: Place) -> None:
    one, two, three = place.open(), place.open(), place.open()
    await one.lock(5)
    waiting = asyncio.ensure_future(two.lock(20))
    with pytest.raises(StoreBusyError):
        await three.lock(0)  # by now the other one waits
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await one.unlock()

    await three.lock(5)


async def test_others_see_an_intent_while_its_holder_has_the_lock(place: Place) -> None:
    one, two = place.open(), place.open()
    await one.lock(5)
    await one.write(0, place.grant(1))

    assert await two.read() == place.grant(1)


async def test_a_killed_holder_frees_the_lock(place: Place) -> None:
    holder = Process(hold_the_lock, plain(place.settings()))
    assert await holder.heard() == "locked"
    store = place.open()
    with pytest.raises(StoreBusyError):
        await store.lock(0)
    await holder.kill()

    await store.lock(20)


async def test_closing_frees_the_lock_and_the_store_can_be_used_again(place: Place) -> None:
    one, two = place.open(), place.open()
    await one.lock(5)
    await one.close()
    await two.lock(5)

    assert await one.read() is None


async def test_a_probe_tries_everything_and_changes_nothing(place: Place) -> None:
    store = place.open()
    await store.probe()

    assert await store.read() is None
    await store.write(0, place.grant(1))
    await store.probe()
    assert await place.open().read() == place.grant(1)
    await place.open().lock(5)


async def test_a_probe_says_who_is_in_the_way(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = place.open(), place.open()
    await one.lock(5)
    real = two.lock

    async def at_once(timeout: float) -> None:
        await real(0)

    monkeypatch.setattr(two, "lock", at_once)
    with pytest.raises(StoreBusyError, match="held the lock"):
        await two.probe()


@pytest.mark.parametrize("other", [{"organization": "globex"}, {"client_id": "other"}])
async def test_each_organization_and_client_has_a_grant_and_a_lock_of_its_own(
    place: Place, other: dict[str, str]
) -> None:
    ours, theirs = place.open(), place.open(**other)
    await ours.write(0, place.grant(1))
    await ours.lock(5)
    await theirs.lock(5)

    assert await theirs.read() is None
    assert await ours.read() == place.grant(1)
