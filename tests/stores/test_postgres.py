"""What only a database can do wrong: it is stopped, restarted, frozen and broken for real."""

import asyncio
import gc
import sys
import types
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from krebit_proxy.errors import StoreConflictError, StoreError
from krebit_proxy.stores.encryption import new_key
from krebit_proxy.stores.postgres import PostgresStore
from tests.fakes.database import Database
from tests.fakes.relay import Relay
from tests.fakes.waiting import DEADLINE, eventually
from tests.stores.conftest import Place


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(new_key())
    return path


@pytest.fixture
async def place(postgres: Database, key_file: Path) -> AsyncIterator[Place]:
    async with Place(postgres.url, key_file) as found:
        yield found


async def refused(attempt: Awaitable[object]) -> StoreError:
    with pytest.raises(StoreError) as error:
        await attempt
    return error.value


# Settings


def test_a_grant_in_a_database_must_be_encrypted(place: Place) -> None:
    with pytest.raises(StoreError, match="must be encrypted"):
        place.open(encryption_key_file=None)


@pytest.mark.parametrize("driver", ["krebit_proxy.stores.postgres"])
def test_a_missing_driver_is_said_with_the_command_that_brings_it(
    place: Place, monkeypatch: pytest.MonkeyPatch, driver: str
) -> None:
    monkeypatch.setitem(sys.modules, driver, None)
    with pytest.raises(StoreError) as error:
        place.open()

    assert error.value.hint == "Run: pip install 'krebit-proxy[postgres]'"


@pytest.mark.parametrize("address", ["postgresql://u:pa ss@h/db", "postgres://[::1", "postgresql://h/db?hunter2=1"])
def test_an_address_that_is_none_is_said_without_showing_it(place: Place, address: str) -> None:
    with pytest.raises(StoreError) as error:
        place.open(store=address)

    assert error.value.detail == "The setting `store` is not a valid PostgreSQL address."
    assert error.value.code == "misconfigured"


def test_it_says_where_it_is_without_the_password(place: Place) -> None:
    assert repr(place.open(store="postgres://u:hunter2@db.example/grants")) == (
        "<PostgresStore database grants at db.example>"
    )


async def test_where_nobody_listens_time_may_help(place: Place) -> None:
    error = await refused(place.open(store="postgresql://u:hunter2@127.0.0.1:1/db").read())

    assert error.code == "token_unavailable"
    assert "onnection" in error.detail
    assert "hunter2" not in error.detail


async def test_a_database_that_does_not_exist_is_named(place: Place) -> None:
    error = await refused(place.open(store=f"{place.store}_").read())

    assert 'database "postgres_" does not exist' in error.detail


async def test_without_the_right_to_create_tables_the_person_is_told_which_rights_are_needed(
    place: Place, postgres: Database
) -> None:
    postgres.execute("DROP ROLE IF EXISTS limited")
    postgres.execute("CREATE ROLE limited LOGIN")
    store = place.open(store=place.store.replace("postgres@", "limited@"))
    error = await refused(store.probe())

    assert error.code == "misconfigured"
    assert "CREATE on the schema" in error.hint


async def test_who_may_not_create_tables_can_use_those_that_exist(place: Place, postgres: Database) -> None:
    await place.open().probe()
    postgres.execute("DROP ROLE IF EXISTS modest")
    postgres.execute("CREATE ROLE modest LOGIN")
    postgres.execute("GRANT SELECT, INSERT, UPDATE ON krebit_proxy_grant, krebit_proxy_lock TO modest")
    try:
        store = place.open(store=place.store.replace("postgres@", "modest@"))
        await store.probe()
        await store.write(0, place.grant(1))
        await store.write(1, place.grant(2))
        postgres.execute("REVOKE UPDATE ON krebit_proxy_grant FROM modest")
        error = await refused(store.write(2, place.grant(3)))
    finally:
        postgres.execute("DROP OWNED BY modest; DROP ROLE modest")

    assert error.code == "misconfigured"
    assert "SELECT, INSERT and UPDATE" in error.hint


async def test_many_that_start_together_create_the_tables_once(place: Place) -> None:
    assert await asyncio.gather(*(place.open().read() for _ in range(8))) == [None] * 8


# What lies in the tables


