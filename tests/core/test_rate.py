"""The rate of each caller, and of guesses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krebit_proxy.core.rate import Guesses, Rates


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


KEY = b"digest of a right key"


def guessed(guesses: Guesses, site: str, now: float, times: int) -> int:
    """How many of so many wrong keys at once were looked at."""
    return sum(guesses.wrong(site, now) == 0 for _ in range(times))


def test_ten_wrong_keys_are_free_and_then_the_pauses_double() -> None:
    guesses, now, pauses = Guesses(), 100.0, []
    assert guessed(guesses, "a", now, 2000) == 11
    for _ in range(9):
        pauses.append(guesses.wrong("a", now))
        now += pauses[-1]
        assert guesses.wrong("a", now) == 0
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_in_a_pause_no_other_key_that_could_be_guessed_counts() -> None:
    guesses = Guesses()
    guessed(guesses, "a", 0.0, 11)
    assert guesses.right("a", KEY, 0.25) == 0.75
    assert guesses.right("b", KEY, 0.25) == 0
    assert guesses.right("a", KEY, 1.0) == 0
    assert guesses.wrong("a", 1.0) == 0
    assert guesses.right("a", b"another", 1.0) == 2


def test_a_key_that_was_used_from_there_before_counts_in_every_pause() -> None:
    guesses = Guesses()
    assert guesses.right("a", KEY, 0.0) == 0
    guessed(guesses, "a", 0.0, 2000)
    assert guesses.right("a", KEY, 0.0) == 0
    assert guesses.right("a", b"another", 0.0) > 0


def test_after_a_quiet_time_a_site_starts_anew() -> None:
    guesses = Guesses()
    guessed(guesses, "a", 0.0, 11)
    assert guessed(guesses, "a", 901.5, 2000) == 11


def test_sites_and_keys_are_forgotten_when_there_are_too_many() -> None:
    guesses = Guesses()
    guesses.right("first", KEY, 0.0)
    guessed(guesses, "first", 0.0, 11)
    for number in range(4096):
        guesses.wrong(str(number), 0.0)
    assert guesses.right("first", b"another", 0.0) == 0
    for number in range(4096):
        guesses.right(str(number), KEY, 0.0)
    guessed(guesses, "first", 0.0, 11)
    assert guesses.right("first", KEY, 0.0) > 0
    assert len(guesses._sites) == len(guesses._known) == 4096
