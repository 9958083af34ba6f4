"""Notices about a grant that still serves calls, but may soon need a person.

There are three: Krebit has refused the refresh token, the API has refused the access token, or the authorization has an
end that no renewal extends. The status page, `krebit-proxy status`, `krebit-proxy check` and the alarm share the texts.
"""

from dataclasses import dataclass
from typing import Final

from krebit_proxy.core.grant_status import GrantStatus
from krebit_proxy.core.times import day, distance, moment

WEEK: Final = 7 * 86400.0  # seconds before a fixed end from which there is a notice


@dataclass(frozen=True, slots=True)
class Notice:
    """`text` says what is the matter, and `hint` what to do. `hint` may be empty."""

    text: str
    hint: str


_REFUSED: Final = "Krebit refused the access token, and has not accepted it since."
_SUSPECTED: Final = Notice(
    f"{_REFUSED} The proxy tries to renew it, and lets single calls through until one is accepted.",
    "You need not do anything. If this lasts, look in the log for calls that Krebit answered with 401.",
)


def notices(status: GrantStatus, now: float) -> list[Notice]:
    """The notices that hold at `now`, the most urgent first."""
    found = []
    if text := still_served(status, now):
        found.append(Notice(text, "Authorize again before then." if status.code == "reauthorization_required" else ""))
    if status.suspected:
        found.append(_SUSPECTED if status.code is None else Notice(_REFUSED, ""))
    if status.refresh_token_end_is_fixed and 0 < _left(status, now) <= WEEK:
        found.append(ending(status, now))
    return found


def still_served(status: GrantStatus, now: float) -> str:
    """A sentence on how long calls still work although something is wrong. Empty: all is well, or calls fail."""
    if not status.ready or status.code is None or status.expires_at is None:
        return ""
    return f"Calls still work until {moment(status.expires_at, now)}."


def ending(status: GrantStatus, now: float) -> Notice:
    """The notice of a fixed end of the refresh token."""
    end = status.refresh_token_expires_at or 0.0
    text = f"The authorization ends on {day(end)}, {distance(end, now)}. Renewals do not extend it."
    return Notice(text, "Run `krebit-proxy setup` where the proxy runs, and authorize again before then.")


def refresh_token_end(status: GrantStatus, now: float) -> str:
    """The end of the refresh token in a few words. Empty: Krebit has named none."""
    end = status.refresh_token_expires_at
    if end is None:
        return ""
    if end <= now:
        return f"expired {moment(end, now)}"
    extended = "renewals do not extend it" if status.refresh_token_end_is_fixed else "renewals may extend it"
    return f"expires {moment(end, now)}; {extended}"


def _left(status: GrantStatus, now: float) -> float:
    return (status.refresh_token_expires_at or 0.0) - now
