"""The stored form of a grant."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krebit_proxy.core.grant import Grant, Intent, Tokens, Verdict, from_json, to_json
from krebit_proxy.core.secret import Secret

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
