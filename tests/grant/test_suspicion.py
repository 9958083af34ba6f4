"""A refused token is suspected, not dead: what one 401 costs the others, and what it costs its own caller.

Nothing here counts on luck: where a rule names seconds, the test waits for them and measures with the loop's clock.
"""

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from krebit_proxy.tasks import spawn
from tests.fakes.client import Client, Response
from tests.fakes.door import ask
from tests.fakes.proxy import RunningProxy, StartProxy, proxy_process
from tests.fakes.resource_server import ACCEPTED, NOT_YOURS, REFUSED, ResourceServer, below
from tests.fakes.token_answers import whole
from tests.fakes.upstream import Call, Upstream
from tests.fakes.waiting import eventually
from tests.grant.conftest import readiness, status_of

ADMIN = "/api/admin/1"  # answers 401 where 403 is meant
MAINTENANCE = whole(503, b"<title>Maintenance</title>", "Content-Type: text/html")
LIMITED = whole(429, b"slow down", "Retry-After: 600")
INVALID_GRANT = whole(400, b'{"error":"invalid_grant"}', "Content-Type: application/json")
INVALID_CLIENT = whole(401, b'{"error":"invalid_client"}', "Content-Type: application/json")

Trouble = Callable[[Upstream], dict[str, Any]]


def answering(response: bytes) -> Trouble:
    """The token endpoint gives this answer each time."""

    def trouble(upstream: Upstream) -> dict[str, Any]:
        upstream.tokens.always = response
        return {}

    return trouble


def hanging(upstream: Upstream) -> dict[str, Any]:
    """The token endpoint never answers."""
    upstream.tokens.open.clear()
    return {}


def nobody_there(_: Upstream) -> dict[str, Any]:
    """Connections to the token endpoint are refused."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    return {"oauth": {"token_url": f"http://127.0.0.1:{port}/token"}}


TROUBLES = [
    pytest.param(answering(MAINTENANCE), "token_unavailable", id="503"),
    pytest.param(answering(LIMITED), "token_unavailable", id="429"),
    pytest.param(answering(INVALID_GRANT), "reauthorization_required", id="invalid_grant"),
    pytest.param(nobody_there, "token_unavailable", id="connection refused"),
    pytest.param(hanging, "token_unavailable", id="hanging"),
]


def as_it_came(got: Response) -> bool:
    """Whether this is the API's own 401."""
    return (got.status, got.code, got.content) == (401, "", NOT_YOURS) and got.values(b"x-of") == [b"the-api"]


async def statuses(client: Client, paths: list[str]) -> list[int]:
    """What one caller gets that asks for one after the other."""
    return [(await client.ask("GET", path)).status for path in paths]


@asynccontextmanager
async def under_way(asking: Awaitable[Response]) -> AsyncIterator[asyncio.Task[Response]]:
    """A call that is in flight meanwhile."""

    async def asked() -> Response:
        return await asking

    task = spawn(asked(), name="caller")
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def accepted_within_a_second(proxy: RunningProxy, path: str = "/api/invoices/1") -> None:
    """Our own refusals end a second after the trouble at the latest: the next probe is accepted."""
    got = await ask(proxy, "GET", path)
    if got.status != 200:
        assert got.code, "the API's own refusal, which it no longer gives"
        await asyncio.sleep(1)
        got = await ask(proxy, "GET", path)
    assert (got.status, got.content) == (200, b"yours")


# One path's 401 while no renewal is to be had


@pytest.mark.parametrize(("trouble", "code"), TROUBLES)
async def test_one_paths_401_shuts_no_other_path(
    start_proxy: StartProxy, upstream: Upstream, api: ResourceServer, trouble: Trouble, code: str
) -> None:
    api.refused = below("/api/admin")
    proxy = await start_proxy(**trouble(upstream))
    client = await proxy.connect()
    assert await statuses(client, ["/api/invoices/0"]) == [200]

    async with under_way(ask(proxy, "GET", ADMIN)) as refused:
        await eventually(lambda: api.tokens_on(ADMIN), what="the path is refused")
        others = [f"/api/invoices/{number}" for number in range(1, 31)]
        assert await statuses(client, others) == [200] * 30
        assert [api.tokens_on(path) for path in others] == [[b"token-1"]] * 30
        got = await refused
    assert as_it_came(got) or (got.status, got.code) == (503, code)
    assert (await readiness(proxy))[0] == 200
    assert (await status_of(proxy))["suspected"] is False