async def test_a_plain_record_in_a_database_was_not_written_by_us(place: Place, postgres: Database) -> None:
    store = place.open()
    await store.write(0, place.grant(1))
    postgres.execute("""UPDATE krebit_proxy_grant SET content = '{"v": 1}'""")

    assert "not encrypted" in (await refused(store.read())).detail


async def test_nothing_of_the_grant_can_be_read_in_a_dump(place: Place, postgres: Database) -> None:
    await place.open().write(0, place.grant(1))
    dump = str(postgres.execute("SELECT * FROM krebit_proxy_grant"))

    assert "acme/app" in dump
    assert "access-1" not in dump
    assert "refresh-1" not in dump


@pytest.mark.parametrize("change", ["generation = 7", "id = 'globex/app'"])
async def test_a_record_under_another_number_or_name_is_refused(place: Place, postgres: Database, change: str) -> None:
    await place.open().write(0, place.grant(1))
    postgres.execute(f"UPDATE krebit_proxy_grant SET {change}")
    store = place.open(organization="globex" if "globex" in change else "acme")

    assert "another place" in (await refused(store.read())).detail


# A lock that can be lost


async def test_a_lost_lock_is_noticed_before_a_token_is_spent(place: Place, postgres: Database) -> None:
    one, two = place.open(), place.open()
    await one.lock(5)
    await one.confirm_lock()
    assert postgres.terminate("state = 'idle in transaction'") == 1

    await two.lock(5)
    error = await refused(one.confirm_lock())
    assert "lost its lock" in error.detail
    assert error.code == "token_unavailable"


async def test_a_result_is_written_even_when_the_lock_is_lost(place: Place, postgres: Database) -> None:
    store = place.open()
    await store.write(0, place.grant(1))
    await store.lock(5)
    postgres.terminate("state = 'idle in transaction'")
    await store.write(1, place.grant(2))

    assert await store.read() == place.grant(2)
    await refused(store.confirm_lock())


async def test_defaults_of_the_database_do_not_take_the_lock_away(place: Place, postgres: Database) -> None:
    one, two = place.open(), place.open()
    limits = ("idle_in_transaction_session_timeout", "statement_timeout", "transaction_timeout", "lock_timeout")
    for limit in limits:
        postgres.execute(f"ALTER SYSTEM SET {limit} = '200ms'")
    postgres.execute("SELECT pg_reload_conf()")
    try:
        await one.lock(5)
        waiting = asyncio.ensure_future(two.lock(10))
        bystander = psycopg.connect(postgres.url)
        bystander.execute("SELECT 1")  # begins a transaction, which these limits end
        gone = f"SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM pg_stat_activity WHERE pid = {bystander.info.backend_pid})"
        await eventually(lambda: postgres.execute(gone))
        bystander.close()
        await one.confirm_lock()
        assert not waiting.done()
    finally:
        for limit in limits:
            postgres.execute(f"ALTER SYSTEM RESET {limit}")
        postgres.execute("SELECT pg_reload_conf()")
    await one.unlock()
    await waiting


async def test_a_strict_default_isolation_is_not_in_the_way(place: Place, postgres: Database) -> None:
    postgres.execute("ALTER SYSTEM SET default_transaction_isolation = 'serializable'")
    postgres.execute("SELECT pg_reload_conf()")
    try:
        await place.open().write(0, place.grant(1))
        writes = [place.open().write(1, place.grant(2)) for _ in range(6)]
        results = await asyncio.gather(*writes, return_exceptions=True)
    finally:
        postgres.execute("ALTER SYSTEM RESET default_transaction_isolation")
        postgres.execute("SELECT pg_reload_conf()")

    assert [type(result) for result in results if result] == [StoreConflictError] * 5


# Servers that stop, restart, freeze, or take no writes


async def test_a_restart_is_not_noticed_by_who_reads_and_writes(place: Place, postgres: Database) -> None:
    store = place.open()
    await store.write(0, place.grant(1))
    await store.lock(5)
    postgres.restart()

    await store.write(1, place.grant(2))
    assert await store.read() == place.grant(2)
    await refused(store.confirm_lock())
    await store.lock(5)
    await store.confirm_lock()


async def test_a_stopped_server_is_an_error_until_it_is_started(place: Place, postgres: Database) -> None:
    store = place.open()
    await store.write(0, place.grant(1))
    postgres.stop()
    try:
        for attempt in (store.read, lambda: store.lock(1), lambda: store.write(1, place.grant(2))):
            assert (await refused(attempt())).code == "token_unavailable"
    finally:
        postgres.start()

    assert await store.read() == place.grant(1)


