"""A proxy whose database breaks: calls go on with the token in memory, nothing is spent without the lock."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from krebit_proxy.core.grant import Grant
from krebit_proxy.credentials import Credentials
from krebit_proxy.errors import Refused
from krebit_proxy.stores.encryption import new_key
from krebit_proxy.stores.postgres import PostgresStore
from krebit_proxy.token_endpoint import TokenEndpoint
from tests.fakes.authorization_server import HANG, AuthorizationServer
from tests.fakes.database import Database
from tests.fakes.refusals import token_after_401
from tests.fakes.waiting import eventually
from tests.stores.conftest import Place

pytestmark = pytest.mark.slow


@pytest.fixture
async def server() -> AsyncIterator[AuthorizationServer]:
    async with AuthorizationServer() as running:
        yield running


@pytest.fixture
async def place(postgres: Database, tmp_path: Path) -> AsyncIterator[Place]:
    key_file = tmp_path / "keys"
    key_file.write_text(new_key())
    async with Place(postgres.url, key_file) as found:
        yield found


def grant_of(place: Place, *, left: float) -> Grant:
    grant, now = place.grant(1), time.time()
    assert grant.tokens is not None
    return replace(grant, tokens=replace(grant.tokens, obtained_at=now + left - 3600, expires_at=now + left))


@asynccontextmanager
async def proxy(place: Place, server: AuthorizationServer, *, left: float = 3000) -> AsyncIterator[Credentials]:
    """The holder of a grant whose token has `left` seconds, with little patience for the database."""
    await place.open().write(0, grant_of(place, left=left))
    settings = place.settings(upstream={"url": server.url})
    store = place.open()
    assert isinstance(store, PostgresStore)
    store.patience = 0.5
    credentials = Credentials(settings, store, TokenEndpoint(settings))
    await credentials.start()
    try:
        yield credentials
    finally:
        await asyncio.wait_for(credentials.close(), 30)


async def rejected(credentials: Credentials) -> Refused:
    """The answer to a caller whose token the upstream did not take."""
    with pytest.raises(Refused) as refused:
        await token_after_401(credentials)
    return refused.value


async def renewed(credentials: Credentials, place: Place) -> None:
    """Waits for the next generation, and for its place in the store."""
    async with asyncio.timeout(20):
        while True:
            with suppress(Refused):
                if (await credentials.bearer()).generation == 2:
                    break  # before that, one call a second tries the token that was refused
            assert credentials.status().code in {"token_unavailable", None}  # None: the renewal is under way again
            await asyncio.sleep(0.05)
    await eventually(lambda: not credentials.status().lock_held, what="the lock is freed")
    stored = await place.open().read()
    assert stored is not None
    assert stored.generation == 2
    assert stored.intent is None


async def test_while_the_database_is_stopped_the_token_in_memory_serves_and_nothing_is_spent(
    place: Place, postgres: Database, server: AuthorizationServer
) -> None:
    async with proxy(place, server) as credentials:
        postgres.stop()
        try:
            assert (await credentials.bearer(lifetime=1000)).generation == 1
            assert credentials.current() is not None
            refused = await rejected(credentials)

            assert refused.code == "token_unavailable"
            assert refused.retry_after is not None
            assert credentials.status().store_error is not None
            assert server.requests == []
        finally:
            postgres.start()
        await renewed(credentials, place)
        assert credentials.status().store_error is None
    assert len(server.requests) == 1


async def test_a_proxy_that_starts_before_its_database_waits_for_it(
    place: Place, postgres: Database, server: AuthorizationServer
) -> None:
    settings = place.settings(upstream={"url": server.url})
    await place.open().write(0, grant_of(place, left=3000))
    postgres.stop()
    try:
        credentials = Credentials(settings, place.open(), TokenEndpoint(settings))
        await credentials.start()
        with pytest.raises(Refused) as refused:
            await credentials.bearer()
        assert refused.value.code == "token_unavailable"
    finally:
        postgres.start()
    await eventually(lambda: credentials.status().ready)
    await credentials.close()


async def test_a_frozen_database_stops_no_caller(place: Place, postgres: Database, server: AuthorizationServer) -> None:
    async with proxy(place, server) as credentials:
        with postgres.frozen():
            refused = await rejected(credentials)

            assert refused.code == "token_unavailable"
            assert "database" not in refused.detail  # callers learn that, the log tells why
            assert server.requests == []
        await renewed(credentials, place)
    assert len(server.requests) == 1


@pytest.mark.parametrize("harm", ["restarted", "frozen", "read-only", "connections ended"])
async def test_an_answer_that_meets_a_broken_database_is_served_and_then_stored(
    place: Place, postgres: Database, server: AuthorizationServer, harm: str
) -> None:
    server.script.append(HANG)
    async with proxy(place, server, left=-5) as credentials:
        asking = asyncio.ensure_future(credentials.bearer())
        await server.asked(1)
        if harm == "restarted":
            postgres.restart()
            server.release()
        elif harm == "connections ended":
            assert postgres.terminate() >= 2
            server.release()
        else:
            with postgres.frozen() if harm == "frozen" else postgres.read_only():
                server.release()
                assert (await asking).generation == 2
                assert credentials.status().ready
                assert credentials.status().store_error is not None
        assert (await asking).generation == 2
        await renewed(credentials, place)
    assert [request.form["refresh_token"] for request in server.requests] == ["refresh-1"]


async def test_a_database_without_writes_is_never_a_reason_to_spend(
    place: Place, postgres: Database, server: AuthorizationServer
) -> None:
    async with proxy(place, server) as credentials:
        with postgres.read_only():
            assert (await rejected(credentials)).code == "token_unavailable"
            assert server.requests == []
        await renewed(credentials, place)


async def test_a_lock_lost_after_the_intent_was_stored_spends_nothing(
    place: Place, postgres: Database, server: AuthorizationServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[int] = []
    real = PostgresStore.confirm_lock

    async def confirm_lock(store: PostgresStore) -> None:
        if not lost:
            lost.append(postgres.terminate("state = 'idle in transaction'"))
            assert server.requests == []
        await real(store)

    monkeypatch.setattr(PostgresStore, "confirm_lock", confirm_lock)
    async with proxy(place, server) as credentials:
        assert (await token_after_401(credentials)).generation == 2  # by the next attempt, under a lock of its own
        await renewed(credentials, place)
    assert lost == [1]
    assert len(server.requests) == 1


async def test_an_unfinished_intent_of_another_machine_gets_time_before_the_token_is_spent(
    place: Place, postgres: Database, server: AuthorizationServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PostgresStore, "intent_grace", 0.5)
    server.script.append(HANG)
    async with proxy(place, server, left=-5) as one:
        asking = asyncio.ensure_future(one.bearer())
        await server.asked(1)
        postgres.terminate("state = 'idle in transaction'")  # the lock is free, and its holder still at it
        settings = place.settings(upstream={"url": server.url})
        two = Credentials(settings, place.open(), TokenEndpoint(settings))
        two._state = replace(two._state, policy=replace(two._state.policy, holder="elsewhere/1"))
        await two.start()
        waiting = asyncio.ensure_future(two.bearer())
        await eventually(lambda: two._state.stranger)
        server.release()

        assert {(await asking).generation, (await waiting).generation} == {2}
        await two.close()
    assert len(server.requests) == 1


async def test_two_proxies_on_one_database_refresh_once(place: Place, server: AuthorizationServer) -> None:
    async with proxy(place, server, left=-5) as one:
        settings = place.settings(upstream={"url": server.url})
        two = Credentials(settings, place.open(), TokenEndpoint(settings))
        await two.start()
        bearers = await asyncio.gather(*(holder.bearer() for holder in (one, two) for _ in range(20)))
        await two.close()

    assert {bearer.generation for bearer in bearers} == {2}
    assert len(server.requests) == 1
