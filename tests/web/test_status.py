import json
import re
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from krebit_proxy.core.grant import Intent
from krebit_proxy.metrics import Metrics
from krebit_proxy.web.notify import Delivery
from krebit_proxy.web.status import StatusPages
from tests.fakes.authorization_server import AuthorizationServer
from tests.fakes.setup_site import Answer, Site, setup_site
from tests.fakes.statuses import grant_status

JSON = {"Accept": "application/json"}


@pytest.fixture(name="server")
async def _server() -> AsyncIterator[AuthorizationServer]:
    async with AuthorizationServer() as server:
        yield server


@pytest.fixture(name="site")
async def _site(server: AuthorizationServer, tmp_path: Path) -> AsyncIterator[Site]:
    async with setup_site(server.url, tmp_path) as site:
        yield site


def words(answer: Answer) -> str:
    body = re.sub(r"<style.*?</style>", "", answer.text, flags=re.DOTALL)
    return unescape(" ".join(re.sub(r"<[^>]+>", " ", body).split()))


async def test_before_setup_the_page_leads_to_it_and_says_what_to_register(site: Site) -> None:
    answer = await site.ask("/")

    assert answer.status == 200
    assert 'href="/setup"' in answer.text
    assert 'href="/setup/paste"' in answer.text
    assert f"exactly this redirect URI http://localhost:{site.port}/setup/callback" in words(answer)


async def test_after_setup_the_page_tells_how_things_stand_and_how_to_call(site: Site) -> None:
    await site.set_up()
    answer = await site.ask("/")
    text = words(answer)

    assert 'href="/setup"' not in answer.text
    for fact in ("Connected to acme", "my-app", "Generation 1", f"curl http://localhost:{site.port}/api/"):
        assert fact in text
    assert re.search(r"Access token expires .*, in \d+ minutes", text)
    assert re.search(r"Next refresh .*, in \d+ minutes", text)


async def test_programs_get_the_same_as_json_without_a_token(site: Site) -> None:
    before = json.loads((await site.ask("/", fields=JSON)).text)
    await site.set_up()
    answer = await site.ask("/", fields=JSON)
    after = json.loads(answer.text)

    assert (before["ready"], before["code"], before["setup_url"]) == (
        False,
        "setup_required",
        f"http://localhost:{site.port}/setup",
    )
    assert (after["ready"], after["code"], after["generation"], after["setup_url"]) == (True, None, 1, None)
    assert after["organization"] == "acme"
    assert after["redirect_uri"] == site.settings.redirect_uri
    assert datetime.fromisoformat(after["expires_at"]) > datetime.now(UTC)
    assert after["last_refresh_at"] is None
    assert answer.headers["Cache-Control"] == "no-store"


async def test_no_page_shows_a_token_or_the_client_secret(site: Site) -> None:
    await site.set_up()
    for path in ("/", "/readyz", "/healthz", "/metrics", "/setup/done"):
        for fields in (JSON, {}):
            text = (await site.ask(path, fields=fields)).text

            assert "access-" not in text
            assert "refresh-" not in text
            assert "marker-client-secret" not in text


@pytest.mark.parametrize(
    ("accept", "is_json"),
    [
        ("text/html,application/xhtml+xml,*/*;q=0.8", False),
        ("*/*", False),
        ("", False),
        ("application/json", True),
        ("application/json, text/plain, */*", True),
        ("application/json, text/html", True),
        ("text/html, application/json", False),
    ],
)
async def test_who_asks_for_json_gets_json_and_everybody_else_a_page(site: Site, accept: str, is_json: bool) -> None:
    answer = await site.ask("/", fields={"Accept": accept})

    assert answer.headers["Content-Type"].startswith("application/json" if is_json else "text/html")


async def test_the_example_call_has_what_the_settings_ask_of_callers(
    server: AuthorizationServer, tmp_path: Path
) -> None:
    access = {"require_header": "X-Krebit-Proxy", "client_keys_file": tmp_path / "keys"}
    async with setup_site(server.url, tmp_path, access=access) as site:
        example = json.loads((await site.ask("/", fields=JSON)).text)["example"]

    assert example == (f"curl -H 'X-Krebit-Proxy: 1' -H 'X-Api-Key: YOUR_KEY' http://localhost:{site.port}/api/")


