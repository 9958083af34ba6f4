"""`krebit-proxy status` and `wait`, for each state that a running proxy can be in."""

import json
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.command import run
from tests.fakes.shown import ProxyShows, shown_proxy
from tests.fakes.statuses import grant_status
from tests.fakes.waiting import eventually

DAY = 86400.0


@pytest.fixture(name="proxy_shows")
async def _proxy_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ProxyShows]:
    async with shown_proxy(tmp_path, monkeypatch) as start:
        yield start


async def lines(folder: Path) -> list[tuple[str, str]]:
    """What is printed: each name with its text."""
    finished = await run("status", folder=folder)

    assert finished.status == 0, finished.err
    return [(line[:15].rstrip(), line[15:]) for line in finished.out.splitlines()]


async def test_all_is_well(proxy_shows: ProxyShows, tmp_path: Path) -> None:
    now = time.time()
    await proxy_shows(
        grant_status(
            obtained_at=now - 600,
            expires_at=now + 3000,
            last_refresh_at=now - 600,
            last_refresh="ok",
            next_refresh_at=now + 2700,
            scope="read",
        )
    )
    told = dict(await lines(tmp_path))

    assert (told["state"], told["why"], told["scope"]) == ("ready", "Authorized.", "read")
    assert re.fullmatch(r"number 1, expires .*, in (50|49) minutes", told["access token"])
    assert re.fullmatch(r".*, 10 minutes ago", told["obtained"])
    assert re.fullmatch(r"ok, .*, 10 minutes ago", told["last refresh"])
    assert re.fullmatch(r".*, in (45|44) minutes", told["next refresh"])
    assert not {"note", "what to do", "refresh token", "alarm", "lock"} & told.keys()


async def test_a_refresh_token_that_is_refused_in_other_words(proxy_shows: ProxyShows, tmp_path: Path) -> None:
    await proxy_shows(
        grant_status(
            "reauthorization_required",
            ready=True,
            detail='Krebit refused the refresh token: "The refresh token is invalid."',
            hint="Open /setup in a browser to authorize again.",
            expires_at=time.time() + 1500,
        )
    )
    told = await lines(tmp_path)

    assert told[0] == ("state", "ready for now")
    assert told[1] == ("why", 'Krebit refused the refresh token: "The refresh token is invalid."')
    assert told[2] == ("what to do", "Open /setup in a browser to authorize again.")
    assert re.fullmatch(r"Calls still work until .*, in 25 minutes\.", told[3][1])
    assert told[4] == ("what to do", "Authorize again before then.")
    assert told[-1][0] == "setup"


async def test_a_suspected_token(proxy_shows: ProxyShows, tmp_path: Path) -> None:
    await proxy_shows(grant_status(suspected=True))
    told = await lines(tmp_path)

    assert told[0] == ("state", "ready for now")
    assert told[2][0] == "note"
    assert told[2][1].startswith("Krebit refused the access token, and has not accepted it since.")
    assert told[3][0] == "what to do"


async def test_an_authorization_with_an_end(proxy_shows: ProxyShows, tmp_path: Path) -> None:
    end = time.time() + 3 * DAY
    await proxy_shows(grant_status(refresh_token_expires_at=end, refresh_token_end_is_fixed=True))
    told = dict(await lines(tmp_path))
    document = json.loads((await run("status", "--json", folder=tmp_path)).out)

    assert told["note"].startswith("The authorization ends on ")
    assert told["what to do"].startswith("Run `krebit-proxy setup`")
    assert told["refresh token"].endswith("in 3 days; renewals do not extend it")
    assert document["suspected"] is False
    assert document["refresh_token_expires_at"] == time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(end))


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"lock_held": True}, "held by this proxy"),
        ({"lock_holder": "other/7"}, "other/7 started a refresh and has not finished"),
        (
            {"lock_holder": "other/7", "refresh_began_at": 1.0},
            "other/7 started a refresh .* days ago and has not finished",
        ),
    ],
)
async def test_who_is_at_a_refresh(
    proxy_shows: ProxyShows, tmp_path: Path, facts: dict[str, Any], expected: str
) -> None:
    await proxy_shows(grant_status(**facts))

    assert re.fullmatch(expected, dict(await lines(tmp_path))["lock"])


