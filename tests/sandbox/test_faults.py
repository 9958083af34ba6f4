import asyncio
from typing import Any

import pytest
from aiohttp import ClientError, ClientSession

from krebit_proxy.sandbox import Order
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
    ],
)
async def test_an_order_that_makes_no_sense_says_so_and_changes_nothing(app: App, content: str, says: str) -> None:
    async with app.http.post(f"{app.sandbox.url}/sandbox/faults", data=content) as response:
        assert response.status == 400
        assert says in await response.text()


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
        ("busy", (503, "text/html", "1")),
        ("garbage", (200, "text/html", None)),
    ],
)
async def test_a_broken_token_endpoint_spends_nothing_and_works_again(
    app: App, fault: str, answer: tuple[int, str, str | None]
) -> None:
    tokens = await app.authorized()
    await order(app, token_endpoint=fault, times=2)
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
