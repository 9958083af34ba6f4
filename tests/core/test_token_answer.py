"""What an answer of the token endpoint comes to (RFC 6749, 5.1 and 5.2)."""

import json
from typing import Any

import pytest

from krebit_proxy.core.grant import Tokens
from krebit_proxy.core.secret import Secret
from krebit_proxy.core.token_answer import DEFAULT_LIFETIME, LONGEST_LIFETIME, LONGEST_TOKEN, read_answer
from krebit_proxy.core.token_response import Issued, NotSent, Refusal, RefusalKind, Rotated, Unclear

GOOD = {"access_token": "a", "token_type": "Bearer", "expires_in": 60, "refresh_token": "r"}
PAGE = b"<!DOCTYPE html><html><head><title>Just a\n moment&hellip;</title></head><body>Ray 7</body></html>"


def answer(
    document: object, status: int = 200, retry_after: str | None = None, previous: str | None = "old", **http: str
) -> Any:
    content = document if isinstance(document, bytes) else json.dumps(document).encode()
    before = Secret(previous) if previous else None
    return read_answer(status, content, retry_after, sent_at=1000, previous=before, **http)


def without(name: str) -> dict[str, object]:
    return {k: v for k, v in GOOD.items() if k != name}


# Tokens as they should be


def test_a_good_answer_counts_its_lifetime_from_before_the_request() -> None:
    assert answer(GOOD | {"scope": "read", "unknown": 1}) == Issued(
        Tokens(Secret("a"), Secret("r"), 1000, 1060, "read")
    )


@pytest.mark.parametrize(
    "refresh", [{}, {"refresh_token": ""}, {"refresh_token": " "}, {"refresh_token": None}, {"refresh_token": 7}]
)
def test_without_a_new_refresh_token_the_old_one_stays(refresh: dict[str, object]) -> None:
    assert answer(without("refresh_token") | refresh).tokens.refresh_token == Secret("old")


def test_half_a_character_is_no_refresh_token_since_it_cannot_be_sent() -> None:
    assert answer(GOOD | {"refresh_token": "r\ud800"}).tokens.refresh_token == Secret("old")


def test_a_first_answer_without_a_refresh_token_is_taken_with_a_warning() -> None:
    issued = answer(without("refresh_token"), previous=None)

    assert issued.tokens.refresh_token is None
    assert "no refresh token" in issued.warnings[0]


@pytest.mark.parametrize("token_type", ["bearer", "BEARER", "Bearer"])
def test_the_token_type_is_case_insensitive(token_type: str) -> None:
    assert answer(GOOD | {"token_type": token_type}).warnings == ()


@pytest.mark.parametrize(
    ("expires_in", "lifetime"),
    [(1, 1), (3600, 3600), ("90", 90), (12.5, 12.5), (10**12, LONGEST_LIFETIME)],
)
def test_lifetimes_are_read_leniently(expires_in: object, lifetime: float) -> None:
    issued = answer(GOOD | {"expires_in": expires_in})

    assert issued.tokens.lifetime == lifetime
    assert issued.warnings == ()


@pytest.mark.parametrize("expires_in", [True, -1, 0, 0.5, "soon", None, [], float("nan"), float("inf"), 10**400])
def test_a_lifetime_that_makes_no_sense_is_one_hour_with_a_warning(expires_in: object) -> None:
    issued = answer(GOOD | {"expires_in": expires_in})

    assert issued.tokens.lifetime == DEFAULT_LIFETIME
    assert "expires_in" in issued.warnings[0]


# Refusals


@pytest.mark.parametrize("status", [200, 201, 302, 400, 401, 403, 404, 422, 429, 500, 503, 599])
def test_a_verdict_is_one_in_any_status(status: int) -> None:
    refusal = answer({"error": "invalid_grant", "error_description": 'gone "now"\n'}, status)

    assert (refusal.error, refusal.description) == ("invalid_grant", "gone  now")
    assert refusal.kind is RefusalKind.VERDICT


@pytest.mark.parametrize("status", [200, 400, 401, 500])
def test_a_refused_client_is_told_from_a_dead_token(status: int) -> None:
    assert answer({"error": "invalid_client"}, status).kind is RefusalKind.CLIENT


