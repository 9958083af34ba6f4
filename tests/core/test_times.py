"""How points in time are shown."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from krebit_proxy.core.times import day, distance, iso, moment

NOON = datetime(2026, 1, 15, 12, tzinfo=UTC).timestamp()
DAY = 86400
CET = timezone(timedelta(hours=1), "CET")


@pytest.mark.parametrize(
    ("offset", "expected"),
    [
        (0, "now"),
        (0.4, "now"),
        (1, "in 1 second"),
        (-1, "1 second ago"),
        (119, "in 119 seconds"),
        (120, "in 2 minutes"),
        (-7169, "119 minutes ago"),
        (-7170, "2 hours ago"),
        (2 * DAY - 1801, "in 47 hours"),
        (7200, "in 2 hours"),
        (-2 * DAY, "2 days ago"),
        (7 * DAY - 5, "in 7 days"),
        (400 * DAY, "in 400 days"),
    ],
)
def test_a_distance_is_in_the_largest_unit_of_which_there_are_two(offset: float, expected: str) -> None:
    assert distance(NOON + offset, NOON) == expected


def test_a_moment_of_today_is_a_time_of_day() -> None:
    assert moment(NOON + 3600, NOON, UTC) == "13:00 UTC, in 60 minutes"


def test_a_moment_of_another_day_has_its_date() -> None:
    assert moment(NOON - 2 * DAY, NOON, CET) == "2026-01-13 13:00 CET, 2 days ago"


def test_the_zone_decides_which_day_it_is() -> None:
    midnight = NOON + 12 * 3600

    assert moment(midnight - 60, midnight - 120, UTC) == "23:59 UTC, in 60 seconds"
    assert moment(midnight, midnight - 60, UTC) == "2026-01-16 00:00 UTC, in 60 seconds"
    assert moment(midnight, midnight - 60, CET) == "01:00 CET, in 60 seconds"


def test_a_day_is_written_out() -> None:
    assert day(NOON - 10 * DAY, CET) == "Monday 5 January 2026, 13:00 CET"


def test_without_a_zone_it_is_the_one_of_this_computer() -> None:
    local = datetime.fromtimestamp(NOON, UTC).astimezone()

    assert moment(NOON, NOON) == f"{local:%H:%M %Z}, now"
    assert day(NOON).endswith(f"{local:%H:%M %Z}")


def test_programs_get_whole_seconds_in_utc() -> None:
    assert iso(NOON + 0.9) == "2026-01-15T12:00:00+00:00"