async def test_a_frozen_server_stops_nobody(place: Place, postgres: Database) -> None:
    connected, holding, new = (place.open() for _ in range(3))
    for store in (connected, holding, new):
        assert isinstance(store, PostgresStore)
        store.patience = 0.3
    await connected.write(0, place.grant(1))
    await holding.lock(5)
    with postgres.frozen():
        attempts: list[Awaitable[object]] = [
            connected.read(),
            holding.confirm_lock(),
            holding.write(1, place.grant(2)),
            new.lock(20),
        ]
        for attempt in attempts:
            error = await refused(attempt)
            assert error.code == "token_unavailable"
    for store in (connected, new):
        await eventually_works(store.read)
    assert await connected.read() in {place.grant(1), place.grant(2)}


async def test_who_waits_for_the_lock_of_a_frozen_server_can_be_stopped(place: Place, postgres: Database) -> None:
    one, two = place.open(), place.open()
    assert isinstance(two, PostgresStore)
    two.patience = 1
    await one.lock(5)
    waiting = asyncio.ensure_future(two.lock(60))
    both = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'krebit-proxy' HAVING count(*) = 4"
    await eventually(lambda: postgres.execute(both))
    with postgres.frozen():
        waiting.cancel()
        with pytest.raises((asyncio.CancelledError, StoreError)):
            await waiting


@types.coroutine
def cancelled_at(moment: int, work: Coroutine[Any, Any, object]) -> Generator[Any, None, bool]:
    """Does `work`, and cancels it when it gives way for the time number `moment`. Whether it came so far."""
    passed = 0
    with suppress(asyncio.CancelledError, StopIteration):
        while True:
            awaited = work.send(None)
            if passed == moment:
                if awaited is not None:
                    awaited._asyncio_future_blocking = False  # nobody waits for it any more
                awaited = work.throw(asyncio.CancelledError())
            passed += 1
            yield awaited
    return passed >= moment


@pytest.mark.parametrize("act", [PostgresStore.read, partial(PostgresStore.lock, timeout=5), PostgresStore.probe])
async def test_who_is_cancelled_at_any_moment_leaves_no_connection_open(
    place: Place, act: Callable[[PostgresStore], Coroutine[Any, Any, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a busy machine psycopg gives way even where it has nothing to wait for: right after a connection was opened.
    monkeypatch.setattr(psycopg.waiting, "MAX_BUSY_TIME", 0, raising=False)  # since 3.3
    store = place.open()
    assert isinstance(store, PostgresStore)
    with warnings.catch_warnings(record=True) as left_open:
        warnings.simplefilter("always")
        moment = 0
        while await cancelled_at(moment, act(store)):
            await store.close()
            moment += 1
        await store.close()
        gc.collect()

    assert moment > 5
    assert [str(warning.message) for warning in left_open] == []


async def test_a_server_that_takes_no_writes_is_no_place_for_a_grant(place: Place, postgres: Database) -> None:
    store = place.open()
    await store.write(0, place.grant(1))
    with postgres.read_only():
        for opened in (store, place.open()):
            error = await refused(opened.write(1, place.grant(2)))
            assert error.code == "token_unavailable"
    await store.write(1, place.grant(2))

    assert await store.read() == place.grant(2)


@pytest.mark.parametrize("cut_at", [b"UPDATE", b"COMMIT\0"])
async def test_after_a_write_whose_answer_was_lost_a_read_tells_whether_it_was_done(
    place: Place, postgres: Database, cut_at: bytes
) -> None:
    async with Relay(postgres.port) as relay:
        port = str(urlsplit(postgres.url).port)
        store = place.open(store=postgres.url.replace(port, str(relay.port)))
        await store.write(0, place.grant(1))
        relay.cut_at = cut_at
        error = await refused(store.write(1, place.grant(2)))

        assert error.code == "token_unavailable"
        assert await store.read() == place.grant(1 if cut_at == b"UPDATE" else 2)
        await store.close()


async def eventually_works(attempt: Callable[[], Awaitable[object]]) -> None:
    """Returns once `attempt` raises no StoreError."""
    async with asyncio.timeout(DEADLINE):
        while True:
            try:
                await attempt()
            except StoreError:
                await asyncio.sleep(0.02)
            else:
                return