async def test_callers_that_come_together_all_go_on_once_one_is_accepted(
    start_proxy: StartProxy, upstream: Upstream, api: ResourceServer
) -> None:
    api.refused = below("/api/admin")
    proxy = await start_proxy(**hanging(upstream))
    assert (await ask(proxy, "GET", "/api/invoices/0")).status == 200
    async with under_way(ask(proxy, "GET", ADMIN)):
        await eventually(lambda: upstream.tokens.requests, what="a renewal is under way")
        paths = [f"/api/invoices/{number}" for number in range(1, 21)]
        got = await asyncio.gather(*(ask(proxy, "GET", path) for path in paths))
    assert [answer.status for answer in got] == [200] * 20


async def test_whoever_waits_because_of_a_401_gets_it_as_it_came_once_an_accepted_call_clears_the_token(
    start_proxy: StartProxy, upstream: Upstream, api: ResourceServer
) -> None:
    api.refused = below("/api/admin")
    proxy = await start_proxy(**hanging(upstream))
    async with under_way(ask(proxy, "POST", ADMIN, content=b"hello")) as refused:
        await eventually(lambda: upstream.tokens.requests, what="a renewal is under way")
        assert (await status_of(proxy))["suspected"] is True
        assert (await ask(proxy, "GET", "/api/invoices/1")).status == 200
        assert as_it_came(await refused)
    assert api.tokens_on(ADMIN) == [b"token-1"]
    assert (await status_of(proxy))["suspected"] is False


async def test_a_call_that_was_sent_before_the_refused_one_clears_nothing(
    start_proxy: StartProxy, upstream: Upstream, api: ResourceServer
) -> None:
    gate = asyncio.Event()

    async def slow(call: Call) -> None:
        await gate.wait()
        await ACCEPTED(call)

    upstream.script = [slow, REFUSED]
    proxy = await start_proxy(**answering(LIMITED)(upstream))
    async with under_way(ask(proxy, "GET", "/api/slow")) as before:
        await upstream.called()
        got = await ask(proxy, "GET", ADMIN)
        assert (got.status, got.code) == (503, "token_unavailable")
        assert (await readiness(proxy))[0] == 503
        gate.set()
        assert (await before).status == 200
    assert (await readiness(proxy))[0] == 503
    assert (await status_of(proxy))["suspected"] is True

    assert (await ask(proxy, "GET", "/api/invoices/1")).status == 200  # the next one at once
    assert (await readiness(proxy))[0] == 200
    assert (await status_of(proxy))["suspected"] is False


async def test_an_answer_other_than_401_is_an_accepted_call(
    start_proxy: StartProxy, upstream: Upstream, api: ResourceServer
) -> None:
    api.refused = below("/api/admin")
    proxy = await start_proxy(**answering(LIMITED)(upstream))
    assert (await ask(proxy, "GET", ADMIN)).status == 503

    async def forbidden(call: Call) -> None:
        await call.send(whole(403, b"not this one"))

    upstream.script = [forbidden]
    assert (await ask(proxy, "GET", "/api/secret")).status == 403
    assert (await status_of(proxy))["suspected"] is False


# When the renewal fails, and nothing clears the token


@pytest.mark.parametrize(
    ("trouble", "code"),
    [*TROUBLES[:4], pytest.param(answering(INVALID_CLIENT), "misconfigured", id="invalid_client")],
)
async def test_a_renewal_that_fails_is_our_answer_with_its_code_and_never_that_401(
    start_proxy: StartProxy, upstream: Upstream, api: ResourceServer, trouble: Trouble, code: str
) -> None:
    api.shut = True
    proxy = await start_proxy(**trouble(upstream))
    got = await ask(proxy, "GET", "/api/invoices/1")
    assert (got.status, got.code) == (503, code)
    if code == "token_unavailable":
        assert got.values(b"retry-after")[0].isdigit()
    status, document = await readiness(proxy)
    assert (status, document["code"]) == (503, code)
    assert (await status_of(proxy))["suspected"] is True


