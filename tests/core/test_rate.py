"""The rate of each caller."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krebit_proxy.core.rate import Rates


def test_a_burst_passes_and_then_the_rate() -> None:
    rates = Rates(rate=2, burst=3)
    assert [rates.wait("a", 10.0) for _ in range(3)] == [0, 0, 0]
    assert rates.wait("a", 10.0) == pytest.approx(0.5)
    assert rates.wait("a", 10.4) == pytest.approx(0.1)
    assert rates.wait("a", 10.5) == 0
    assert rates.wait("a", 10.5) > 0


def test_a_pause_fills_the_burst_again_and_no_more() -> None:
    rates = Rates(rate=2, burst=3)
    assert [rates.wait("a", 1.0) for _ in range(3)] == [0, 0, 0]
    assert [rates.wait("a", 100.0) == 0 for _ in range(4)] == [True, True, True, False]


def test_callers_do_not_take_from_each_other() -> None:
    rates = Rates(rate=1, burst=1)
    assert rates.wait("a", 0.0) == 0
    assert rates.wait("b", 0.0) == 0
    assert rates.wait("a", 0.0) > 0


@given(st.integers(1, 5), st.integers(1, 5), st.lists(st.floats(0, 1), max_size=60))
def test_no_caller_gets_more_than_burst_and_rate_together(rate: int, burst: int, pauses: list[float]) -> None:
    rates, now, passed = Rates(rate, burst), 0.0, 0
    for pause in pauses:
        now += pause
        passed += rates.wait("a", now) == 0
    assert passed <= burst + rate * now + 1e-6
