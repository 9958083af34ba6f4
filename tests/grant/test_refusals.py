"""A dead refresh token in other words than invalid_grant: what is believed at once, what when it comes twice."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from krebit_proxy.program import Proxy
from tests.fakes.client import Response
from tests.fakes.door import ask
from tests.fakes.proxy import RunningProxy, StartProxy, running_proxy
from tests.fakes.resource_server import ResourceServer
from tests.fakes.token_answers import NEVER_A_VERDICT, SOFT, VERDICTS, Said
from tests.fakes.upstream import Upstream
from tests.fakes.waiting import DEADLINE, eventually
from tests.grant.conftest import readiness, status_of

EXPIRED = {"expires_in": -5, "lifetime": 3600}


def of_each(table: dict[str, Said]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("said", [pytest.param(said, id=name) for name, said in table.items()])


async def setup_page(proxy: RunningProxy) -> int:
    """303 while setup is open, 410 while it is closed."""
    return (await ask(proxy, "GET", "/setup", b"Accept: text/html")).status


async def told_to_authorize_again(proxy: RunningProxy) -> Response:
    """What a caller gets, once that is what it gets."""
    end = asyncio.get_running_loop().time() + DEADLINE
    got = await ask(proxy, "GET", "/api/invoices/1")
    while got.code != "reauthorization_required":
        assert got.status == 503
        assert asyncio.get_running_loop().time() < end, "it is never said"
        await asyncio.sleep(0.05)  # the pace of a tool that tries again
        got = await ask(proxy, "GET", "/api/invoices/1")
    return got


def detail(got: Response) -> str:
    return str(json.loads(got.content)["detail"])


@of_each(VERDICTS)
async def test_its_names_are_a_verdict_at_once(
    start_proxy: StartProxy, upstream: Upstream, api: ResourceServer, said: Said
) -> None:
    upstream.tokens.always = said.response()
    proxy = await start_proxy(grant=EXPIRED)
    got = await ask(proxy, "GET", "/api/invoices/1")

    assert (got.status, got.code) == (503, "reauthorization_required")
    assert upstream.tokens.presented == ["refresh-1"]
    assert await setup_page(proxy) == 303
    assert said.shows in detail(got)
    assert said.shows in (await status_of(proxy))["detail"]
    assert said.shows in proxy.written()


@pytest.mark.slow
@of_each(SOFT)
async def test_a_definite_refusal_that_comes_twice_opens_setup_and_shows_the_servers_words(
    start_proxy: StartProxy,
    upstream: Upstream,
    api: ResourceServer,
    webhook: tuple[str, list[dict[str, Any]]],
    said: Said,
) -> None:
    address, alarms = webhook
    upstream.tokens.always = said.response()
    proxy = await start_proxy(grant=EXPIRED, notify={"webhook": address, "after": 0.1})
    first = await ask(proxy, "GET", "/api/invoices/1")
    if len(upstream.tokens.requests) == 1:
        assert (first.status, first.code) == (503, "token_unavailable")
        assert await setup_page(proxy) == 410
    got = await told_to_authorize_again(proxy)

    times = upstream.tokens.times
    assert len(times) >= 2
    assert times[-1] - times[0] >= 2
    assert set(upstream.tokens.presented) == {"refresh-1"}
    assert await setup_page(proxy) == 303
    assert said.shows in detail(got)
    assert said.shows in (await status_of(proxy))["detail"]
    assert said.shows in proxy.written()
    status, document = await readiness(proxy)
    assert (status, document["code"]) == (503, "reauthorization_required")
    await eventually(
        lambda: [a for a in alarms if a["code"] == "reauthorization_required" and a["setup_url"]],
        what="the alarm with the link",
    )


@pytest.mark.slow
async def test_a_definite_refusal_of_a_suspected_token_counts_as_well(
    start_proxy: StartProxy, upstream: Upstream, api: ResourceServer
) -> None:
    api.shut = True
    upstream.tokens.always = SOFT["league, 400"].response()
    proxy = await start_proxy()
    await told_to_authorize_again(proxy)
    assert upstream.tokens.times[-1] - upstream.tokens.times[0] >= 2
    assert await setup_page(proxy) == 303


@pytest.mark.slow
async def test_a_soft_verdict_is_lifted_by_a_success(
    start_proxy: StartProxy, upstream: Upstream, api: ResourceServer
) -> None:
    upstream.tokens.always = SOFT["league, 400"].response()
    proxy = await start_proxy(grant=EXPIRED)
    await told_to_authorize_again(proxy)
    upstream.tokens.always = None
    asked = len(upstream.tokens.requests)
    await eventually(lambda: len(upstream.tokens.requests) > asked, what="the token is presented again", deadline=90)

    assert (await ask(proxy, "GET", "/api/invoices/1")).status == 200
    assert await setup_page(proxy) == 410
    assert (await readiness(proxy))[0] == 200
    assert (await status_of(proxy))["code"] is None
    assert set(upstream.tokens.presented) == {"refresh-1"}


@pytest.mark.slow
async def test_a_soft_verdict_is_not_stored(upstream: Upstream, api: ResourceServer, tmp_path: Path) -> None:
    upstream.tokens.always = SOFT["league, 401"].response()
    async with running_proxy(upstream, tmp_path, grant=EXPIRED) as proxy:
        await told_to_authorize_again(proxy)
        settings = proxy.settings
    upstream.tokens.always = None
    again = RunningProxy(Proxy(settings), settings, proxy.output)
    await again.proxy.start()
    try:
        assert (await ask(again, "GET", "/api/invoices/1")).status == 200
    finally:
        await again.stop()


@pytest.mark.slow
async def test_while_the_access_token_is_accepted_nobody_is_called(
    start_proxy: StartProxy, upstream: Upstream, api: ResourceServer
) -> None:
    upstream.tokens.always = SOFT["league, 400"].response()
    proxy = await start_proxy(grant={"expires_in": 200, "lifetime": 3600})
    times = upstream.tokens.times
    await eventually(lambda: times and times[-1] - times[0] >= 2, what="it was refused twice")
    assert (await ask(proxy, "GET", "/api/invoices/1")).status == 200
    assert (await status_of(proxy))["code"] != "reauthorization_required"
    assert await setup_page(proxy) == 410


@pytest.mark.slow
@of_each(NEVER_A_VERDICT)
async def test_what_is_no_refusal_of_the_token_never_becomes_one(
    start_proxy: StartProxy, upstream: Upstream, api: ResourceServer, said: Said
) -> None:
    upstream.tokens.always = said.response()
    proxy = await start_proxy(grant=EXPIRED)
    client_error = "client" in str(said.document)
    times = upstream.tokens.times
    if not client_error:  # that is tried once a minute
        await eventually(lambda: times and times[-1] - times[0] >= 2, what="it was asked twice")
    got = await ask(proxy, "GET", "/api/invoices/1")
    assert (got.status, got.code) == (503, "misconfigured" if client_error else "token_unavailable")
    assert await setup_page(proxy) == 410
