"""A refresh token with an end of its own: the grant lives on while nobody calls, and a person learns of a fixed end."""

import asyncio
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from krebit_proxy.program import Proxy
from tests.fakes.door import ask
from tests.fakes.proxy import RunningProxy, StartProxy, running_proxy
from tests.fakes.resource_server import ResourceServer
from tests.fakes.upstream import Upstream
from tests.fakes.waiting import eventually
from tests.grant.conftest import readiness, status_of

EXPIRED = {"expires_in": -5, "lifetime": 3600}  # so that the first token request is made at the start


async def refresh_token_end(proxy: RunningProxy) -> float:
    """When the refresh token ends, as the page tells programs: seconds since the epoch."""
    return datetime.fromisoformat((await status_of(proxy))["refresh_token_expires_at"]).timestamp()


async def measured(proxy: RunningProxy, name: str) -> float:
    """The value of a metric."""
    text = (await ask(proxy, "GET", "/metrics")).content.decode()
    (line,) = [line for line in text.splitlines() if line.startswith(f"krebit_proxy_{name} ")]
    return float(line.split()[1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("told", "value"),
    [
        ("refresh_expires_in", 3),  # Keycloak
        ("refresh_token_expires_in", 3),
        ("x_refresh_token_expires_in", 3),  # QuickBooks
        ("refresh_expires_in", 3.0),
        ("refresh_token_expires_in", "3"),
    ],
)
async def test_a_refresh_token_that_ends_before_the_access_token_is_renewed_while_nobody_calls(
    start_proxy: StartProxy, upstream: Upstream, api: ResourceServer, told: str, value: object
) -> None:
    tokens = upstream.tokens
    tokens.strict, tokens.lifetime, tokens.refresh_lifetime, tokens.tells = True, 10, 3, ""
    tokens.extra = {told: value}
    proxy = await start_proxy(grant=EXPIRED)
    await eventually(lambda: len(tokens.requests) >= 4, what="three renewals of an idle grant")

    gaps = [later - sooner for sooner, later in zip(tokens.times, tokens.times[1:], strict=False)]
    assert max(gaps) < 3
    assert (await ask(proxy, "GET", "/api/invoices/1")).status == 200
    assert (await readiness(proxy))[0] == 200
    assert (await status_of(proxy))["code"] is None


@pytest.mark.slow
async def test_a_lifetime_is_kept_over_a_restart_and_bounds_the_next_renewal(
    upstream: Upstream, api: ResourceServer, tmp_path: Path
) -> None:
    tokens = upstream.tokens
    tokens.strict, tokens.lifetime, tokens.refresh_lifetime = True, 3600, 6
    async with running_proxy(upstream, tmp_path, grant=EXPIRED) as proxy:
        assert (await ask(proxy, "GET", "/api/invoices/1")).status == 200
        end = await refresh_token_end(proxy)
        assert abs(end - time.time() - 6) < 2
    again = RunningProxy(Proxy(proxy.settings), proxy.settings, proxy.output)
    await again.proxy.start()
    try:
        assert abs(await refresh_token_end(again) - end) < 6
        await eventually(lambda: len(tokens.requests) >= 2, what="a renewal long before the access token ends")
        assert tokens.times[1] - tokens.times[0] < 6
        assert (await ask(again, "GET", "/api/invoices/2")).status == 200
    finally:
        await again.stop()


async def test_the_end_of_the_refresh_token_is_on_the_page_and_a_metric(
    start_proxy: StartProxy, upstream: Upstream, api: ResourceServer
) -> None:
    upstream.tokens.refresh_lifetime = 30 * 86400
    proxy = await start_proxy(grant=EXPIRED)
    assert (await ask(proxy, "GET", "/api/invoices/1")).status == 200
    expected = time.time() + 30 * 86400
    assert abs(await refresh_token_end(proxy) - expected) < 10
    assert abs(await measured(proxy, "refresh_token_expires_timestamp_seconds") - expected) < 10


async def test_a_server_that_tells_no_lifetime_has_none(
    start_proxy: StartProxy, upstream: Upstream, api: ResourceServer
) -> None:
    proxy = await start_proxy(grant=EXPIRED)
    assert (await ask(proxy, "GET", "/api/invoices/1")).status == 200
    assert (await status_of(proxy))["refresh_token_expires_at"] is None


@pytest.mark.parametrize("nonsense", [0, -1, True, None, "soon", "", [], 1e308, {"seconds": 5}], ids=str)
async def test_a_lifetime_that_is_nonsense_hurts_nobody(
    start_proxy: StartProxy, upstream: Upstream, api: ResourceServer, nonsense: object
) -> None:
    upstream.tokens.extra = {"refresh_expires_in": nonsense}
    proxy = await start_proxy(grant=EXPIRED)
    for number in range(3):
        assert (await ask(proxy, "GET", f"/api/invoices/{number}")).status == 200
    assert (await readiness(proxy))[0] == 200
    assert upstream.tokens.presented == ["refresh-1"]


@pytest.mark.slow
async def test_an_end_that_renewals_do_not_move_is_told_and_warned_of_a_day_before(
    start_proxy: StartProxy, upstream: Upstream, api: ResourceServer, webhook: tuple[str, list[dict[str, Any]]]
) -> None:
    address, alarms = webhook
    tokens = upstream.tokens
    left = 20 * 3600
    tokens.lifetime, tokens.refresh_until = 2, asyncio.get_running_loop().time() + left
    expected = time.time() + left
    proxy = await start_proxy(grant=EXPIRED, notify={"webhook": address})
    await eventually(lambda: len(tokens.requests) >= 3, what="renewals that do not move it")

    assert (await ask(proxy, "GET", "/api/invoices/1")).status == 200
    assert abs(await refresh_token_end(proxy) - expected) < 10
    await eventually(lambda: [alarm for alarm in alarms if alarm["event"] == "expiring"], what="the warning")
    alarm = next(alarm for alarm in alarms if alarm["event"] == "expiring")
    assert alarm["setup_url"].endswith("/setup")
    assert (await readiness(proxy))[0] == 200


@pytest.mark.slow
async def test_an_end_that_renewals_do_not_move_is_no_reason_for_a_storm(
    start_proxy: StartProxy, upstream: Upstream, api: ResourceServer
) -> None:
    tokens = upstream.tokens
    loop = asyncio.get_running_loop()
    tokens.strict, tokens.refresh_until = True, loop.time() + 8
    proxy = await start_proxy(grant=EXPIRED)
    assert (await ask(proxy, "GET", "/api/invoices/1")).status == 200
    while loop.time() < tokens.refresh_until + 1:
        await asyncio.sleep(0.5)
        assert (await ask(proxy, "GET", "/api/invoices/1")).status == 200  # the access token is good for an hour
    assert len(tokens.requests) <= 10
