"""The stored form of a grant."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krebit_proxy.core.grant import (
    LAST_GENERATION,
    LATEST,
    LONGEST_LIFETIME,
    LONGEST_RECORD,
    LONGEST_TOKEN,
    Grant,
    Intent,
    Tokens,
    Verdict,
    from_json,
    to_json,
)
from krebit_proxy.core.secret import Secret

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VISIBLE = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1)
TIMES = st.floats(0, LATEST)
TOKENS = st.builds(
    Tokens,
    access_token=VISIBLE.map(Secret),
    refresh_token=st.none() | TEXT.filter(str.strip).map(Secret),
    obtained_at=st.floats(1e9, 1e10),
    expires_at=st.floats(0, 1e9 + LONGEST_LIFETIME),
    scope=TEXT,
    refresh_expires_at=st.none() | TIMES,
    refresh_end_is_fixed=st.booleans(),
)
GRANTS = st.builds(
    Grant,
    generation=st.integers(1, LAST_GENERATION),
    organization=TEXT,
    client_id=TEXT,
    tokens=st.none() | TOKENS,
    intent=st.none() | st.builds(Intent, at=TIMES, fingerprint=TEXT, holder=TEXT),
    verdict=st.none() | st.builds(Verdict, at=TIMES, reason=TEXT),
    authorized_at=TIMES,
)


@given(GRANTS)
def test_the_stored_form_keeps_everything(grant: Grant) -> None:
    assert from_json(to_json(grant)) == grant


GRANT = Grant(3, "acme", "app", Tokens(Secret("a"), Secret("r"), 1.0, 2.0), Intent(1.0, "f", "h"), Verdict(2.0, "no"))


@given(st.integers(0, len(to_json(GRANT)) - 1))
def test_a_truncated_form_is_an_error_that_shows_nothing(length: int) -> None:
    with pytest.raises(ValueError, match="not a complete grant"):
        from_json(to_json(GRANT)[:length])


# Values that no member may have: member, values.
UNFIT: dict[str, list[object]] = {
    "access_token": [
        "t\r\nX-Evil: 1",
        "t\n",
        "a b",
        "tök",
        "",
        " ",
        "\x00",
        "\ud800",
        "t" * (LONGEST_TOKEN + 1),
        None,
        5,
        True,
        ["t"],
        {},
    ],
    "refresh_token": ["", " \t", "r\udfff", 5, True, [], {}],
    "obtained_at": ["1.0", None, True, -1, 1e300, 10**400, float("nan"), float("inf"), [], {}],
    "expires_at": ["1.0", None, False, -0.5, LATEST * 2, 10**400, float("nan"), float("-inf"), [], {}],
    "scope": [None, 5, [], "\ud800"],
    "refresh_expires_at": ["1.0", True, -1, 1e300, float("nan"), {}],
    "generation": [None, True, 0, -1, 3.0, "3", LAST_GENERATION + 1, 10**400, float("nan"), [3]],
    "organization": [None, 5, ["acme"], "\ud800"],
    "client_id": [None, 5, {}, "\ud800"],
    "authorized_at": [None, "0", True, -1, float("inf"), 1e300],
    "tokens": [0, False, "", [], {}, 5, "t"],
    "intent": [0, False, "", [], {}, {"at": 1.0, "fingerprint": "f"}, {"at": -1, "fingerprint": "f", "holder": "h"}],
    "verdict": [0, False, "", [], {}, {"at": "1", "reason": "no"}, {"at": 1.0, "reason": "\udc00"}],
    "v": [None, True, 1.0, "1", "leaky", 2, 0, -1, 10**30, [1]],
}


def changed(member: str, value: object) -> str:
    """The stored form of a grant with one value changed."""
    document = json.loads(to_json(GRANT))
    (document["tokens"] if member in document["tokens"] else document)[member] = value
    return json.dumps(document)


@pytest.mark.parametrize(("member", "value"), [(member, value) for member, values in UNFIT.items() for value in values])
def test_a_form_with_a_value_that_no_token_response_brings_is_an_error(member: str, value: object) -> None:
    with pytest.raises(ValueError, match=r"^it (is not a complete grant|has (an unknown )?format)") as error:
        from_json(changed(member, value))

    assert "leaky" not in str(error.value)
    assert "Evil" not in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        to_json(GRANT)[:-1] + ', "generation": 4}',
        to_json(GRANT).replace('"scope"', '"access_token": "other", "scope"'),
        "[" * 100_000,
        '{"v":' * 100_000,
        to_json(GRANT) + " " * LONGEST_RECORD,
        b"\xff\xfe",
        to_json(GRANT).encode() + b"\x80",
        b"",
        "null",
        "[]",
        "1",
    ],
    ids=["repeated", "repeated inside", "lists", "objects", "long", "octets", "octet", "empty", "null", "list", "one"],
)
def test_a_form_that_readers_may_read_differently_is_an_error(text: str | bytes) -> None:
    with pytest.raises(ValueError, match="not a complete grant"):
        from_json(text)


def test_members_that_a_later_version_adds_are_ignored() -> None:
    assert from_json(changed("later", {"a": [1]})) == GRANT


def test_a_longer_lifetime_counts_as_the_longest() -> None:
    tokens = from_json(changed("expires_at", LATEST)).tokens

    assert tokens is not None
    assert tokens.lifetime == LONGEST_LIFETIME


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(UNFIT["access_token"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(sorted(UNFIT)), JSON | st.text(min_size=1))
def test_whatever_is_stored_is_an_error_or_a_grant_that_can_be_used(member: str, value: object) -> None:
    try:
        grant = from_json(changed(member, value))
    except ValueError:
        return
    assert from_json(to_json(grant)) == grant
    if grant.tokens is not None:
        assert re.fullmatch(r"[!-~]{1,16384}", grant.tokens.access_token.reveal())
        assert grant.tokens.lifetime <= LONGEST_LIFETIME + 1  # floats
    shown = [grant.organization, grant.client_id, grant.tokens.scope if grant.tokens else ""]
    assert "".join(shown).encode()


def test_a_newer_format_is_named() -> None:
    with pytest.raises(ValueError, match="format 2"):
        from_json(json.dumps(json.loads(to_json(GRANT)) | {"v": 2}))
