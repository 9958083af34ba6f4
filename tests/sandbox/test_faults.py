import asyncio
from typing import Any

import pytest
from aiohttp import ClientError, ClientSession

from krebit_proxy.sandbox import Faults, Order
from tests.fakes.waiting import eventually
from tests.sandbox.app import App
from tests.sandbox.conftest import StartSandbox


@pytest.fixture
async def app(start: StartSandbox, http: ClientSession) -> App:
    return App(await start(rotation="grace"), http)


async def order(app: App, **wanted: Any) -> dict[str, Any]:
    async with app.http.post(f"{app.sandbox.url}/sandbox/faults", json=wanted) as response:
        assert response.status == 200
        state: dict[str, Any] = await response.json()
        return state


async def test_a_form_works_as_well_as_json(app: App) -> None:
    async with app.http.post(f"{app.sandbox.url}/sandbox/faults", data={"token_lifetime": "5"}) as response:
        assert (await response.json())["faults"]["token_lifetime"] == 5
    curl = {"Content-Type": "application/x-www-form-urlencoded"}
    content = '{"token_lifetime": 7}'
    async with app.http.post(f"{app.sandbox.url}/sandbox/faults", data=content, headers=curl) as response:
        assert (await response.json())["faults"]["token_lifetime"] == 7
    assert (await app.authorized())["expires_in"] == 7


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("token_endpoint=sad", "token_endpoint"),
        ("foo=1", "foo"),
        ('{"latency": -1}', "latency"),
        ("{", "JSON"),
        ("", "revoke=access"),
        ("token_status=404", "token_status"),
        ("refusal=sorry", "invalid_request"),
        ("refusal_status=99", "refusal_status"),
        ("refresh_end=never", "sliding"),
        ("refresh_lifetime_name=ttl", "x_refresh_token_expires_in"),
        ("token_shape=xml", "authed_user"),
        ("replication_lag=nan", "replication_lag"),
        ("unauthorized_path=me", "starts with /api/"),
        ("foo=1", "replication_lag"),
    ],
)
async def test_an_order_that_makes_no_sense_says_so_and_changes_nothing(app: App, content: str, says: str) -> None:
    async with app.http.post(f"{app.sandbox.url}/sandbox/faults", data=content) as response:
        assert response.status == 400
        assert says in await response.text()
    assert app.sandbox.faults == Faults()


async def test_so_many_requests_are_answered_401_and_the_next_one_is_not(app: App) -> None:
    tokens = await app.authorized()
    await order(app, unauthorized=2)
    assert [await app.call(tokens["access_token"]) for _ in range(3)] == [401, 401, 200]


@pytest.mark.parametrize(("kind", "call", "refresh"), [("access", 401, 200), ("refresh", 200, 400), ("all", 401, 400)])
async def test_revoked_tokens_are_dead_at_once(app: App, kind: str, call: int, refresh: int) -> None:
    tokens = await app.authorized()
    await order(app, revoke=kind)
    assert await app.call(tokens["access_token"]) == call
    assert (await app.refresh(tokens["refresh_token"]))[0] == refresh


async def token_status(app: App, refresh_token: str) -> tuple[int, str, str | None]:
    form = {
        "grant_type": "refresh_token",
        "refresh_token": refresh_token,
        "client_id": app.sandbox.client_id,
        "client_secret": app.sandbox.client_secret,
    }
    async with app.http.post(f"{app.sandbox.url}/api/oauth/token", data=form) as response:
        return response.status, response.content_type, response.headers.get("Retry-After")


@pytest.mark.parametrize(
    ("fault", "answer"),
    [
        ("error", (500, "text/html", None)),
        ("busy", (503, "text/html", "600")),
        ("limited", (429, "text/html", "600")),
        ("garbage", (200, "text/html", None)),
    ],
)
async def test_a_broken_token_endpoint_spends_nothing_and_works_again(
    app: App, fault: str, answer: tuple[int, str, str | None]
) -> None:
    tokens = await app.authorized()
    await order(app, token_endpoint=fault, times=2, retry_after=600)
    for expected in (answer, answer, (200, "application/json", None)):
        assert await token_status(app, tokens["refresh_token"]) == expected
    assert app.sandbox.counters["token_faults"] == 2
    assert app.sandbox.counters["refreshes"] == 1


