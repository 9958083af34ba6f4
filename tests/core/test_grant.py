"""Token responses, error responses, and the stored form (RFC 6749, 5.1 and 5.2)."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krebit_proxy.core.grant import Grant, Intent, Tokens, Verdict, from_json, to_json
from krebit_proxy.core.secret import Secret
from krebit_proxy.core.token_response import (
    DEFAULT_LIFETIME,
    LONGEST_LIFETIME,
    LONGEST_TOKEN,
    Issued,
    NotSent,
    Refusal,
    Unclear,
    displayable,
    read_answer,
    word_for,
)

GOOD = {"access_token": "a", "token_type": "Bearer", "expires_in": 60, "refresh_token": "r"}


def answer(document: object, status: int = 200, retry_after: str | None = None, previous: str | None = "old") -> Any:
    content = document if isinstance(document, bytes) else json.dumps(document).encode()
    return read_answer(status, content, retry_after, sent_at=1000, previous=Secret(previous) if previous else None)


def test_a_good_answer_counts_its_lifetime_from_before_the_request() -> None:
    assert answer(GOOD | {"scope": "read", "unknown": 1}) == Issued(
        Tokens(Secret("a"), Secret("r"), 1000, 1060, "read")
    )


@pytest.mark.parametrize("refresh", [{}, {"refresh_token": ""}, {"refresh_token": None}, {"refresh_token": 7}])
def test_without_a_new_refresh_token_the_old_one_stays(refresh: dict[str, object]) -> None:
    document = {k: v for k, v in GOOD.items() if k != "refresh_token"} | refresh

    assert answer(document).tokens.refresh_token == Secret("old")


def test_a_first_answer_without_a_refresh_token_is_taken_with_a_warning() -> None:
    issued = answer({k: v for k, v in GOOD.items() if k != "refresh_token"}, previous=None)

    assert issued.tokens.refresh_token is None
    assert "no refresh token" in issued.warnings[0]


@pytest.mark.parametrize("token_type", ["bearer", "BEARER", "Bearer"])
def test_the_token_type_is_case_insensitive(token_type: str) -> None:
    assert answer(GOOD | {"token_type": token_type}).warnings == ()


def test_a_missing_token_type_is_taken_with_a_warning() -> None:
    issued = answer({k: v for k, v in GOOD.items() if k != "token_type"})

    assert "token_type" in issued.warnings[0]


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


@pytest.mark.parametrize(
    "content",
    [
        b"<html>login</html>", b"[]", b'"text"', b"", b"\xff\xfe", b"[" * 100_000,
        GOOD | {"access_token": ""}, GOOD | {"access_token": "a\r\nX: y"}, GOOD | {"access_token": 5},
        GOOD | {"access_token": "a" * (LONGEST_TOKEN + 1)}, GOOD | {"access_token": "tökén"},
        GOOD | {"token_type": "mac"}, GOOD | {"token_type": 5}, {"error": "invalid_grant"},
    ],
)  # fmt: skip
def test_a_200_that_is_no_token_response_leaves_the_outcome_unclear(content: object) -> None:
    assert isinstance(answer(content), Unclear)


@pytest.mark.parametrize("status", [400, 401, 403])
def test_an_error_response_is_read_from_400_401_and_403(status: int) -> None:
    refusal = answer({"error": "invalid_grant", "error_description": 'gone "now"\n'}, status)

    assert refusal == Refusal("invalid_grant", "gone  now")


@pytest.mark.parametrize("code", ["a\nb", 'a"b', "s3/cret", "x-s3%2Fcret", "x" * 301, " invalid_grant"])
def test_an_error_code_is_shown_only_if_rfc_6749_allows_it_and_no_secret_is_in_it(code: str) -> None:
    content = json.dumps({"error": code}).encode()
    refusal = read_answer(400, content, None, sent_at=1000, previous=None, sent=["s3/cret"])

    assert refusal == Refusal("an error code that cannot be shown")


def test_a_secret_that_is_the_word_for_an_error_changes_no_meaning() -> None:
    content = b'{"error": "invalid_grant", "error_description": "no such grant"}'
    refusal = read_answer(400, content, None, sent_at=1000, previous=None, sent=["grant"])

    assert refusal == Refusal("invalid_grant", "no such ***")


@pytest.mark.parametrize(
    ("status", "document"),
    [
        (400, {}),
        (401, b"<html>"),
        (403, {"error": 5}),
        (403, {"error": ""}),
        (500, {"error": "invalid_grant"}),
        (502, {}),
    ],
)
def test_other_failures_are_unclear_and_never_a_verdict(status: int, document: object) -> None:
    assert answer(document, status) == Unclear(f"HTTP status {status}")


@pytest.mark.parametrize("status", [301, 302, 307, 404, 405, 429])
def test_where_nobody_was_there_to_spend_it_the_token_is_not_spent(status: int) -> None:
    assert answer({"error": "invalid_grant"}, status) == NotSent(f"HTTP status {status}")


@pytest.mark.parametrize(
    ("field", "seconds"),
    [
        ("7", 7),
        (" 7 ", 7),
        ("0", 1),
        ("99999", 600),
        ("-1", None),
        ("Thu, 01 Jan 1970 00:20:00 GMT", 200),  # 1200 seconds after the epoch; the request was sent after 1000
        ("Thu, 01 Jan 1970 00:00:00 GMT", 1),
        ("Wed, 21 Oct 2026 07:28:00 GMT", 600),
        ("Wed, 99 Oct 2026 07:28:00 GMT", None),
        ("tomorrow", None),
        (None, None),
    ],
)
def test_patience_is_read_from_retry_after_and_capped(field: str | None, seconds: float | None) -> None:
    assert answer({}, 503, field) == Unclear("HTTP status 503", seconds)
    assert answer({}, 429, field) == NotSent("HTTP status 429", seconds)


def test_each_outcome_has_a_word_and_no_server_can_add_another() -> None:
    outcomes = [answer(GOOD), NotSent("a b"), Unclear("c d"), Refusal("invalid_grant", "gone"), Refusal("made up")]

    assert [word_for(outcome) for outcome in outcomes] == ["ok", "not_sent", "unclear", "invalid_grant", "refused"]


def test_error_texts_are_cut_to_what_may_be_shown() -> None:
    assert displayable("x" * 1000) == "x" * 300
    assert displayable("a\x1b[31m\\b") == "a [31m b"
    assert displayable(None) == ""


def test_secrets_are_masked_in_every_spelling_and_before_the_text_is_cut() -> None:
    secrets = ["s3 cret", "s3 cret longer", ""]
    assert displayable("s3 cret, s3+cret, s3%20cret, s3 cret longer", secrets) == "***, ***, ***, ***"
    assert displayable("x" * 297 + "s3 cret", secrets) == "x" * 297 + "***"
    assert displayable("x" * 299 + "s3 cret", secrets) == "x" * 299 + "*"


TOKENS = st.builds(
    Tokens,
    access_token=st.text(min_size=1).map(Secret),
    refresh_token=st.none() | st.text(min_size=1).map(Secret),
    obtained_at=st.floats(0, 1e12),
    expires_at=st.floats(0, 1e12),
    scope=st.text(),
)
GRANTS = st.builds(
    Grant,
    generation=st.integers(1, 10**9),
    organization=st.text(),
    client_id=st.text(),
    tokens=st.none() | TOKENS,
    intent=st.none() | st.builds(Intent, at=st.floats(0, 1e12), fingerprint=st.text(), holder=st.text()),
    verdict=st.none() | st.builds(Verdict, at=st.floats(0, 1e12), reason=st.text()),
    authorized_at=st.floats(0, 1e12),
)


@given(GRANTS)
def test_the_stored_form_keeps_everything(grant: Grant) -> None:
    assert from_json(to_json(grant)) == grant


GRANT = Grant(3, "acme", "app", Tokens(Secret("a"), Secret("r"), 1.0, 2.0), Intent(1.0, "f", "h"), Verdict(2.0, "no"))


@given(st.integers(0, len(to_json(GRANT)) - 1))
def test_a_truncated_form_is_an_error_that_shows_nothing(length: int) -> None:
    with pytest.raises(ValueError, match="not a complete grant"):
        from_json(to_json(GRANT)[:length])


@pytest.mark.parametrize(
    "wrong", [{"generation": 0}, {"generation": "3"}, {"tokens": {}}, {"tokens": 5}, {"intent": []}]
)
def test_a_form_with_wrong_values_is_an_error(wrong: dict[str, object]) -> None:
    document = json.loads(to_json(replace(GRANT, intent=Intent(1.0, "f", "h")))) | wrong
    if wrong in ({"tokens": {}}, {"intent": []}):
        document |= {"tokens": {"access_token": ""}}

    with pytest.raises(ValueError, match="not a complete grant"):
        from_json(json.dumps(document))


def test_a_newer_format_is_named() -> None:
    with pytest.raises(ValueError, match="format 2"):
        from_json(json.dumps(json.loads(to_json(GRANT)) | {"v": 2}))
