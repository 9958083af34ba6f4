import secrets
from base64 import urlsafe_b64decode
from urllib.parse import parse_qs, parse_qsl, quote, urlencode, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krebit_proxy.core.authorization import (
    ATTEMPT_LIFETIME,
    ENDED,
    SetupAttempt,
    authorization_url,
    begin,
    browser_mark,
    cautions,
    explain,
    pasted_query,
    read_response,
    verdict,
    will_stop,
)
from krebit_proxy.core.grant import Tokens
from krebit_proxy.core.secret import Secret
from krebit_proxy.core.token_response import Issued, NotSent, Refusal, RefusalKind, Rotated, Unclear
from krebit_proxy.errors import Refused

NOW = 1_700_000_000.0
CALLBACK = "http://localhost:8321/setup/callback"


def attempt_of(*, pkce: bool = True, browser: Secret | None = None) -> SetupAttempt:
    return begin(secrets.token_bytes, now=NOW, pkce=pkce, browser=browser)


def answer_to(attempt: SetupAttempt, **parameters: str) -> str:
    return urlencode({"code": "abc", "state": attempt.state.reveal(), **parameters})


# The authorization request


def test_state_and_verifier_are_fresh_unguessable_and_of_the_length_that_pkce_asks_for() -> None:
    first, second = attempt_of(), attempt_of()

    assert first.state != second.state
    assert first.verifier
    assert second.verifier
    assert first.verifier != second.verifier
    assert 43 <= len(first.verifier.reveal()) <= 128
    assert len(first.state.reveal()) >= 43


def test_the_request_has_all_parameters_with_the_challenge_of_the_published_example() -> None:
    # RFC 7636, appendix B
    octets = urlsafe_b64decode("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk=")
    attempt = begin(lambda _: octets, now=NOW, pkce=True)
    url = authorization_url(
        "https://acme.krebit.se/oauth/authorize", attempt, client_id="id 1", redirect_uri=CALLBACK, scope="a b"
    )

    assert url.startswith("https://acme.krebit.se/oauth/authorize?")
    assert dict(parse_qsl(urlsplit(url).query)) == {
        "response_type": "code",
        "client_id": "id 1",
        "redirect_uri": CALLBACK,
        "state": "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
        "scope": "a b",
        "code_challenge": "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM",
        "code_challenge_method": "S256",
    }


def test_an_empty_scope_and_pkce_switched_off_are_left_out() -> None:
    url = authorization_url("https://as/", attempt_of(pkce=False), client_id="c", redirect_uri=CALLBACK)

    assert set(parse_qs(urlsplit(url).query)) == {"response_type", "client_id", "redirect_uri", "state"}


def test_the_endpoints_own_query_stays_and_a_fragment_does_not() -> None:
    url = authorization_url("https://as/authorize?tenant=a%2Fb#x", attempt_of(), client_id="c", redirect_uri=CALLBACK)

    assert url.startswith("https://as/authorize?tenant=a%2Fb&response_type=code&")
    assert "#" not in url


@given(st.text(), st.text())
def test_whatever_the_settings_hold_arrives_as_it_is_and_adds_no_parameter(client_id: str, uri: str) -> None:
    url = authorization_url("https://as/a", attempt_of(pkce=False), client_id=client_id, redirect_uri=uri)
    parameters = dict(parse_qsl(urlsplit(url).query, keep_blank_values=True))

    assert (parameters["client_id"], parameters["redirect_uri"]) == (client_id, uri)
    assert len(parameters) == 4


# The answer


def test_the_code_of_the_right_answer_comes_out() -> None:
    browser = Secret("cookie")
    attempt = attempt_of(browser=browser)

    outcome = verdict(attempt, read_response(answer_to(attempt)), now=NOW + 1, browser="cookie")

    assert outcome == Secret("abc")
    assert attempt.browser == browser_mark("cookie") != "cookie"


def test_a_command_that_is_its_own_user_agent_needs_no_cookie() -> None:
    attempt = attempt_of()

    assert verdict(attempt, read_response(answer_to(attempt)), now=NOW) == Secret("abc")


def test_the_servers_refusal_comes_out_cut_to_what_may_be_shown() -> None:
    attempt = attempt_of()
    query = urlencode(
        {
            "error": "access_denied",
            "error_description": 'no\r\n"<b>\x1b[31m' + "x" * 400,
            "state": attempt.state.reveal(),
        }
    )
    outcome = verdict(attempt, read_response(query), now=NOW)

    assert isinstance(outcome, Refusal)
    assert outcome.error == "access_denied"
    assert outcome.description.startswith("no   <b> [31mxxx")
    assert len(outcome.description) <= 300


def test_an_error_of_nothing_but_forbidden_characters_is_still_an_error() -> None:
    attempt = attempt_of()

    outcome = verdict(attempt, read_response(f"error=%0a&state={attempt.state.reveal()}"), now=NOW)

    assert outcome == Refusal("error")


@pytest.mark.parametrize("kind", ["code=abc", "error=access_denied"])
@pytest.mark.parametrize("state", ["", "&state=", "&state=wrong", "&state=%C3%A9"])
def test_an_answer_with_another_state_is_refused_whether_code_or_error(kind: str, state: str) -> None:
    with pytest.raises(Refused, match="another attempt") as refused:
        verdict(attempt_of(), read_response(kind + state), now=NOW)

    assert (refused.value.code, refused.value.status) == ("setup_failed", 400)


@pytest.mark.parametrize("cookie", [None, "", "other", "\udcff"])
def test_an_answer_from_another_browser_is_refused(cookie: str | None) -> None:
    attempt = attempt_of(browser=Secret("cookie"))

    with pytest.raises(Refused, match="Another browser"):
        verdict(attempt, read_response(answer_to(attempt)), now=NOW, browser=cookie)