@pytest.mark.parametrize("status", [200, 400, 404, 422])
def test_any_other_word_is_a_refusal_that_can_be_told_again(status: int) -> None:
    refusal = answer({"error": "invalid_request", "error_description": "The refresh token is invalid."}, status)

    assert (refusal.error, refusal.description) == ("invalid_request", "The refresh token is invalid.")
    assert refusal.kind is RefusalKind.OTHER
    assert refusal.mark == answer({"error": "invalid_request", "hint": "another"}, 400).mark
    assert refusal.mark != answer({"error": "invalid_scope"}, status).mark


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 410, 422])
def test_a_refusal_without_a_word_is_known_by_status_and_content(status: int) -> None:
    refusal = answer({"message": "No."}, status)

    assert (refusal.error, refusal.description) == (f"HTTP status {status}", "No.")
    assert refusal.kind is RefusalKind.OTHER
    assert refusal.mark == answer({"message": "No."}, status).mark
    assert refusal.mark != answer({"message": "No!"}, status).mark
    assert refusal.mark != answer({"message": "No."}, 418).mark
    assert not refusal.page


def test_a_page_in_front_of_the_token_endpoint_is_named_by_status_and_title() -> None:
    refusal = answer(PAGE, 403)

    assert refusal.error == 'HTTP status 403, a page titled "Just a moment"'
    assert refusal.page
    assert answer(b"<html>", 403).error == "HTTP status 403, a page without a title"
    assert len(answer(b"<title>" + b"x" * 1000, 403).error) < 130
    assert answer(PAGE, 503) == Unclear('HTTP status 503, a page titled "Just a moment"')
    assert answer(PAGE, 302) == NotSent('HTTP status 302, a page titled "Just a moment"')
    assert answer(PAGE) == Unclear('HTTP status 200, a page titled "Just a moment", which is no token response')


@pytest.mark.parametrize("code", ["a\nb", 'a"b', "s3/cret", "x-s3%2Fcret", "x" * 301, " invalid_grant"])
def test_an_error_code_is_shown_only_if_rfc_6749_allows_it_and_no_secret_is_in_it(code: str) -> None:
    content = json.dumps({"error": code}).encode()
    refusal = read_answer(400, content, None, sent_at=1000, previous=None, sent=["s3/cret"])

    assert isinstance(refusal, Refusal)
    assert refusal.error == "an error code that cannot be shown"


def test_a_secret_that_is_the_word_for_an_error_changes_no_meaning() -> None:
    content = b'{"error": "invalid_grant", "error_description": "no such grant"}'
    refusal = read_answer(400, content, None, sent_at=1000, previous=None, sent=["grant"])

    assert isinstance(refusal, Refusal)
    assert (refusal.error, refusal.description) == ("invalid_grant", "no such ***")


@pytest.mark.parametrize("previous", ["old", None])
def test_words_about_a_code_count_only_where_a_code_was_sent(previous: str | None) -> None:
    kind = answer({"error": "bad_verification_code"}, previous=previous).kind

    assert kind is (RefusalKind.OTHER if previous else RefusalKind.VERDICT)


@pytest.mark.parametrize(
    ("status", "document", "reason"),
    [
        (500, {}, "HTTP status 500"),
        (502, {"error": 5}, "HTTP status 502"),
        (408, {}, "HTTP status 408"),
        (500, {"error": "oops"}, "HTTP status 500 (oops)"),
        (503, {"message": "later"}, "HTTP status 503 (later)"),
        (400, {"error": "temporarily_unavailable", "error_description": "later"},
         "HTTP status 400 (temporarily_unavailable: later)"),
        (200, {"error": "server_error"}, "HTTP status 200 (server_error)"),
        (200, {"ok": True}, "HTTP status 200, which is no token response"),
        (204, b"", "HTTP status 204, which is no token response"),
    ],
)  # fmt: skip
def test_other_failures_are_unclear_and_never_a_verdict(status: int, document: object, reason: str) -> None:
    assert answer(document, status) == Unclear(reason)


@pytest.mark.parametrize("status", [301, 302, 307, 425, 429])
def test_where_nobody_was_there_to_spend_it_the_token_is_not_spent(status: int) -> None:
    assert answer({}, status, "7") == NotSent(f"HTTP status {status}", 7)


def test_a_server_may_ask_for_patience() -> None:
    assert answer({}, 503, "7") == Unclear("HTTP status 503", 7)


# Whatever can be read is kept


def test_an_error_that_repeats_what_was_sent_has_no_tokens() -> None:
    assert answer({"error": "bad_refresh_token", "refresh_token": "old"}).kind is RefusalKind.VERDICT


@pytest.mark.parametrize(
    "access",
    ["", None, 5, [], "a\r\nX: y", "a b", "a" * (LONGEST_TOKEN + 1), "tökén", " ", ["a", "b"]],
)
def test_a_new_refresh_token_is_kept_though_the_access_token_cannot_be_used(access: object) -> None:
    rotated = answer(GOOD | {"access_token": access})

    assert isinstance(rotated, Rotated)
    assert rotated.refresh_token == Secret("r")
    assert rotated.reason.startswith("a token response without a usable access token: ")
    assert isinstance(answer(without("refresh_token") | {"access_token": access}), Unclear)
