"""Our own errors: each has a code that callers know, and a status that HTTP knows."""

import re
from http import HTTPStatus
from pathlib import Path

import pytest

import krebit_proxy
from krebit_proxy.errors import CODES, SETUP_CODES, ProxyError, Refused, SettingsError, StoreError

SOURCES = sorted(Path(krebit_proxy.__file__).parent.rglob("*.py"))


def test_each_code_has_a_status_of_http_and_a_title() -> None:
    for code, (status, title) in CODES.items():
        assert 400 <= HTTPStatus(status) < 600, code
        assert title, code
        assert not title.endswith("."), code


def test_no_other_code_is_raised() -> None:
    raised = {
        code
        for path in SOURCES
        for code in re.findall(r'(?:\bRefused\(|\bcode=|\bcode: str = )\s*"([a-z_]+)"', path.read_text())
    }

    assert raised
    assert raised - CODES.keys() == set()


def test_each_code_stands_in_the_program_besides_its_table() -> None:
    text = "".join(path.read_text() for path in SOURCES if path.name != "errors.py")

    assert [code for code in CODES if f'"{code}"' not in text] == []


@pytest.mark.parametrize("code", sorted(CODES))
def test_a_refusal_is_answered_with_the_status_of_its_code(code: str) -> None:
    refusal = Refused(code, "What is wrong.", hint="What to do.", retry_after=3, allow=("GET",))

    assert (refusal.status, refusal.title) == CODES[code]
    assert (str(refusal), refusal.hint, refusal.retry_after, refusal.allow) == (
        "What is wrong.",
        "What to do.",
        3,
        ("GET",),
    )


def test_wrong_settings_name_each_problem() -> None:
    error = SettingsError(["one", "two"])

    assert error.problems == ["one", "two"]
    assert str(error) == "one\ntwo"
    assert error.hint


def test_a_store_that_fails_needs_a_person_unless_time_may_help() -> None:
    assert StoreError("It is damaged.").code == "misconfigured"
    assert StoreError("It is away.", code="token_unavailable").status == 503


def test_what_ends_at_setup_is_a_matter_of_the_grant() -> None:
    assert {CODES[code][0] for code in SETUP_CODES} == {503}
    assert ProxyError.code not in SETUP_CODES