@pytest.mark.parametrize(
    ("host", "origin"),
    [("127.0.0.1:9", "http://127.0.0.1:9"), ("$(x)'\"<b>", "http://localhost:PORT"), ("proxy:1", "http://proxy:1")],
)
async def test_the_example_call_goes_where_the_reader_came_from(site: Site, host: str, origin: str) -> None:
    document = json.loads((await site.ask("/", host=host, fields=JSON)).text)

    assert document["example"] == f"curl {origin.replace('PORT', str(site.port))}/api/"


async def test_readiness_is_the_truth_with_its_reason(site: Site) -> None:
    before = await site.ask("/readyz")
    await site.set_up()
    after = await site.ask("/readyz")

    assert before.status == 503
    assert json.loads(before.text)["code"] == "setup_required"
    assert json.loads(before.text)["hint"]
    assert after.status == 200
    told = json.loads(after.text)
    assert told["ready"] is True
    assert (told["generation"], told["lock_held"], told["store_failed"]) == (1, False, False)
    assert told["next_refresh_at"] < told["expires_at"]
    assert (told["detail"], told["hint"]) == ("Authorized.", "")


def shows(site: Site, monkeypatch: pytest.MonkeyPatch, code: str | None = None, **facts: Any) -> None:
    """Lets the pages see this state."""
    given = {"generation": 7, "obtained_at": time.time() - 60, "expires_at": time.time() + 2530, **facts}
    monkeypatch.setattr(site.credentials, "status", lambda: grant_status(code, **given))