async def test_without_a_number_the_fault_stays_until_ok(app: App) -> None:
    tokens = await app.authorized()
    await order(app, token_endpoint="error")
    for _ in range(3):
        assert (await token_status(app, tokens["refresh_token"]))[0] == 500
    await order(app, token_endpoint="ok")
    assert (await token_status(app, tokens["refresh_token"]))[0] == 200


async def test_a_hanging_token_endpoint_never_answers_and_does_not_keep_the_sandbox_from_stopping(app: App) -> None:
    tokens = await app.authorized()
    app.sandbox.order(Order(token_endpoint="hang"))
    pending = asyncio.ensure_future(app.refresh(tokens["refresh_token"]))
    await eventually(lambda: app.sandbox.counters["token_faults"] == 1)
    assert not pending.done()
    await app.sandbox.stop()
    with pytest.raises(ClientError):
        await pending


async def test_a_lost_answer_has_spent_the_token_and_the_grace_time_gives_it_again(app: App) -> None:
    tokens = await app.authorized()
    await order(app, token_endpoint="lost", times=1)
    with pytest.raises(ClientError):
        await app.refresh(tokens["refresh_token"])
    assert app.sandbox.counters["refreshes"] == 1
    assert (await app.refresh(tokens["refresh_token"]))[0] == 200


async def test_latency_is_waited_before_each_answer_but_the_sandboxs_own(app: App) -> None:
    tokens = await app.authorized()
    await order(app, latency=3600)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(app.call(tokens["access_token"]), 0.1)
    await order(app, latency=0)
    assert await app.call(tokens["access_token"]) == 200


async def test_a_token_endpoint_that_is_away_closes_the_connection_and_spends_nothing(app: App) -> None:
    tokens = await app.authorized()
    await order(app, token_endpoint="away", times=1)
    with pytest.raises(ClientError):
        await app.refresh(tokens["refresh_token"])
    assert app.sandbox.counters["refreshes"] == 0
    assert (await app.refresh(tokens["refresh_token"]))[0] == 200


async def test_a_new_access_token_is_accepted_after_the_lag_and_the_old_one_meanwhile(app: App) -> None:
    old = await app.authorized()
    await order(app, replication_lag=0.3)
    _, new = await app.refresh(old["refresh_token"])
    assert [await app.call(tokens["access_token"]) for tokens in (old, new)] == [200, 401]
    await asyncio.sleep(0.3)
    assert await app.call(new["access_token"]) == 200


@pytest.mark.parametrize(
    ("template", "path", "status"),
    [
        ("/api/customers/{id}", "/api/customers/cus_001", 401),
        ("/api/customers/{id}", "/api/customers", 200),
        ("/api/customers/**", "/api/customers?limit=1", 401),
        ("/api/me", "/api/%6De", 401),
        ("/api/me", "/api/invoices", 200),
    ],
)
async def test_a_path_answers_401_whatever_the_token_is_until_it_is_told_otherwise(
    app: App, template: str, path: str, status: int
) -> None:
    tokens = await app.authorized()
    await order(app, unauthorized_path=template)
    assert await app.call(tokens["access_token"], path) == status
    async with app.http.post(f"{app.sandbox.url}/sandbox/faults", data={"unauthorized_path": ""}) as response:
        assert (await response.json())["faults"]["unauthorized_path"] == ""
    assert await app.call(tokens["access_token"], path) == 200


