from base64 import b64encode
from typing import Any
from urllib.parse import parse_qs, parse_qsl, quote, urlsplit

import pytest
from aiohttp import ClientSession, encode_basic_auth

from krebit_proxy.sandbox.visitor import Visitor
from tests.sandbox.app import App
from tests.sandbox.conftest import StartSandbox


@pytest.fixture
async def app(start: StartSandbox, http: ClientSession) -> App:
    return App(await start(), http)


async def back_from(app: App, url: str) -> dict[str, str]:
    """Where an authorization request without a consent page leads to, and with what."""
    async with app.http.get(url, allow_redirects=False) as response:
        assert response.status == 303
        location = urlsplit(response.headers["Location"])
        assert location._replace(query="").geturl() == app.sandbox.options.redirect_uri
        return dict(parse_qsl(location.query))


async def test_the_consent_page_names_the_app_and_the_organization_and_may_lead_back(app: App) -> None:
    async with app.http.get(app.authorize_url()) as response:
        page = await response.text()
        policy = response.headers["Content-Security-Policy"]
    assert app.sandbox.options.app_name in page
    assert app.sandbox.options.organization in page
    assert "form-action 'self' http://localhost:8321;" in policy
    assert response.headers["Cache-Control"] == "no-store"


async def test_yes_brings_a_code_and_the_state_as_it_was(app: App) -> None:
    async with Visitor() as visitor:
        location = await visitor.consent(app.authorize_url())
    answer = parse_qs(urlsplit(location).query)
    assert set(answer) == {"code", "state"}
    assert answer["state"] == ["s/ +&"]


async def test_no_brings_access_denied(app: App) -> None:
    async with Visitor() as visitor:
        location = await visitor.consent(app.authorize_url(), "deny")
    assert "error=access_denied" in location
    assert "code=" not in location


async def test_a_redirect_uri_that_has_a_query_keeps_it(start: StartSandbox, http: ClientSession) -> None:
    app = App(await start(redirect_uri="http://localhost:8321/cb?a=b"), http)
    async with Visitor() as visitor:
        location = await visitor.consent(app.authorize_url())
    assert location.startswith("http://localhost:8321/cb?a=b&code=")


async def test_a_consent_page_is_answered_once(app: App) -> None:
    async with app.http.get(app.authorize_url()) as response:
        ticket = (await response.text()).split('name="ticket" value="')[1].split('"')[0]
    for expected in (303, 400):
        form = {"ticket": ticket, "decision": "allow"}
        url = f"{app.sandbox.url}/oauth/authorize"
        async with app.http.post(url, data=form, allow_redirects=False) as response:
            assert response.status == expected


@pytest.mark.parametrize(
    "changes",
    [
        {"client_id": "someone"},
        {"client_id": None},
        {"redirect_uri": "https://evil.example/"},
        {"redirect_uri": "http://localhost:8321/setup/callback/"},
        {"client_id": "<script>alert(1)</script>"},
    ],
)
async def test_an_untrusted_request_gets_a_page_and_no_redirect(app: App, changes: dict[str, str]) -> None:
    async with app.http.get(app.authorize_url(**changes), allow_redirects=False) as response:
        assert response.status == 400
        assert "<script" not in await response.text()


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"response_type": None}, "invalid_request"),
        ({"code_challenge": "x" * 43, "code_challenge_method": "plain"}, "invalid_request"),
        ({"code_challenge": "x" * 43}, "invalid_request"),
    ],
)
async def test_a_faulty_request_goes_back_with_error_and_state(
    app: App, changes: dict[str, str | None], error: str
) -> None:
    answer = await back_from(app, app.authorize_url(**changes))
    assert (answer["error"], answer["state"]) == (error, "s/ +&")


async def test_a_parameter_given_twice_is_invalid(app: App) -> None:
    answer = await back_from(app, app.authorize_url() + "&scope=a&scope=b")
    assert answer["error"] == "invalid_request"


async def test_the_token_response_has_what_the_rfc_wants(app: App) -> None:
    code = await app.code()
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": app.sandbox.options.redirect_uri,
        "client_id": app.sandbox.client_id,
        "client_secret": app.sandbox.client_secret,
    }
    async with app.http.post(f"{app.sandbox.url}/api/oauth/token", data=form) as response:
        tokens = await response.json()
    assert (response.headers["Cache-Control"], response.headers["Pragma"]) == ("no-store", "no-cache")
    assert (tokens["token_type"], tokens["expires_in"]) == ("Bearer", 3600)
    assert await app.call(tokens["access_token"]) == 200
    assert app.sandbox.counters["exchanges"] == 1


async def test_a_code_works_once(app: App) -> None:
    code = await app.code()
    status, tokens = await app.exchange(code)
    assert status == 200
    assert (await app.exchange(code))[1]["error"] == "invalid_grant"
    assert await app.call(tokens["access_token"]) == 401


async def test_a_redirect_uri_left_out_is_left_out_both_times(app: App) -> None:
    code = await app.code(redirect_uri=None)
    status, _ = await app.token(grant_type="authorization_code", code=code)
    assert status == 200


