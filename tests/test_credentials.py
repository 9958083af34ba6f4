"""The holder of the grant, against a real file store and a real token endpoint that misbehaves."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from krebit_proxy.config import OAuth, Settings, UpstreamSettings
from krebit_proxy.core.events import Phase
from krebit_proxy.core.grant import Grant, Intent, Tokens
from krebit_proxy.core.secret import Secret
from krebit_proxy.core.token_response import NotSent, Outcome
from krebit_proxy.credentials import Bearer, Credentials
from krebit_proxy.errors import Refused, StoreError
from krebit_proxy.metrics import Metrics
from krebit_proxy.stores import Store, open_store
from krebit_proxy.token_endpoint import TokenEndpoint
from tests.fakes.authorization_server import HALF, HANG, RESET, AuthorizationServer
from tests.fakes.refusals import token_after_401
from tests.fakes.waiting import eventually


def settings_for(server: AuthorizationServer, folder: Path, *, revocation: bool = False) -> Settings:
    return Settings(
        organization="acme",
        client_id="app",
        client_secret=Secret("s3cret"),
        store=f"file:{folder / 'grant'}",
        upstream=UpstreamSettings(url=server.url, connect_timeout=2),
        oauth=OAuth(revoke_url=f"{server.url}/oauth/revoke" if revocation else None),
    )


def store_for(folder: Path) -> Store:
    return open_store(
        Settings(organization="acme", client_id="app", client_secret=Secret("s3cret"), store=f"file:{folder / 'grant'}")
    )


def tokens(*, left: float, lifetime: float = 3600, refresh: str | None = "refresh-1") -> Tokens:
    expires = time.time() + left
    return Tokens(Secret("access-1"), Secret(refresh) if refresh else None, expires - lifetime, expires)


async def stored(folder: Path, held: Tokens | None) -> None:
    store = store_for(folder)
    await store.lock(1)
    await store.write(0, Grant(1, "acme", "app", held))
    await store.close()


@asynccontextmanager
async def started(settings: Settings, folder: Path, metrics: Metrics | None = None) -> AsyncIterator[Credentials]:
    credentials = Credentials(settings, store_for(folder), TokenEndpoint(settings), metrics)
    await credentials.start()
    try:
        yield credentials
    finally:
        await asyncio.wait_for(credentials.close(), 20)


@pytest.fixture
async def server() -> AsyncIterator[AuthorizationServer]:
    async with AuthorizationServer() as running:
        yield running


async def test_a_stored_token_is_handed_out_without_waiting(server: AuthorizationServer, tmp_path: Path) -> None:
    await stored(tmp_path, tokens(left=3000))
    async with started(settings_for(server, tmp_path), tmp_path) as credentials:
        bearer = credentials.current()

        assert bearer is not None
        assert bearer.field == b"Bearer access-1"
        assert credentials.status().ready
    assert server.requests == []


async def test_without_a_grant_a_caller_is_told_to_set_up(server: AuthorizationServer, tmp_path: Path) -> None:
    async with started(settings_for(server, tmp_path), tmp_path) as credentials:
        with pytest.raises(Refused) as refused:
            await credentials.bearer()

    assert refused.value.code == "setup_required"


async def test_an_expired_token_is_renewed_once_for_a_thousand_callers(
    server: AuthorizationServer, tmp_path: Path
) -> None:
    await stored(tmp_path, tokens(left=-5))
    async with started(settings_for(server, tmp_path), tmp_path) as credentials:
        bearers = await asyncio.gather(*(credentials.bearer() for _ in range(1000)))

    assert {bearer.field for bearer in bearers} == {b"Bearer access-2"}
    assert len(server.requests) == 1
    assert server.requests[0].form == {
        "grant_type": "refresh_token",
        "refresh_token": "refresh-1",
        "client_id": "app",
        "client_secret": "s3cret",
    }


async def test_each_token_request_of_a_refresh_is_counted_by_its_outcome(
    server: AuthorizationServer, tmp_path: Path
) -> None:
    await stored(tmp_path, tokens(left=-5))
    server.script.append((500, "oops", {}))
    metrics = Metrics()
    async with started(settings_for(server, tmp_path), tmp_path, metrics) as credentials:
        await credentials.bearer()
        counted = metrics.render(credentials.status()).decode()

    assert 'krebit_proxy_refreshes_total{outcome="unclear"} 1.0' in counted
    assert 'krebit_proxy_refreshes_total{outcome="ok"} 1.0' in counted


async def test_who_waits_for_the_lock_knows_who_has_it(
    server: AuthorizationServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("krebit_proxy.core.lifecycle.LOOK_EVERY", 0.1)
    await stored(tmp_path, tokens(left=-5))
    other = store_for(tmp_path)
    await other.lock(1)
    async with started(settings_for(server, tmp_path), tmp_path) as credentials:
        await eventually(lambda: credentials._state.phase is Phase.LOCKING)
        held = await other.read()
        assert held is not None
        await other.write(1, replace(held, intent=Intent(time.time(), "x", "other/17")))

        await eventually(lambda: credentials.status().lock_holder == "other/17")
        assert credentials._state.failures == 0  # to wait is no failure
        await other.close()


async def test_two_holders_are_never_taken_for_one_even_with_the_same_host_and_process_number(
    server: AuthorizationServer, tmp_path: Path
) -> None:
    async def holder(folder: Path) -> str:
        folder.mkdir()
        await stored(folder, tokens(left=-5))
        server.script.append((500, "oops", {}))
        async with started(settings_for(server, folder), folder) as credentials:
            await eventually(lambda: credentials.status().refreshing)
            return str(credentials.status().lock_holder)

    one, two = await holder(tmp_path / "one"), await holder(tmp_path / "two")

    assert one != two
    assert f"/{os.getpid()}/" in one
    assert f"/{os.getpid()}/" in two


@pytest.mark.parametrize(
    ("fault", "requests"),
    [
        (HANG, 1),
        (RESET, 2),
        (HALF, 2),
        ((500, "oops", {}), 2),
        ((200, "<html>", {}), 2),
        ((429, "", {"Retry-After": "1"}), 2),
    ],
)
async def test_a_storm_of_callers_costs_no_more_requests_than_one(
    server: AuthorizationServer, tmp_path: Path, fault: object, requests: int
) -> None:
    await stored(tmp_path, tokens(left=3000))
    server.script.append(fault)
    async with started(settings_for(server, tmp_path), tmp_path) as credentials:
        storm = [asyncio.ensure_future(token_after_401(credentials)) for _ in range(1000)]
        await server.asked(1)
        storm += [asyncio.ensure_future(token_after_401(credentials)) for _ in range(1000)]
        server.release()
        told = await asyncio.gather(*storm, return_exceptions=True)
        refused = {answer.retry_after for answer in told if isinstance(answer, Refused)}
        assert refused <= {1}  # by a server that asks for patience
        await asyncio.sleep(1 if refused else 0)

        assert (await token_after_401(credentials)).field == b"Bearer access-2"
    assert len(server.requests) == requests


async def test_a_thousand_late_401s_cause_one_refresh(server: AuthorizationServer, tmp_path: Path) -> None:
    await stored(tmp_path, tokens(left=3000))
    async with started(settings_for(server, tmp_path), tmp_path) as credentials:
        bearers = await asyncio.gather(*(token_after_401(credentials) for _ in range(1000)))
        late = await token_after_401(credentials)

    assert {bearer.generation for bearer in [*bearers, late]} == {2}
    assert len(server.requests) == 1


async def test_an_early_refresh_delays_nobody(server: AuthorizationServer, tmp_path: Path) -> None:
    await stored(tmp_path, tokens(left=200))
    server.script.append(HANG)
    async with started(settings_for(server, tmp_path), tmp_path) as credentials:
        await server.asked(1)
        bearer = await credentials.bearer()

        assert bearer.field == b"Bearer access-1"
        server.release()


async def test_a_caller_that_leaves_does_not_cancel_the_refresh(server: AuthorizationServer, tmp_path: Path) -> None:
    await stored(tmp_path, tokens(left=-5))
    server.script.append(HANG)
    async with started(settings_for(server, tmp_path), tmp_path) as credentials:
        leaving = asyncio.ensure_future(credentials.bearer())
        staying = asyncio.ensure_future(credentials.bearer())
        await server.asked(1)
        leaving.cancel()
        server.release()

        assert (await staying).field == b"Bearer access-2"
    assert len(server.requests) == 1


async def test_when_all_callers_have_left_the_next_one_is_answered(server: AuthorizationServer, tmp_path: Path) -> None:
    await stored(tmp_path, tokens(left=-5))
    server.script.append(HANG)
    async with started(settings_for(server, tmp_path), tmp_path) as credentials:
        leaving = [asyncio.ensure_future(credentials.bearer()) for _ in range(2)]
        await server.asked(1)
        for caller in leaving:
            caller.cancel()
        await asyncio.wait(leaving)
        next_one = asyncio.ensure_future(credentials.bearer())
        server.release()

        assert (await next_one).field == b"Bearer access-2"
    assert len(server.requests) == 1


@pytest.mark.parametrize("fault", [RESET, HALF, (500, "oops", {}), (200, "<html>", {}), (408, "late", {})])
async def test_an_unclear_outcome_presents_the_same_token_again(
    server: AuthorizationServer, tmp_path: Path, fault: object
) -> None:
    await stored(tmp_path, tokens(left=-5))
    server.script.append(fault)
    async with started(settings_for(server, tmp_path), tmp_path) as credentials:
        bearer = await credentials.bearer()

    assert bearer.field == b"Bearer access-2"
    assert [request.form["refresh_token"] for request in server.requests] == ["refresh-1", "refresh-1"]


async def test_after_three_unclear_answers_callers_are_told_when_to_come_back(
    server: AuthorizationServer, tmp_path: Path
) -> None:
    await stored(tmp_path, tokens(left=-5))
    server.script.extend([(500, "", {})] * 3)
    async with started(settings_for(server, tmp_path), tmp_path) as credentials:
        with pytest.raises(Refused) as refused:
            await credentials.bearer()

        assert refused.value.code == "token_unavailable"
        assert refused.value.retry_after == 1
        assert len(server.requests) == 3


async def test_patience_is_obeyed_when_the_server_asks_for_it(server: AuthorizationServer, tmp_path: Path) -> None:
    await stored(tmp_path, tokens(left=-5))
    server.script.append((429, "", {"Retry-After": "120"}))
    async with started(settings_for(server, tmp_path), tmp_path) as credentials:
        for _ in range(3):
            with pytest.raises(Refused) as refused:
                await credentials.bearer()

        assert refused.value.retry_after == 120
    assert len(server.requests) == 1


async def test_a_refused_refresh_token_is_a_verdict_that_is_stored_and_never_deleted(
    server: AuthorizationServer, tmp_path: Path
) -> None:
    await stored(tmp_path, tokens(left=-5, refresh="unknown"))
    for _ in range(2):  # a restart changes nothing
        async with started(settings_for(server, tmp_path), tmp_path) as credentials:
            with pytest.raises(Refused) as refused:
                await credentials.bearer()

            assert refused.value.code == "reauthorization_required"
            assert "invalid_grant" in refused.value.detail
            assert not credentials.status().ready
    assert len(server.requests) == 1
    kept = await store_for(tmp_path).read()
    assert kept is not None
    assert kept.tokens is not None
    assert kept.tokens.refresh_token == Secret("unknown")


async def test_a_refused_client_keeps_everything_and_says_what_to_check(
    server: AuthorizationServer, tmp_path: Path
) -> None:
    await stored(tmp_path, tokens(left=-5))
    server.script.append((401, '{"error": "invalid_client"}', {}))
    async with started(settings_for(server, tmp_path), tmp_path) as credentials:
        for _ in range(2):
            with pytest.raises(Refused) as refused:
                await credentials.bearer()

        assert refused.value.code == "misconfigured"
        assert "client_secret" in refused.value.hint
    assert len(server.requests) == 1
    kept = await store_for(tmp_path).read()
    assert kept is not None
    assert kept.verdict is None
    assert kept.intent is None


async def test_a_token_is_never_spent_when_the_store_refuses_the_intent(
    server: AuthorizationServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stored(tmp_path, tokens(left=-5))
    store = store_for(tmp_path)

    async def full(expected: int, grant: Grant) -> None:
        raise StoreError("The disk is full.")

    monkeypatch.setattr(store, "write", full)
    settings = settings_for(server, tmp_path)
    credentials = Credentials(settings, store, TokenEndpoint(settings))
    await credentials.start()
    with pytest.raises(Refused):
        await credentials.bearer()

    assert credentials.status().store_error == "The proxy cannot use its store."
    assert server.requests == []
    await credentials.close()


async def test_two_processes_refresh_once_and_both_get_the_new_token(
    server: AuthorizationServer, tmp_path: Path
) -> None:
    await stored(tmp_path, tokens(left=-5))
    settings = settings_for(server, tmp_path)
    async with started(settings, tmp_path) as one, started(settings, tmp_path) as two:
        first, second = await asyncio.gather(one.bearer(), two.bearer())

    assert first.field == second.field == b"Bearer access-2"
    assert len(server.requests) == 1


async def test_a_new_authorization_is_served_and_survives_a_restart(
    server: AuthorizationServer, tmp_path: Path
) -> None:
    settings = settings_for(server, tmp_path)
    async with started(settings, tmp_path) as credentials:
        await credentials.authorized(tokens(left=3000))

        assert (await credentials.bearer()).generation == 1
    async with started(settings, tmp_path) as credentials:
        assert (await credentials.bearer()).field == b"Bearer access-1"


async def test_logout_revokes_forgets_and_keeps_counting(server: AuthorizationServer, tmp_path: Path) -> None:
    await stored(tmp_path, tokens(left=3000))
    async with started(settings_for(server, tmp_path, revocation=True), tmp_path) as credentials:
        await credentials.logout()

        with pytest.raises(Refused) as refused:
            await credentials.bearer()
        assert refused.value.code == "setup_required"
        assert "refresh-1" not in "".join(path.read_text() for path in (tmp_path / "grant").iterdir())
        await credentials.authorized(tokens(left=3600))
        assert (await credentials.bearer()).generation == 3
    assert server.revoked == ["refresh-1"]


async def test_an_answer_that_cannot_be_stored_is_served_from_memory_until_it_can(
    server: AuthorizationServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stored(tmp_path, tokens(left=-5))
    store = store_for(tmp_path)
    real, refusing = store.write, True

    async def failing(expected: int, grant: Grant) -> None:
        if refusing and grant.generation == 2:
            raise StoreError("The disk is full.")
        await real(expected, grant)

    monkeypatch.setattr(store, "write", failing)
    settings = settings_for(server, tmp_path)
    credentials = Credentials(settings, store, TokenEndpoint(settings))
    await credentials.start()
    bearer = await credentials.bearer()

    assert bearer.field == b"Bearer access-2"
    assert credentials.status().lock_held
    assert credentials.status().store_error == "The proxy cannot use its store."
    refusing = False
    await credentials.close()
    kept = await store_for(tmp_path).read()
    assert kept is not None
    assert kept.generation == 2


async def test_who_lost_the_lock_leaves_the_intent_of_another_alone(
    server: AuthorizationServer, tmp_path: Path
) -> None:
    await stored(tmp_path, tokens(left=-5))
    other = store_for(tmp_path)

    class OutrunEndpoint(TokenEndpoint):
        async def refresh(self, refresh_token: Secret) -> Outcome:
            next((tmp_path / "grant").glob("*.lock")).unlink()
            await other.lock(1)
            held = await other.read()
            assert held is not None
            await other.write(1, replace(held, intent=Intent(1.0, "abcdef01", "elsewhere/1")))
            return NotSent("no connection")

    settings = settings_for(server, tmp_path)
    credentials = Credentials(settings, store_for(tmp_path), OutrunEndpoint(settings))
    await credentials.start()
    with pytest.raises(Refused):
        await credentials.bearer()
    kept = await other.read()
    await other.close()
    await credentials.close()

    assert kept is not None
    assert kept.intent == Intent(1.0, "abcdef01", "elsewhere/1")


async def test_a_damaged_grant_is_told_of_and_kept_and_who_has_it_in_memory_goes_on(
    server: AuthorizationServer, tmp_path: Path
) -> None:
    await stored(tmp_path, tokens(left=3000))
    [file] = (tmp_path / "grant").glob("*.json")
    with capture_logs() as events:
        async with started(settings_for(server, tmp_path), tmp_path) as running:
            file.write_text("{")
            await eventually(lambda: running.status().store_error)  # at its next look
            assert running.current() is not None
            assert running.status().ready
            async with started(settings_for(server, tmp_path), tmp_path) as new:
                with pytest.raises(Refused) as refused:
                    await new.bearer()
            with pytest.raises(Refused):
                await token_after_401(running)  # nothing is spent on a store that cannot be read

    assert refused.value.code == "misconfigured"
    assert f"{file} is damaged" in repr(events)
    assert str(tmp_path) not in f"{refused.value.detail} {refused.value.hint}"
    assert file.read_text() == "{"
    assert server.requests == []


async def test_without_a_refresh_token_the_end_is_said_plainly(server: AuthorizationServer, tmp_path: Path) -> None:
    await stored(tmp_path, tokens(left=-5, refresh=None))
    async with started(settings_for(server, tmp_path), tmp_path) as credentials:
        with pytest.raises(Refused) as refused:
            await credentials.bearer()

    assert refused.value.code == "reauthorization_required"
    assert server.requests == []


@pytest.mark.parametrize("turns", range(4))
async def test_a_stop_ends_the_wait_for_the_lock_however_far_it_is(
    server: AuthorizationServer, tmp_path: Path, turns: int
) -> None:
    await stored(tmp_path, tokens(left=3000))
    other = store_for(tmp_path)
    await other.lock(1)
    settings = settings_for(server, tmp_path)
    credentials = Credentials(settings, store_for(tmp_path), TokenEndpoint(settings))
    await credentials.start()
    waiting = asyncio.ensure_future(token_after_401(credentials))
    while credentials._state.phase is not Phase.LOCKING:  # the very turn of the loop matters
        await asyncio.sleep(0)
    for _ in range(turns):
        await asyncio.sleep(0)
    async with asyncio.timeout(20):
        await credentials.close()
    await other.close()

    with pytest.raises(Refused):
        await waiting
    assert server.requests == []


@pytest.mark.parametrize("mistaken", ["read", "lock", "write", "refresh", "revoke"])
async def test_a_mistake_of_ours_stops_nobody_for_ever(
    server: AuthorizationServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mistaken: str
) -> None:
    await stored(tmp_path, tokens(left=3000))
    settings = settings_for(server, tmp_path, revocation=True)
    store, endpoint = store_for(tmp_path), TokenEndpoint(settings)
    owner = endpoint if mistaken in {"refresh", "revoke"} else store
    real = getattr(owner, mistaken)

    async def mistake(*_: object) -> None:
        monkeypatch.setattr(owner, mistaken, real)
        raise RuntimeError

    monkeypatch.setattr(owner, mistaken, mistake)
    async with asyncio.timeout(20):
        credentials = Credentials(settings, store, endpoint)
        await credentials.start()
        if mistaken == "revoke":
            await credentials.logout()
        else:
            for _ in range(2):
                with suppress(Refused):
                    await credentials.after_401(Bearer(1, b""))
        await credentials.close()

    assert len(server.requests) <= 1
