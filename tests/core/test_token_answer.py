"""What an answer of the token endpoint comes to (RFC 6749, 5.1 and 5.2)."""

import gzip
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krebit_proxy.core.grant import LONGEST_LIFETIME, LONGEST_TOKEN, Tokens
from krebit_proxy.core.http_answer import AnswerReader, HttpAnswer
from krebit_proxy.core.secret import Secret
from krebit_proxy.core.token_answer import DEFAULT_LIFETIME, read_answer
from krebit_proxy.core.token_response import Issued, NotSent, Refusal, RefusalKind, Rotated, Unclear

NOW = 1_700_000_000  # 2023-11-14T22:13:20Z
GOOD = {"access_token": "a", "token_type": "Bearer", "expires_in": 60, "refresh_token": "r"}
PAGE = b"<!DOCTYPE html><html><head><title>Just a\n moment&hellip;</title></head><body>Ray 7</body></html>"

UNUSABLE = "a token response without a usable access token: "


def answer(
    document: object, status: int = 200, previous: str | None = "old", *, broken: str = "", **fields: str
) -> Any:
    content = document if isinstance(document, bytes) else json.dumps(document).encode()
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    before = Secret(previous) if previous else None
    return read_answer(HttpAnswer(status, named, content, broken), sent_at=NOW, previous=before, sent=["s3/cret"])


def without(name: str) -> dict[str, object]:
    return {k: v for k, v in GOOD.items() if k != name}


# Tokens as they should be


def test_a_good_answer_counts_its_lifetime_from_before_the_request() -> None:
    assert answer(GOOD | {"scope": "read", "unknown": 1}) == Issued(
        Tokens(Secret("a"), Secret("r"), NOW, NOW + 60, "read")
    )


def test_a_refresh_token_that_is_a_number_is_one() -> None:
    assert answer(GOOD | {"refresh_token": 834512345678}).tokens.refresh_token == Secret("834512345678")