async def test_a_dead_grant_is_ready_with_the_reason_while_its_token_is_accepted(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    shows(site, monkeypatch, "reauthorization_required", ready=True, detail="Krebit said: BAD_REFRESH_TOKEN.")
    answer = await site.ask("/readyz")
    told = json.loads(answer.text)

    assert answer.status == 200
    assert (told["ready"], told["code"]) == (True, "reauthorization_required")
    assert told["detail"] == "New authorization required."
    assert "krebit-proxy status" in told["hint"]
    assert 2520 < told["seconds_left"] <= 2530
    page = words(await site.ask("/"))
    for text in ("Krebit said: BAD_REFRESH_TOKEN.", "Calls still work until", "in 42 minutes", "Authorize again"):
        assert text in page


async def test_readiness_repeats_nothing_that_others_said(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign = {"detail": "db.example refused", "hint": "mend db.example", "store_error": "db.example is away"}
    foreign["last_refresh"] = "certificate is not for krebit.example"
    shows(site, monkeypatch, "token_unavailable", **foreign, lock_holder="host.example/7", refresh_began_at=1.0)
    answer = await site.ask("/readyz")
    told = json.loads(answer.text)

    assert (answer.status, told["store_failed"], told["last_refresh"]) == (503, True, "failed")
    assert "example" not in answer.text
    assert words(await site.ask("/")).count("db.example refused") == 1


async def test_a_suspected_token_is_shown_with_what_to_do(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    shows(site, monkeypatch, suspected=True)
    answer = await site.ask("/")

    assert 'class="state wait"' in answer.text
    assert "Krebit refused the access token, and has not accepted it since." in words(answer)
    assert "You need not do anything." in words(answer)
    assert json.loads((await site.ask("/", fields=JSON)).text)["suspected"] is True
    assert "krebit_proxy_token_suspected 1.0" in (await site.ask("/metrics")).text


async def test_the_end_of_an_authorization_is_shown_with_its_date(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    end = time.time() + 5 * 86400
    shows(site, monkeypatch, refresh_token_expires_at=end, refresh_token_end_is_fixed=True)
    page = words(await site.ask("/"))
    document = json.loads((await site.ask("/", fields=JSON)).text)

    assert re.search(r"The authorization ends on \w+day \d+ \w+ 20\d\d, \d\d:\d\d \w+, in 5 days\.", page)
    assert "Run krebit-proxy setup where the proxy runs" in page
    assert re.search(r"Refresh token expires 20\S+ .*, in 5 days; renewals do not extend it", page)
    assert datetime.fromisoformat(document["refresh_token_expires_at"]).timestamp() == int(end)
    assert "krebit_proxy_refresh_token_expires_timestamp_seconds " in (await site.ask("/metrics")).text


async def test_an_end_that_renewals_move_is_a_fact_and_no_warning(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    shows(site, monkeypatch, refresh_token_expires_at=time.time() + 86400)
    answer = await site.ask("/")

    assert 'class="state good"' in answer.text
    assert "in 24 hours; renewals may extend it" in words(answer)


async def test_the_last_alarm_is_shown(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    deliveries = {"webhook": Delivery("problem", False, "status 404", time.time() - 130)}
    pages = StatusPages(site.settings, site.credentials, Metrics(), setup=dict, deliveries=deliveries)
    monkeypatch.setitem(site.pages, "/", pages.routes()["/"])

    assert "Alarm by webhook problem not delivered: status 404, " in words(await site.ask("/"))
    [(way, last)] = json.loads((await site.ask("/", fields=JSON)).text)["alarm"].items()
    assert (way, last["accepted"], last["said"]) == ("webhook", False, "status 404")
    assert datetime.fromisoformat(last["at"]) < datetime.now(UTC)


async def test_the_page_tells_who_is_at_a_refresh(site: Site) -> None:
    await site.set_up()
    held = await site.credentials._store.read()
    assert held is not None
    noted = replace(held, intent=Intent(time.time() - 130, "abcdef01", "elsewhere/7"))
    site.credentials._state = replace(site.credentials._state, grant=noted)
    assert re.search(r"Lock elsewhere/7 started a refresh .*, 2 minutes ago and has not", words(await site.ask("/")))
    site.credentials._state = replace(site.credentials._state, locked=True)

    assert "Lock held by this proxy" in words(await site.ask("/"))


async def test_health_is_not_readiness(site: Site) -> None:
    assert (await site.ask("/healthz")).status == 200


async def test_metrics_are_prometheus_text(site: Site) -> None:
    answer = await site.ask("/metrics")

    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "krebit_proxy" in answer.text


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/metrics"])
async def test_these_pages_are_read_only(site: Site, path: str) -> None:
    assert (await site.ask(path, "POST")).status == 405
    assert (await site.ask(path, "HEAD")).text == ""


SUMMARY = {"ready", "code", "setup_url", "version"}


async def test_who_may_not_call_sees_a_headline_and_the_way_to_setup(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.may_call = False
    before, page = await site.ask("/", fields=JSON), await site.ask("/")
    assert json.loads(before.text).keys() == SUMMARY
    assert json.loads(before.text)["setup_url"] == f"http://localhost:{site.port}/setup"
    assert "Setup required" in words(page)
    assert 'href="/setup"' in page.text
    await site.set_up()
    site.cookie = ""
    after, page = await site.ask("/", fields=JSON), await site.ask("/")

    assert {name: json.loads(after.text)[name] for name in ("ready", "code", "setup_url")} == {
        "ready": True,
        "code": None,
        "setup_url": None,
    }
    assert "Ready" in words(page)
    shows(site, monkeypatch, "token_unavailable", detail="db.example is away", store_error="db.example is away")
    for answer in (before, after, page, await site.ask("/"), await site.ask("/", fields=JSON)):
        for name in ("acme", "my-app", "callback", "curl", "db.example"):
            assert name not in answer.text


async def test_the_end_of_setup_is_for_the_browser_that_did_it(site: Site) -> None:
    site.may_call = False
    await site.set_up()
    own, other = await site.ask("/setup/done"), await site.ask("/setup/done", cookie="")

    assert "Connected to acme" in words(own)
    assert (other.status, other.location) == (303, "/")
    site.may_call = True
    assert (await site.ask("/setup/done", cookie="")).status == 200


async def test_a_browser_whose_setup_failed_learns_nothing_more(site: Site) -> None:
    await site.set_up()
    site.may_call = False
    key = site.setup._link("").partition("?")[2]
    state = (await site.start(f"/setup?{key}")).query["state"]
    assert (await site.come_back(state, code="", error="access_denied")).status == 400

    assert (await site.ask("/setup/done")).status == 303
