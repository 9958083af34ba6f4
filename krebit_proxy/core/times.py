"""Formats points in time, for people and for programs.

    moment(at, now)     14:03 CET, in 42 minutes
    day(at)             Friday 5 December 2025, 14:03 CET
    iso(at)             2025-12-05T13:03:00+00:00

All arguments are seconds since the epoch. `zone` is the time zone to show, by default that of this computer.
"""

from datetime import UTC, datetime, tzinfo
from typing import Final

# Seconds of a unit, the number of seconds from which it is used (two units, after rounding), and its name.
_UNITS: Final = ((86400, 2 * 86400 - 1800, "days"), (3600, 2 * 3600 - 30, "hours"), (60, 2 * 60, "minutes"))


def moment(at: float, now: float, zone: tzinfo | None = None) -> str:
    """Time of day and distance. If it is not today, the date comes first."""
    then, today = _local(at, zone), _local(now, zone)
    form = "%H:%M %Z" if then.date() == today.date() else "%Y-%m-%d %H:%M %Z"
    return f"{then.strftime(form)}, {distance(at, now)}"


def day(at: float, zone: tzinfo | None = None) -> str:
    """A date in words, for a time that is days away."""
    then = _local(at, zone)
    return f"{then:%A} {then.day} {then:%B %Y, %H:%M %Z}"


def distance(at: float, now: float) -> str:
    """The distance from `now`, for example `in 5 minutes` or `2 days ago`."""
    seconds = round(abs(at - now))
    size, _, name = next((unit for unit in _UNITS if seconds >= unit[1]), (1, 0, "seconds"))
    number = round(seconds / size)
    if number == 0:
        return "now"
    span = f"{number} {name if number > 1 else 'second'}"
    return f"in {span}" if at > now else f"{span} ago"


def iso(at: float) -> str:
    """ISO 8601, in UTC and whole seconds."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


def _local(at: float, zone: tzinfo | None) -> datetime:
    return datetime.fromtimestamp(at, UTC).astimezone(zone)