def test_an_answer_is_refused_when_nothing_is_pending_and_when_it_comes_too_late() -> None:
    attempt = attempt_of()
    response = read_response(answer_to(attempt))

    with pytest.raises(Refused, match="No authorization is pending"):
        verdict(ENDED, response, now=NOW)
    with pytest.raises(Refused, match="ten minutes"):
        verdict(attempt, response, now=NOW + ATTEMPT_LIFETIME)
    with pytest.raises(Refused):
        verdict(ENDED, read_response("code=a"), now=NOW)


@pytest.mark.parametrize(
    "query",
    [
        "code=a&code=b&state=s",
        "code=a&state=s&state=s",
        "error=a&error=b&state=s",
        "code=a&state=s&iss=a&iss=b",
        "code=a&error=b&state=s",
        "state=s",
        "",
        "code=&error=&state=s",
        "code=%0A&state=s",
        "code=%C3%A9&state=s",
        "code=%FF&state=s",
        "code=\udcff&state=s",
        "a=1&" * 65,
    ],
)
def test_what_no_server_may_send_is_refused(query: str) -> None:
    with pytest.raises(Refused) as refused:
        read_response(query)

    assert refused.value.code == "setup_failed"


def test_a_parameter_without_a_value_counts_as_absent_and_unknown_ones_are_ignored() -> None:
    response = read_response("code=&code=a&error=&state=s&x=1&x=2&iss=https://as")

    assert (response.outcome, response.state, response.names_issuer) == (Secret("a"), Secret("s"), True)
    assert not read_response("error=access_denied&state=s&iss=").names_issuer


@given(st.text(), st.text())
def test_any_query_is_read_or_refused_and_never_prints_what_it_holds(text: str, code: str) -> None:
    for query in (text, urlencode({"code": "marker" + code, "state": "marker" + text})):
        try:
            shown = repr(read_response(query))
        except Refused as refused:
            shown = f"{refused} {refused.hint}"
        assert "marker" not in shown


@given(st.text(min_size=1))
def test_no_answer_but_the_one_with_the_attempts_state_is_accepted(state: str) -> None:
    with pytest.raises(Refused):
        verdict(attempt_of(), read_response(f"code=a&state={quote(state)}"), now=NOW)


@pytest.mark.parametrize(
    "text",
    [
        "https://old.example/cb?code=a%2Bb&state=s",
        "  https://old.example/cb?code=a%2Bb&state=s#_=_\n",
        "<https://old.example/cb?code=a%2Bb\n   &state=s>",
        '"http://localhost:1/?code=a%2Bb&state=s"',
        "?code=a%2Bb&state=s",
        "code=a%2Bb&state=s",
    ],
)
def test_a_pasted_address_is_understood_however_it_was_copied(text: str) -> None:
    assert pasted_query(text) == "code=a%2Bb&state=s"


# What a person is told


@pytest.mark.parametrize(
    ("outcome", "detail", "hint"),
    [
        (Refusal("access_denied", "no"), "access_denied: no", "start again"),
        (Refusal("invalid_client"), "client id or the client secret", "`client_secret`"),
        (Refusal("invalid_grant"), "did not accept the code", f"`{CALLBACK}`"),
        (Refusal("{nonsense}"), "{nonsense}", f"`{CALLBACK}`"),
        (Refusal("BAD_AUTH_CODE", "", RefusalKind.VERDICT), "accept the code. A code works once", f"`{CALLBACK}`"),
        (Refusal("bad_client_id", "x", RefusalKind.CLIENT), "It said: bad_client_id: x", "`client_secret`"),
        (Refusal("HTTP status 404", "No."), "refused the request. It said: HTTP status 404: No.", "`oauth.token_url`"),
        (Refusal('HTTP status 403, a page titled "Wait"', page=True),
         'Something in front of Krebit refused the token request: HTTP status 403, a page titled "Wait".',
         "`User-Agent: krebit-proxy/"),
        (NotSent("no connection"), "no connection", "krebit-proxy check"),
        (NotSent("HTTP status 429", 90), "HTTP status 429", "Wait 90 seconds. Open `/setup`"),
        (Unclear("HTTP status 500"), "HTTP status 500", "start again"),
        (Rotated(Secret("r"), "there is no access token"), "cannot be used: there is no access token.", "start again"),
    ],
)  # fmt: skip
def test_each_failure_says_what_happened_and_what_to_do(
    outcome: Rotated | Refusal | NotSent | Unclear, detail: str, hint: str
) -> None:
    error = explain(outcome, redirect_uri=CALLBACK)

    assert error.code == "setup_failed"
    assert detail in error.detail
    assert hint in error.hint


def issued(*, scope: str = "", refresh: str | None = "r") -> Issued:
    tokens = Tokens(Secret("a"), Secret(refresh) if refresh else None, NOW, NOW + 3600, scope)
    return Issued(tokens, ("careful",))


def test_a_scope_narrower_than_asked_for_is_pointed_out() -> None:
    assert cautions(issued(scope="read"), scope="read write") == [
        "careful",
        "Krebit granted less scope than requested. Missing: write.",
    ]


@pytest.mark.parametrize(("granted", "asked"), [("", "read"), ("read write", "read"), ("read", "")])
def test_a_scope_that_is_as_asked_or_not_told_is_not_mentioned(granted: str, asked: str) -> None:
    assert cautions(issued(scope=granted), scope=asked) == ["careful"]


def test_access_ends_where_no_refresh_token_came() -> None:
    assert will_stop(issued(refresh=None).tokens)
    assert not will_stop(issued().tokens)
