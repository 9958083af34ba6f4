"""Two clocks must agree that a token is fresh."""

import pytest

from krebit_proxy.core.freshness import SKEW, Freshness, Moment
from krebit_proxy.core.grant import Tokens
from krebit_proxy.core.secret import Secret


def tokens(obtained: float, expires: float) -> Tokens:
    return Tokens(Secret("a"), None, obtained, expires)


NEW = Freshness.of(tokens(1000, 4600), Moment(wall=1000, boot=50))


@pytest.mark.parametrize(
    ("now", "left"),
    [
        (Moment(1000, 50), 3600),
        (Moment(2000, 1050), 2600),
        (Moment(3000, 1050), 1600),  # the wall clock was set forward
        (Moment(-5000, 1050), 2600),  # the wall clock was set back
        (Moment(1010, 3050), 600),  # the wall clock is slow, or the machine slept and it was not set yet
        (Moment(9000, 60), -4400),  # it slept, and only the wall clock went on
    ],
)
def test_the_more_careful_clock_decides(now: Moment, left: float) -> None:
    assert NEW.left(now) == left


def test_a_restart_goes_by_the_wall_clock() -> None:
    assert Freshness.of(tokens(1000, 4600), Moment(wall=4000, boot=7)).left(Moment(4100, 107)) == 500


def test_tokens_from_the_future_are_believed_for_one_lifetime_at_most() -> None:
    fresh = Freshness.of(tokens(1000, 4600), Moment(wall=0, boot=7))

    assert fresh.left(Moment(0, 7)) == 3600
    assert fresh.left(Moment(0, 3608)) < 0


@pytest.mark.parametrize(("lifetime", "margin"), [(3600, SKEW), (100, 10), (3, 0.3)])
def test_the_margin_is_never_more_than_a_tenth_of_the_lifetime(lifetime: float, margin: float) -> None:
    assert Freshness.of(tokens(0, lifetime), Moment(0, 0)).margin == pytest.approx(margin)


@pytest.mark.parametrize(
    ("lifetime", "ahead", "window"),
    [(3600, 300, 360), (3600, 600, 600), (36000, 300, 3600), (400, 300, 200), (10, 300, 5), (3600, 10, 360)],
)
def test_the_window_is_at_least_a_tenth_and_at_most_half_of_the_lifetime(
    lifetime: float, ahead: float, window: float
) -> None:
    assert Freshness.of(tokens(0, lifetime), Moment(0, 0)).window(ahead) == window


def test_jitter_moves_the_window_but_not_beyond_half_of_the_lifetime() -> None:
    assert NEW.window(300, 0.1) == pytest.approx(396)
    assert Freshness.of(tokens(0, 10), Moment(0, 0)).window(300, 0.1) == 5