async def test_while_the_token_is_suspected_the_api_is_asked_once_a_second_and_one_success_opens_it_for_all(
    start_proxy: StartProxy, upstream: Upstream, api: ResourceServer
) -> None:
    api.shut = True
    proxy = await start_proxy(**answering(LIMITED)(upstream))
    client = await proxy.connect()
    loop = asyncio.get_running_loop()
    begun = loop.time()
    while loop.time() < begun + 2.5:
        got = await client.ask("GET", "/api/invoices/1")
        assert (got.status, got.code) == (503, "token_unavailable")
        await asyncio.sleep(0.02)
    assert 3 <= len(api.seen) <= 2 + loop.time() - begun  # the first call, the next at once, then one a second
    api.shut = False
    await accepted_within_a_second(proxy)
    assert await statuses(client, ["/api/invoices/1"] * 10) == [200] * 10


@pytest.mark.parametrize("trouble", [answering(INVALID_GRANT), answering(INVALID_CLIENT)], ids=["grant", "client"])
async def test_a_dead_grant_costs_the_api_no_more_than_a_call_a_second(
    start_proxy: StartProxy, upstream: Upstream, api: ResourceServer, trouble: Trouble
) -> None:
    api.shut = True
    proxy = await start_proxy(**trouble(upstream))
    clients = [await proxy.connect() for _ in range(5)]
    loop = asyncio.get_running_loop()
    begun = loop.time()

    async def insist(client: Client) -> set[int]:
        seen = set()
        while loop.time() < begun + 2:
            seen.add((await client.ask("GET", "/api/invoices/1")).status)
            await asyncio.sleep(0.01)
        return seen

    seen = set().union(*await asyncio.gather(*map(insist, clients)))
    # Of the five that came together, all were sent before anybody knew.
    assert len(api.seen) <= 5 + 1 + loop.time() - begun
    assert seen == {503}


async def test_a_person_is_called_at_once_while_the_token_serves_to_its_end_after_invalid_grant(
    start_proxy: StartProxy, upstream: Upstream, api: ResourceServer, webhook: tuple[str, list[dict[str, Any]]]
) -> None:
    address, alarms = webhook
    upstream.tokens.always = INVALID_GRANT
    proxy = await start_proxy(grant={"expires_in": 200, "lifetime": 3600}, notify={"webhook": address})
    await eventually(lambda: upstream.tokens.requests, what="a renewal ahead of the end")
    await eventually(lambda: alarms, what="the alarm, long before notify.after")
    assert (alarms[0]["event"], alarms[0]["code"]) == ("problem", "reauthorization_required")
    assert alarms[0]["setup_url"].endswith("/setup")

    assert (await ask(proxy, "GET", "/api/invoices/1")).status == 200
    status, document = await readiness(proxy)
    assert (status, document["code"]) == (200, "reauthorization_required")
    assert document["expires_at"]
    assert (await ask(proxy, "GET", "/setup", b"Accept: text/html")).status == 303


async def refused_in_a_row(proxy: RunningProxy, path: str, *, pause: float, calls: int) -> int:
    """Calls a good path again and again: how many calls in a row the proxy refused, at most."""
    most = row = 0
    for _ in range(calls):
        row = 0 if (await ask(proxy, "GET", path)).status == 200 else row + 1
        most = max(most, row)
        await asyncio.sleep(pause)
    return most


async def calls_again_and_again(proxy: RunningProxy, paths: Iterator[str], pause: float) -> None:
    """A tool that does not care about refusals."""
    for path in paths:
        await ask(proxy, "GET", path)
        await asyncio.sleep(pause)