@pytest.mark.parametrize(
    "refresh", [{}, {"refresh_token": ""}, {"refresh_token": " "}, {"refresh_token": None}, {"refresh_token": [7]}]
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
    assert answer({"error": code}, 400).error == "an error code that cannot be shown"


def test_a_secret_that_is_the_word_for_an_error_changes_no_meaning() -> None:
    content = b'{"error": "invalid_grant", "error_description": "no such grant"}'
    refusal = read_answer(HttpAnswer(400, content=content), sent_at=NOW, previous=None, sent=["grant"])

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
    assert answer({}, status, retry_after="7") == NotSent(f"HTTP status {status}", 7)


def test_a_server_may_ask_for_patience() -> None:
    assert answer({}, 503, retry_after="7") == Unclear("HTTP status 503", 7)


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
    assert rotated.reason.startswith(UNUSABLE)
    assert isinstance(answer(without("refresh_token") | {"access_token": access}), Unclear)


def test_an_answer_with_neither_says_what_is_wrong_with_the_access_token() -> None:
    unclear = answer({"access_token": "a b", "expires_in": 60})

    assert unclear == Unclear(f"HTTP status 200, {UNUSABLE}it has characters that a header cannot contain")


def test_a_scope_may_be_a_list() -> None:
    assert answer(GOOD | {"scope": ["read", "write", 5]}).tokens.scope == "read write"
    assert answer(GOOD | {"scope": 5}).tokens.scope == ""


@pytest.mark.parametrize("status", [201, 202, 203, 206, 299])
def test_any_2xx_brings_tokens(status: int) -> None:
    issued = answer(GOOD, status)

    assert issued.tokens == answer(GOOD).tokens
    assert issued.warnings == (f"The token response has HTTP status {status} instead of 200.",)


@pytest.mark.parametrize("kind", ["BearerToken", "jwt-bearer", "", "Bearer ", None, "mac", 5, {}, ["bearer"]])
def test_any_token_type_is_taken_as_bearer_with_a_warning(kind: object) -> None:
    issued = answer(GOOD | {"token_type": kind})

    assert issued.tokens.access_token == Secret("a")
    assert "assumes Bearer" in issued.warnings[0]


@pytest.mark.parametrize(
    ("content", "warning"),
    [
        (urlencode(GOOD).encode(), "form-encoded"),
        (json.dumps({"data": GOOD}).encode(), "inside another object"),
        (b"<br />Notice: x<br />" + json.dumps(GOOD).encode(), "other text around it"),
        (json.dumps(GOOD | {"access_token": " a\r\n"}).encode(), "white space"),
    ],
)
def test_an_unusual_shape_costs_a_warning_that_shows_nothing_of_it(content: bytes, warning: str) -> None:
    issued = answer(content)

    assert (issued.tokens.access_token, issued.tokens.refresh_token) == (Secret("a"), Secret("r"))
    assert issued.tokens.lifetime == 60
    assert [warning in text for text in issued.warnings] == [True]


def test_warnings_and_reasons_show_nothing_of_an_answer() -> None:
    leaky = dict.fromkeys(("token_type", "expires_in", "scope", "leaky"), "leaky")
    content = b"leaky" + json.dumps({"leaky": GOOD | leaky}).encode()
    issued = answer(content, 201, broken="cut", content_type="leaky", content_encoding="leaky")
    rotated = answer(content.replace(b'"a"', b'"leaky leaky"'))

    assert len(issued.warnings) == 5
    assert "leaky" not in " ".join(issued.warnings)
    assert "leaky" not in rotated.reason


def test_a_transfer_that_broke_off_after_the_tokens_costs_a_warning() -> None:
    issued = answer(json.dumps(GOOD).encode()[:-1], broken="cut")

    assert issued.tokens.refresh_token == Secret("r")
    assert "The token response broke off after the tokens: cut." in issued.warnings


def test_one_that_broke_off_before_them_is_unclear() -> None:
    assert answer(b'{"access_tok', broken="cut") == Unclear("HTTP status 200, which is no token response, but cut")
    assert answer(b"", 0, broken="cut") == Unclear("cut")
    assert answer(b"SSH", 0) == Unclear("an answer that is not HTTP")
    assert answer(b"<ht", 403, broken="cut") == Unclear("HTTP status 403, but cut")
    assert answer({"error": "invalid_grant"}, 400, broken="cut").kind is RefusalKind.VERDICT


def test_charset_and_coding_are_read_from_the_fields() -> None:
    content = json.dumps(GOOD | {"refresh_token": "é"}, ensure_ascii=False)

    for quote in ("", '"'):
        named = f"application/json; Charset={quote}cp037{quote}"
        assert answer(content.encode("cp037"), content_type=named).tokens.refresh_token == Secret("é")
    assert answer(gzip.compress(content.encode()), content_encoding="gzip").tokens.refresh_token == Secret("é")


def test_a_coding_that_cannot_be_read_is_named() -> None:
    reason = "HTTP status 200, which is no token response, with the content coding 'br', which was not asked for"

    assert answer(b"\x8b\x02\x80", content_encoding="br") == Unclear(reason)


def test_of_several_refresh_tokens_the_outermost_the_last_and_a_new_one_counts() -> None:
    def kept(document: object) -> Secret | None:
        refresh_token: Secret | None = answer(document).tokens.refresh_token
        return refresh_token

    assert kept(GOOD | {"user": {"refresh_token": "inner"}}) == Secret("r")
    assert kept(b'{"access_token": "a", "refresh_token": "x", "refresh_token": "r"}') == Secret("r")
    assert kept(b'{"access_token": "a", "refresh_token": "r", "refresh_token": "old"}') == Secret("r")
    assert kept(GOOD | {"refresh_token": "old"}) == Secret("old")


def test_two_different_access_tokens_are_none() -> None:
    rotated = answer(b'{"access_token": "a", "access_token": "b", "refresh_token": "r"}')

    assert rotated == Rotated(Secret("r"), f"{UNUSABLE}there are two different ones")


def test_success_wins_over_an_error_beside_it() -> None:
    assert isinstance(answer(GOOD | {"error": None}), Issued)
    assert isinstance(answer(GOOD | {"error": "invalid_grant"}), Issued)


# Lifetimes in other words


@pytest.mark.parametrize(
    ("members", "lifetime"),
    [
        ({"expiresIn": 50}, 50),
        ({"expires_at": NOW + 50}, 50),
        ({"expires_on": str(NOW + 50)}, 50),
        ({"expires": 50}, 50),
        ({"expires": (NOW + 50) * 1000}, 50),
        ({"expiresAt": "2023-11-14T22:14:10Z"}, 50),
        ({"expires_at": NOW + 50, "expires_in": 40}, 40),
        ({"expires_at": NOW + 50, "expires_in": "soon"}, 50),
        ({"expires_at": 2 * NOW}, LONGEST_LIFETIME),
        ({"expires_at": NOW - 1}, DEFAULT_LIFETIME),
        ({"expires_at": "tomorrow"}, DEFAULT_LIFETIME),
        ({"expires_at": ["1050"]}, DEFAULT_LIFETIME),
        ({"expires_at": "2023-11-14T22:14:10"}, DEFAULT_LIFETIME),
        ({"session": {"expires_in": 50}}, DEFAULT_LIFETIME),
    ],
)
def test_the_lifetime_is_read_under_other_names_beside_the_tokens(members: dict[str, Any], lifetime: float) -> None:
    assert answer(without("expires_in") | members).tokens.lifetime == lifetime


@pytest.mark.parametrize(
    ("members", "ends"),
    [
        ({"refresh_expires_in": 1800}, NOW + 1800),
        ({"refresh_token_expires_in": "1800"}, NOW + 1800),
        ({"x_refresh_token_expires_in": 8_726_400}, NOW + 8_726_400),
        ({"refreshTokenExpiresIn": 1800}, NOW + 1800),
        ({"refresh_token_expires_at": NOW + 1800}, NOW + 1800),
        ({"refresh_token_expires_at": 1_800_000_000_000}, 1_800_000_000),
        ({"refresh_token_expires_at": "2030-01-01T00:00:00Z"}, 1_893_456_000),
        ({"refresh_token_expires_at": "2030-01-01T01:00:00.000+01:00"}, 1_893_456_000),
        ({}, None),
        ({"refresh_expires_in": 0}, None),  # Keycloak: an offline token, which has no end
        ({"refresh_expires_in": -1}, None),
        ({"refresh_expires_in": True}, None),
        ({"refresh_expires_in": None}, None),
        ({"refresh_expires_in": 10**30}, None),
        ({"refresh_token_expires_at": NOW - 1}, None),
        ({"refresh_token_expires_at": "2030-02-30T00:00:00Z"}, None),
        ({"refresh_token_expires_at": "0001-01-01T00:00:00+14:00"}, None),
        ({"refresh_token_expires_at": 10**300}, None),
    ],
)
def test_the_end_of_the_refresh_token_is_read_if_it_makes_sense(members: dict[str, Any], ends: float | None) -> None:
    assert answer(GOOD | members).tokens.refresh_expires_at == ends
    assert answer(GOOD | members | {"access_token": ""}).refresh_expires_at == ends
    assert answer({"data": GOOD | members}).tokens.refresh_expires_at == ends


# All of it together

Text = Callable[[dict[str, Any]], str]
SHAPES: dict[str, Text] = {
    "json": json.dumps,
    "raw": lambda document: json.dumps(document, ensure_ascii=False),
    "indented": lambda document: json.dumps(document, indent=4, ensure_ascii=False),
    "form": lambda document: urlencode(
        {name: value for name, value in document.items() if value is not None} | {"x": 1}
    ),
    "data": lambda document: json.dumps({"ok": True, "data": document}),
    "list": lambda document: json.dumps([{"log": 1}, document]),
    "camel": lambda document: json.dumps(
        {name.title().replace("_", ""): value for name, value in document.items()}, ensure_ascii=False
    ),
    "string": lambda document: json.dumps(json.dumps(document)),
    "notice": lambda document: f"<br />\n<b>Notice</b>: {{x}} in y.php<br />\n{json.dumps(document)}",
    "prefix": lambda document: f")]}}',\n{json.dumps(document)}",
    "callback": lambda document: f"callback({json.dumps(document)});",
    "comma": lambda document: f"{json.dumps(document)[:-1]}, }}",
    "cut": lambda document: f'{json.dumps(document, ensure_ascii=False)[:-1]}, "scope": "re',
    "lines": lambda document: f'{{"log": 1}}\n{json.dumps(document)}\n{{"log": 2}}',
    "twice": lambda document: json.dumps(document) * 2,
}
FRAMINGS: dict[str, Callable[[bytes], bytes]] = {
    "length": lambda content: b"Content-Length: %d\r\n\r\n%s" % (len(content), content),
    "chunks": lambda content: (
        b"Transfer-Encoding: chunked\r\n\r\n1\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n"
        % (content[:1], len(content) - 1, content[1:])
    ),
    "cut chunks": lambda content: b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s" % (len(content), content),
    "until the end": lambda content: b"Content-Length: many\r\n\r\n%s" % content,
    "too long": lambda content: b"Content-Length: %d\r\n\r\n%s" % (len(content) + 9, content),
    "bad line ends": lambda content: b"no colon\nContent-Length: %d\n\n%s" % (len(content), content),
}
READABLE = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda token: token.strip() != "")


