"""The words of error responses."""

import json

import pytest

from krebit_proxy.core.content import read_objects
from krebit_proxy.core.token_error import displayable, error_text, error_word, is_transient, kind_of
from krebit_proxy.core.token_response import RefusalKind


@pytest.mark.parametrize(
    "word",
    [
        "invalid_grant",
        "INVALID_GRANT",
        "InvalidGrant",
        "invalid-grant",
        "bad_refresh_token",
        "BAD_REFRESH_TOKEN",
        "invalid_refresh_token",
        "expired_token",
        "refresh_token_expired",
        "refresh_token_not_found",
        "refresh_token_already_used",
        "Invalid Refresh Token",
        "urn:example:error:invalid_grant",
        "https://errors.example/oauth#invalid_refresh_token",
        "keymanagement.service.invalid_refresh_token",
        "invalid_grant: the token was revoked",
    ],
)
def test_a_word_that_can_only_mean_a_dead_refresh_token_is_a_verdict(word: str) -> None:
    assert kind_of(word) is RefusalKind.VERDICT


@pytest.mark.parametrize(
    "word",
    [
        "invalid_request",
        "invalid_token",
        "token_expired",
        "refresh_token_required",
        "missing_refresh_token",
        "invalid_grant_type",
        "unsupported_grant_type",
        "not_invalid_grant",
        "interaction_required",
        "error",
        "",
    ],
)
def test_a_word_that_may_speak_of_something_else_is_none(word: str) -> None:
    assert kind_of(word) is RefusalKind.OTHER


@pytest.mark.parametrize("word", ["bad_verification_code", "BAD_AUTH_CODE", "invalid_code", "code_already_used"])
def test_a_dead_code_is_a_verdict_only_where_a_code_was_sent(word: str) -> None:
    assert kind_of(word, code=True) is RefusalKind.VERDICT
    assert kind_of(word) is RefusalKind.OTHER


@pytest.mark.parametrize(
    "word",
    ["invalid_client", "unauthorized_client", "incorrect_client_credentials", "BAD_CLIENT_ID", "bad_client_secret"],
)
def test_a_word_about_the_client_asks_for_other_settings(word: str) -> None:
    assert kind_of(word) is RefusalKind.CLIENT


def test_words_that_ask_for_another_try_are_known() -> None:
    assert is_transient("temporarily_unavailable")
    assert is_transient("Too Many Requests")
    assert not is_transient("invalid_request")


@pytest.mark.parametrize(
    ("document", "word", "text"),
    [
        ({"error": "invalid_grant", "error_description": "gone"}, "invalid_grant", "gone"),
        ({"error": {"code": "invalid_grant", "message": "gone"}}, "invalid_grant", "gone"),
        ({"error": {"code": 400, "status": "INVALID_ARGUMENT", "message": "bad"}}, "INVALID_ARGUMENT", "bad"),
        ({"error": {"type": "OAuthException", "code": 190, "message": "m"}}, "OAuthException", "m"),
        ({"errors": [{"errorType": "invalid_grant", "message": "gone"}], "success": False}, "invalid_grant", "gone"),
        ({"errors": [{"code": "invalid_grant", "detail": "gone"}]}, "invalid_grant", "gone"),
        ({"errors": ["odd"]}, "", ""),
        ({"status": "BAD_REFRESH_TOKEN", "message": "gone"}, "BAD_REFRESH_TOKEN", "gone"),
        ({"status": "error", "message": "odd"}, "", "odd"),
        ({"error": "invalid_request", "code": "invalid_refresh_token"}, "invalid_refresh_token", ""),
        ({"error": "invalid_client", "code": "invalid_grant"}, "invalid_client", ""),
        ({"ErrorCode": "invalid_request", "Error": "Refresh Token expired"}, "Refresh Token expired", ""),
        ({"type": "https://errors.example/invalid_grant", "title": "Gone", "detail": "It is gone."},
         "https://errors.example/invalid_grant", "It is gone."),
        ([{"errorCode": "INVALID_SESSION", "message": "m"}], "INVALID_SESSION", "m"),
        ({"data": {"error": "invalid_grant"}}, "invalid_grant", ""),
        ({"error": True, "message": ["not", "text"]}, "", ""),
        ({"error": "  "}, "", ""),
    ],
)  # fmt: skip
def test_word_and_text_are_found_where_servers_put_them(document: object, word: str, text: str) -> None:
    objects = read_objects(json.dumps(document))

    assert error_word(objects) == word
    assert error_text(objects) == text


def test_error_texts_are_cut_to_what_may_be_shown() -> None:
    assert displayable("x" * 1000) == "x" * 300
    assert displayable("a\x1b[31m\\b") == "a [31m b"
    assert displayable(None) == ""


def test_secrets_are_masked_in_every_spelling_and_before_the_text_is_cut() -> None:
    secrets = ["s3 cret", "s3 cret longer", ""]
    assert displayable("s3 cret, s3+cret, s3%20cret, s3 cret longer", secrets) == "***, ***, ***, ***"
    assert displayable("x" * 297 + "s3 cret", secrets) == "x" * 297 + "***"
    assert displayable("x" * 299 + "s3 cret", secrets) == "x" * 299 + "*"