@pytest.mark.slow
@pytest.mark.parametrize("trouble", [answering(LIMITED), answering(INVALID_GRANT)], ids=["429", "invalid_grant"])
async def test_a_busy_path_that_is_refused_does_not_take_the_turns_of_others(
    start_proxy: StartProxy, upstream: Upstream, api: ResourceServer, trouble: Trouble
) -> None:
    api.refused = below("/api/bad")
    proxy = await start_proxy(**trouble(upstream))
    assert (await ask(proxy, "GET", "/api/good")).status == 200
    busy = [spawn(calls_again_and_again(proxy, itertools.repeat(f"/api/bad{n}"), 0.2), name="busy") for n in range(2)]
    try:
        assert await refused_in_a_row(proxy, "/api/good", pause=0.7, calls=11) <= 2
    finally:
        for tool in busy:
            tool.cancel()


@pytest.mark.slow
async def test_records_of_others_without_end_do_not_keep_out_who_asks_for_his_own(
    start_proxy: StartProxy, upstream: Upstream, api: ResourceServer
) -> None:
    api.refused = below("/api/records/")
    proxy = await start_proxy()
    assert (await ask(proxy, "GET", "/api/own")).status == 200
    others = calls_again_and_again(proxy, (f"/api/records/{n}" for n in itertools.count()), 0.1)
    busy = spawn(others, name="busy")
    try:
        assert await refused_in_a_row(proxy, "/api/own", pause=0.9, calls=15) <= 2
    finally:
        busy.cancel()
    assert len(upstream.tokens.requests) <= 4


# Young tokens


@pytest.mark.slow
async def test_a_young_token_that_was_never_accepted_is_sent_again_once_it_is_two_seconds_old(
    start_proxy: StartProxy, upstream: Upstream, api: ResourceServer
) -> None:
    loop = asyncio.get_running_loop()
    issued = loop.time()
    upstream.script = [REFUSED]
    proxy = await start_proxy(grant={"expires_in": 3600, "lifetime": 3600})
    got = await ask(proxy, "POST", "/api/invoices", content=b"hello")

    assert (got.status, got.content) == (200, b"yours")
    first, second = upstream.calls
    assert first.token == second.token == b"token-1"
    assert bytes(first.content) == bytes(second.content) == b"hello"
    assert api.seen[0][3] >= issued + 2
    assert upstream.tokens.requests == []


@pytest.mark.slow
async def test_a_young_token_that_is_really_dead_is_renewed_after_all(
    start_proxy: StartProxy, upstream: Upstream, api: ResourceServer
) -> None:
    api.revoke([b"token-1"])
    proxy = await start_proxy(grant={"expires_in": 3600, "lifetime": 3600})
    first = await ask(proxy, "GET", "/api/invoices/1")
    assert first.status in {200, 401}
    await accepted_within_a_second(proxy)
    assert len(upstream.tokens.requests) == 1


async def test_a_young_token_that_was_accepted_before_is_renewed_at_once(
    start_proxy: StartProxy, upstream: Upstream, api: ResourceServer
) -> None:
    loop = asyncio.get_running_loop()
    issued = loop.time()
    proxy = await start_proxy(grant={"expires_in": 3600, "lifetime": 3600})
    assert (await ask(proxy, "GET", "/api/invoices/1")).status == 200
    api.revoke([b"token-1"])
    assert (await ask(proxy, "GET", "/api/invoices/2")).status == 200
    assert api.tokens_on("/api/invoices/2") == [b"token-1", b"token-2"]
    if loop.time() < issued + 2:  # else this machine was too slow to tell the two apart
        assert len(upstream.tokens.requests) == 1


@pytest.mark.slow
async def test_a_tool_walks_over_200_records_while_new_tokens_need_a_second_to_be_known(
    start_proxy: StartProxy, upstream: Upstream, api: ResourceServer
) -> None:
    api.lag = 1.0
    upstream.tokens.lifetime = 10  # so that it is renewed on the way, too
    proxy = await start_proxy()
    client = await proxy.connect()
    assert await statuses(client, ["/api/invoices/0"]) == [200]
    api.revoke([b"token-1"])
    seen = []
    for number in range(1, 201):
        seen += await statuses(client, [f"/api/invoices/{number}"])
        await asyncio.sleep(0.05)  # its pace
    # The call that met the revocation was replayed once, with a token that was not known yet. No other call fails.
    assert seen[0] in {200, 401}
    assert seen[1:] == [200] * 199
    assert 2 <= len(upstream.tokens.requests) <= 8