async def test_everything_answers_401_for_so_many_seconds(app: App) -> None:
    tokens = await app.authorized()
    state = await order(app, unauthorized_for=0.3)
    assert 0 < state["faults"]["unauthorized_for"] <= 0.3
    assert await app.call(tokens["access_token"]) == 401
    await asyncio.sleep(0.3)
    assert await app.call(tokens["access_token"]) == 200


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        ("invalid_grant", 400, "invalid_grant"),
        ("invalid_request", 401, "The refresh token is invalid."),
        ("bad_refresh_token", 200, "incorrect or expired"),
        ("BAD_REFRESH_TOKEN", 400, "missing or unknown refresh token"),
        ("invalid_refresh_token", 400, "not valid any more"),
        ("expired_token", 401, "errorType"),
        ("unprocessable", 422, "The given data was invalid."),
    ],
)
async def test_a_dead_refresh_token_is_refused_in_the_words_of_other_servers(
    app: App, words: str, status: int, says: str
) -> None:
    await order(app, refusal=words)
    got, answer = await app.refresh("dead")
    assert got == status
    assert says in str(answer)
    await order(app, refusal=words, refusal_status=500)
    assert (await app.refresh("dead"))[0] == 500


async def test_a_refusal_by_order_spends_nothing(app: App) -> None:
    tokens = await app.authorized()
    await order(app, token_endpoint="refuse", times=1, refusal="invalid_request")
    status, answer = await app.refresh(tokens["refresh_token"])
    assert (status, answer["error"]) == (401, "invalid_request")
    assert (await app.refresh(tokens["refresh_token"]))[0] == 200


async def test_other_refusals_stay_as_the_rfc_has_them(app: App) -> None:
    await order(app, refusal="unprocessable")
    status, answer = await app.exchange("nobody's")
    assert (status, answer["error"]) == (400, "invalid_grant")


@pytest.mark.parametrize(
    ("shape", "content_type", "begins"),
    [
        ("json", "application/json", '{"access_token"'),
        ("form", "application/x-www-form-urlencoded", "access_token="),
        ("data", "application/json", '{"ok": true, "data": {"access_token"'),
        ("authed_user", "application/json", '{"ok": true, "authed_user": {"access_token"'),
        ("notice", "text/html", "<br />"),
    ],
)
async def test_a_token_response_comes_with_another_status_type_and_shape(
    app: App, shape: str, content_type: str, begins: str
) -> None:
    tokens = await app.authorized()
    await order(app, token_shape=shape, token_status=201, token_type="jwt bearer")
    form = {
        "grant_type": "refresh_token",
        "refresh_token": tokens["refresh_token"],
        "client_id": app.sandbox.client_id,
        "client_secret": app.sandbox.client_secret,
    }
    async with app.http.post(f"{app.sandbox.url}/api/oauth/token", data=form) as response:
        assert (response.status, response.content_type) == (201, content_type)
        text = await response.text()
    assert text.startswith(begins)
    assert "jwt" in text


@pytest.mark.parametrize("name", ["refresh_expires_in", "refresh_token_expires_in", "x_refresh_token_expires_in"])
async def test_a_refresh_token_ends_when_its_told_lifetime_is_over(app: App, name: str) -> None:
    await order(app, refresh_lifetime=2, refresh_lifetime_name=name)
    tokens = await app.authorized()
    assert tokens[name] == 2
    await order(app, refresh_lifetime=0.3)
    _, tokens = await app.refresh(tokens["refresh_token"])
    await asyncio.sleep(0.3)
    status, answer = await app.refresh(tokens["refresh_token"])
    assert (status, answer["error"]) == (400, "invalid_grant")


async def test_a_lifetime_may_be_kept_and_not_told(app: App) -> None:
    await order(app, refresh_lifetime=60, refresh_lifetime_name="untold")
    assert set(await app.authorized()) == {"access_token", "token_type", "expires_in", "refresh_token"}
    async with app.http.get(f"{app.sandbox.url}/sandbox/state") as response:
        assert 50 < (await response.json())["tokens"]["refresh_token_expires_in"] <= 60
