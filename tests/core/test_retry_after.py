"""How long a server asks us to wait (RFC 9110, 10.2.3)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krebit_proxy.core.retry_after import seconds_to_wait

NOW = 784_111_777.0  # Sun, 06 Nov 1994 08:49:37 GMT, the example of RFC 9110, 5.6.7


@pytest.mark.parametrize(
    ("field", "seconds"),
    [
        ("120", 120),
        (" 120 ", 120),
        ("0", 1),
        ("99999", 600),
        ("Sun, 06 Nov 1994 08:51:37 GMT", 120),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 1),
        ("Mon, 07 Nov 1994 08:49:37 GMT", 600),
    ],
)
def test_seconds_and_dates_are_obeyed_between_one_second_and_ten_minutes(field: str, seconds: float) -> None:
    assert seconds_to_wait(field, NOW) == seconds


@pytest.mark.parametrize(
    "field",
    [
        None,
        "",
        "-1",
        "1.5",
        "soon",
        "\N{FULLWIDTH DIGIT ONE}",
        "1 2",
        "1234567890",
        "Sun, 99 Nov 1994 08:51:37 GMT",
        "1994-11-06 08:51:37",
    ],
)
def test_what_is_no_such_field_asks_for_nothing(field: str | None) -> None:
    assert seconds_to_wait(field, NOW) is None


@given(st.text(max_size=40), st.floats(0, 4e9))
def test_whatever_a_server_sends_nobody_waits_for_ever(field: str, now: float) -> None:
    seconds = seconds_to_wait(field, now)

    assert seconds is None or 1 <= seconds <= 600