# The budget


@pytest.mark.slow
async def test_300_records_of_others_cost_at_most_four_renewals_and_no_other_path_anything(
    start_proxy: StartProxy, upstream: Upstream, api: ResourceServer
) -> None:
    api.refused = below("/api/records/")
    proxy = await start_proxy()
    client = await proxy.connect()
    for number in range(300):
        got = await client.ask("GET", f"/api/records/{number}")
        assert as_it_came(got) or (got.status, got.code) == (503, "token_unavailable"), (number, got)
        if number % 50 == 0:
            await accepted_within_a_second(proxy)
    assert len(upstream.tokens.requests) <= 4


@pytest.mark.slow
async def test_three_renewals_at_once_are_the_budget_of_the_whole_grant(
    start_proxy: StartProxy, upstream: Upstream, api: ResourceServer
) -> None:
    api.refused = below("/api/records/")
    proxy = await start_proxy()

    async def walk(letter: str) -> set[int]:
        client = await proxy.connect()
        return set(await statuses(client, [f"/api/records/{letter}{number}" for number in range(20)]))

    begun = asyncio.get_running_loop().time()
    seen = set().union(*await asyncio.gather(*map(walk, "abcde")))
    assert seen <= {401, 503}
    minutes = int((asyncio.get_running_loop().time() - begun) / 60)
    assert len(upstream.tokens.requests) <= 3 + minutes
    await accepted_within_a_second(proxy)


async def test_one_path_in_256_spellings_is_one_path(
    start_proxy: StartProxy, upstream: Upstream, api: ResourceServer
) -> None:
    api.refused = below("/api/records/7")
    letters = [(letter, f"%{ord(letter):02x}") for letter in "/records"]
    spellings = [f"/api{''.join(spelt)}/7" for spelt in itertools.product(*letters)]
    spellings = [spelling for spelling in spellings if spelling.startswith("/api/")]
    spellings += [spelling.replace("/7", "/%37") for spelling in spellings]
    assert len(spellings) == 256
    client = await (await start_proxy()).connect()
    assert set(await statuses(client, spellings)) <= {401, 503}
    assert len(upstream.tokens.requests) <= 1


@pytest.mark.slow
async def test_an_api_that_refuses_everything_for_a_while_locks_nobody_out_afterwards(
    start_proxy: StartProxy, upstream: Upstream, api: ResourceServer
) -> None:
    proxy = await start_proxy()
    client = await proxy.connect()
    assert await statuses(client, ["/api/invoices/0"]) == [200]
    api.shut = True
    seen = await statuses(client, [f"/api/invoices/{number}" for number in range(1, 101)])
    assert set(seen) <= {401, 503}
    assert len(upstream.tokens.requests) <= 3
    api.shut = False
    await accepted_within_a_second(proxy)
    assert await statuses(client, [f"/api/invoices/{number}" for number in range(1, 21)]) == [200] * 20
    assert (await readiness(proxy))[0] == 200


@pytest.mark.slow
async def test_a_real_revocation_under_1000_concurrent_calls_costs_one_renewal(
    upstream: Upstream, api: ResourceServer, tmp_path: Path
) -> None:
    waiting, gate = itertools.count(1), asyncio.Event()

    async def together(call: Call) -> None:
        if next(waiting) == 1000:
            api.revoke([b"token-1"])
            gate.set()
        await gate.wait()
        await api(call)

    upstream.script = [together] * 1000
    async with proxy_process(upstream, tmp_path, limits={"connections": 2000}) as proxy:
        clients = [await proxy.connect() for _ in range(1000)]
        paths = [f"/api/invoices/{number}" for number in range(1000)]
        got = await asyncio.gather(*(client.ask("GET", path) for client, path in zip(clients, paths, strict=True)))
        for client in clients:
            client.close()
    assert [answer.status for answer in got] == [200] * 1000
    assert len(upstream.tokens.requests) == 1
    assert {token for _, token, accepted, _ in api.seen if accepted} == {b"token-2"}