@given(
    refresh=READABLE.filter(lambda token: token != "old"),
    access=st.sampled_from(
        ["a", "a" * LONGEST_TOKEN, "a" * (LONGEST_TOKEN + 1), "", " ", "a b", "å", "a\r\nX: y", None]
    ),
    members=st.fixed_dictionaries(
        {},
        optional={
            "token_type": st.none() | st.text() | st.integers(),
            "expires_in": st.none() | st.text() | st.integers() | st.floats(),
            "error": st.none() | st.sampled_from(["", "invalid_grant", "server_error"]),
            "refresh_expires_in": st.none() | st.text() | st.integers() | st.floats(),
        },
    ),
    shape=st.sampled_from(sorted(SHAPES)),
    charset=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "utf-32-be"]),
    compressed=st.booleans(),
    framing=st.sampled_from(sorted(FRAMINGS)),
    status=st.integers(200, 299).filter(lambda status: status != 204),
    content_type=st.sampled_from(["application/json", "text/html; charset=latin-1", "", "x; charset=idna"]),
)
def test_whatever_is_wrong_a_refresh_token_that_can_be_read_is_kept_exactly(
    *,
    refresh: str,
    access: str | None,
    members: dict[str, Any],
    shape: str,
    charset: str,
    compressed: bool,
    framing: str,
    status: int,
    content_type: str,
) -> None:
    document = {"access_token": access, "refresh_token": refresh} | members
    content = SHAPES[shape](document).encode(charset)
    content = gzip.compress(content) if compressed else content
    head = f"HTTP/1.1 {status} X\r\nContent-Type: {content_type}\r\n".encode()
    reader = AnswerReader()
    reader.feed(head + FRAMINGS[framing](content))
    outcome = read_answer(reader.answer(ended="cut"), sent_at=NOW, previous=Secret("old"))

    if access is not None and 0 < len(access) <= LONGEST_TOKEN and set(access) == {"a"}:
        assert isinstance(outcome, Issued)
        assert outcome.tokens.access_token == Secret(access)
        assert outcome.tokens.refresh_token == Secret(refresh)
    else:
        assert isinstance(outcome, Rotated)
        assert outcome.refresh_token == Secret(refresh)