@pytest.mark.parametrize(
    ("form", "error"),
    [
        ({"grant_type": "password", "username": "a"}, "unsupported_grant_type"),
        ({"code": "x"}, "invalid_request"),
        ({"grant_type": "refresh_token"}, "invalid_request"),
        ({"grant_type": "refresh_token", "refresh_token": "nobody's"}, "invalid_grant"),
        ({"grant_type": "authorization_code", "code": "nobody's"}, "invalid_grant"),
    ],
)
async def test_a_faulty_token_request_is_told_why(app: App, form: dict[str, str], error: str) -> None:
    status, answer = await app.token(**form)
    assert (status, answer["error"]) == (400, error)


def basic(client_id: str, client_secret: str) -> dict[str, str]:
    return {"Authorization": encode_basic_auth(client_id, client_secret)}


async def post(app: App, **how: Any) -> tuple[int, dict[str, Any], str | None]:
    async with app.http.post(f"{app.sandbox.url}/api/oauth/token", **how) as response:
        return response.status, await response.json(), response.headers.get("WWW-Authenticate")


async def test_a_wrong_secret_is_401_with_a_challenge_only_for_basic(app: App) -> None:
    form = {"grant_type": "refresh_token", "refresh_token": "x"}
    wrong = {"client_id": app.sandbox.client_id, "client_secret": "wrong"}
    status, answer, challenge = await post(app, data=form | wrong)
    assert (status, answer["error"], challenge) == (401, "invalid_client", None)
    status, answer, challenge = await post(app, data=form, headers=basic(app.sandbox.client_id, "wrong"))
    assert (status, answer["error"], challenge) == (401, "invalid_client", 'Basic realm="krebit"')


async def test_basic_authentication_is_form_encoded_inside(start: StartSandbox, http: ClientSession) -> None:
    app = App(await start(client_id="app:1 ü", client_secret="s+/%:"), http)
    pair = f"{quote(app.sandbox.client_id)}:{quote(app.sandbox.client_secret, safe='')}"
    headers = {"Authorization": f"Basic {b64encode(pair.encode()).decode()}"}
    form = {"grant_type": "refresh_token", "refresh_token": "x"}
    assert (await post(app, data=form, headers=headers))[1]["error"] == "invalid_grant"


@pytest.mark.parametrize("field", ["Basic !!!", "Basic bm9jb2xvbg==", "Bearer x", "Basic"])
async def test_an_authorization_field_that_is_no_basic_is_an_invalid_client(app: App, field: str) -> None:
    status, answer, _ = await post(app, data={"grant_type": "refresh_token"}, headers={"Authorization": field})
    assert (status, answer["error"]) == (401, "invalid_client")


async def test_both_ways_of_authentication_at_once_are_refused(app: App) -> None:
    form = {"grant_type": "refresh_token", "refresh_token": "x", "client_secret": app.sandbox.client_secret}
    headers = basic(app.sandbox.client_id, app.sandbox.client_secret)
    assert (await post(app, data=form, headers=headers))[:2] == (
        400,
        {
            "error": "invalid_request",
            "error_description": "The request has the client secret twice: as Basic and in the body.",
        },
    )


async def test_only_a_form_without_repetition_is_taken(app: App) -> None:
    twice = [("grant_type", "refresh_token"), ("grant_type", "refresh_token")]
    assert (await post(app, data=twice))[1]["error"] == "invalid_request"
    assert (await post(app, json={"grant_type": "refresh_token"}))[1]["error"] == "invalid_request"


@pytest.mark.parametrize("rotation", ["strict", "off", "grace", "family"])
async def test_each_rotation_renews_again_and_again(start: StartSandbox, http: ClientSession, rotation: str) -> None:
    app = App(await start(rotation=rotation), http)
    tokens = await app.authorized()
    refresh_token = tokens["refresh_token"]
    for _ in range(3):
        status, tokens = await app.refresh(refresh_token)
        assert status == 200
        refresh_token = tokens.get("refresh_token", refresh_token)
        assert await app.call(tokens["access_token"]) == 200
    assert app.sandbox.counters["refreshes"] == 3


async def test_a_revoked_token_is_dead_and_an_unknown_one_is_no_error(app: App) -> None:
    tokens = await app.authorized()
    secrets = {"client_id": app.sandbox.client_id, "client_secret": app.sandbox.client_secret}
    for token in (tokens["refresh_token"], "never issued"):
        form = secrets | {"token": token}
        async with app.http.post(f"{app.sandbox.url}/oauth/revoke", data=form) as response:
            assert response.status == 200
    assert await app.call(tokens["access_token"]) == 401
    async with app.http.post(f"{app.sandbox.url}/oauth/revoke", data={"token": "x"}) as response:
        assert response.status == 401


async def test_the_oldest_of_too_many_open_consent_pages_gives_way(app: App) -> None:
    async def ticket() -> str:
        async with app.http.get(app.authorize_url()) as response:
            return (await response.text()).split('name="ticket" value="')[1].split('"')[0]

    tickets = [await ticket() for _ in range(101)]
    for ticket_, expected in ((tickets[0], 400), (tickets[1], 303)):
        form = {"ticket": ticket_, "decision": "allow"}
        url = f"{app.sandbox.url}/oauth/authorize"
        async with app.http.post(url, data=form, allow_redirects=False) as response:
            assert response.status == expected


async def test_a_visitor_says_so_where_there_is_no_consent_page(app: App) -> None:
    async with Visitor() as visitor:
        with pytest.raises(ValueError, match="status 400"):
            await visitor.consent(app.authorize_url(client_id="someone"))