async def test_a_store_that_fails_is_named_beside_the_reason(proxy_shows: ProxyShows, tmp_path: Path) -> None:
    await proxy_shows(grant_status("token_unavailable", store_error="The disk is full."))

    assert dict(await lines(tmp_path))["store"] == "The disk is full."


async def test_what_became_of_the_last_alarm(proxy_shows: ProxyShows, tmp_path: Path) -> None:
    proxy = await proxy_shows(
        grant_status("misconfigured"), notify={"command": "false", "webhook": "http://127.0.0.1:1/x", "after": 0.05}
    )
    await eventually(lambda: len(proxy.events("notify.failed")) == 2)
    alarms = sorted(text for name, text in await lines(tmp_path) if name == "alarm")

    assert re.fullmatch(r"problem by command not delivered: exit status 1, .*", alarms[0])
    assert re.fullmatch(r"problem by webhook not delivered: no connection, .*", alarms[1])


async def test_waiting_says_at_its_end_what_is_wrong(proxy_shows: ProxyShows, tmp_path: Path) -> None:
    await proxy_shows(grant_status("token_unavailable", detail="The token endpoint is away.", hint="Wait."))
    finished = await run("wait", "--for", "0", folder=tmp_path)

    assert (finished.status, finished.err.splitlines()) == (
        1,
        ["krebit-proxy: The token endpoint is away.", "what to do: Wait."],
    )


async def test_waiting_is_over_as_soon_as_requests_are_served(proxy_shows: ProxyShows, tmp_path: Path) -> None:
    await proxy_shows(grant_status("reauthorization_required", ready=True))

    assert (await run("wait", "--for", "60", folder=tmp_path)).status == 0


async def test_a_proxy_with_client_keys_tells_whether_it_is_ready_and_the_store_the_rest(
    proxy_shows: ProxyShows, tmp_path: Path
) -> None:
    keys = tmp_path / "client-keys"
    keys.write_text("billing:marker-key-0123456789abcdef")
    keys.chmod(0o600)
    access = {"client_keys_file": str(keys)}
    await proxy_shows(grant_status(detail="marker-detail", last_refresh="ok"), access=access)
    told = dict(await lines(tmp_path))
    document = json.loads((await run("status", "--json", folder=tmp_path)).out)

    assert (told["state"], told["why"], told["organization"]) == ("ready", "Authorized.", "acme")
    assert re.fullmatch(r"number 1, expires .*, in (60|59) minutes", told["access token"])
    assert (document["running"], document["ready"], document["generation"]) == (True, True, 1)
    assert (await run("wait", "--for", "0", folder=tmp_path)).status == 0


async def test_a_proxy_with_client_keys_that_is_not_ready(proxy_shows: ProxyShows, tmp_path: Path) -> None:
    access = {"require_header": "X-Krebit-Proxy"}
    await proxy_shows(grant_status("token_unavailable", detail="marker-detail"), access=access)
    told = dict(await lines(tmp_path))
    waited = await run("wait", "--for", "0", folder=tmp_path)

    assert (told["state"], told["why"]) == ("not ready", "No valid token right now.")
    assert (waited.status, waited.err.splitlines()[0]) == (1, "krebit-proxy: No valid token right now.")


async def test_the_store_is_asked_what_is_wrong_with_it(proxy_shows: ProxyShows, tmp_path: Path) -> None:
    await proxy_shows(grant_status("misconfigured", store_error="The proxy cannot use its store."))
    [file] = (tmp_path / "grant").glob("*.json")
    file.write_text("{")
    assert f"{file} is damaged" in dict(await lines(tmp_path))["store"]
