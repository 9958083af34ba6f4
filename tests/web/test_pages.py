import re
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from krebit_proxy.errors import Refused
from krebit_proxy.web.pages import error_page, page, render
from tests.fakes.authorization_server import AuthorizationServer
from tests.fakes.setup_site import Site, setup_site


@pytest.fixture(name="site")
async def _site(tmp_path: Path) -> AsyncIterator[Site]:
    async with AuthorizationServer() as server, setup_site(server.url, tmp_path) as site:
        yield site


@pytest.mark.parametrize("path", ["/", "/setup/paste", "/setup/callback?code=x&state=y", "/setup/done"])
async def test_every_page_is_kept_to_itself(site: Site, path: str) -> None:
    if path == "/setup/done":
        await site.set_up()
    answer = await site.ask(path)
    policy = answer.headers["Content-Security-Policy"]

    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["X-Frame-Options"] == "DENY"
    assert answer.headers["Referrer-Policy"] == ("same-origin" if path == "/setup/paste" else "no-referrer")
    for rule in ("default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'"):
        assert rule in policy
    (nonce,) = re.findall(r"style-src 'nonce-([\w-]{22})'", policy)
    assert f'<style nonce="{nonce}">' in answer.text
    assert "unsafe" not in policy


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/metrics", "/setup", "/setup/callback"])
async def test_what_is_told_to_programs_is_kept_to_itself_too(site: Site, path: str) -> None:
    headers = (await site.ask(path, fields={"Accept": "application/json"})).headers

    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    for rule in ("default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'"):
        assert rule in headers["Content-Security-Policy"]


async def test_no_page_has_a_script_or_anything_from_elsewhere(site: Site) -> None:
    for path in ("/", "/setup/paste", "/setup/callback"):
        text = (await site.ask(path)).text

        assert "<script" not in text
        assert not re.findall(r"(?:src|srcset|@import|url\()", text)


async def test_the_form_may_lead_to_the_authorization_server(site: Site) -> None:
    policy = (await site.ask("/setup/paste")).headers["Content-Security-Policy"]

    assert policy.endswith(f"form-action 'self' {site.settings.upstream.url}")


def test_each_page_has_a_nonce_of_its_own() -> None:
    error = Refused("bad_request", "x")

    assert error_page(error, "r", None)[0] != error_page(error, "r", None)[0]


def test_an_error_says_what_happened_what_to_do_and_how_the_log_calls_it() -> None:
    error = Refused("setup_required", "Not <yet>.", hint="Run `krebit-proxy setup --x=<y>`.")
    fields, content = error_page(error, "request-7", "http://localhost:8321/setup")
    text = content.decode()

    assert fields["Content-Type"] == "text/html; charset=utf-8"
    assert "Setup required" in text
    assert "Not &lt;yet&gt;." in text
    assert "Run <code>krebit-proxy setup --x=&lt;y&gt;</code>." in text
    assert 'href="http://localhost:8321/setup"' in text
    assert "request-7" in text
    assert "setup_required" in text


def test_a_fact_that_a_template_misses_is_an_error_and_not_an_empty_place() -> None:
    with pytest.raises(Exception, match="error"):
        render("error.html", request_id="", setup_url=None)


def test_a_page_is_a_response_with_the_status_asked_for() -> None:
    error = SimpleNamespace(title="t", detail="d", hint="", code="c")

    assert page("error.html", status=418, error=error, request_id="", setup_url=None).status == 418
