"""The Retry-After field (RFC 9110, 10.2.3)."""

import re
from email.utils import parsedate_to_datetime
from typing import Final

# RFC 9110 5.6.7: "A sender MUST generate HTTP-date in the IMF-fixdate format", as Sun, 06 Nov 1994 08:49:37 GMT.
_DATE: Final = re.compile(r"[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT")
_LONGEST_PATIENCE: Final = 600.0  # seconds; a longer Retry-After counts as this


def seconds_to_wait(retry_after: str | None, now: float) -> float | None:
    """Seconds to wait, from 1 to 600, by the value of a Retry-After field. None: it is missing or invalid.

    RFC 9110 10.2.3: it is "either an HTTP-date or a number of seconds to delay". Zero becomes one second, so that we
    do not retry in a busy loop. `now` is seconds since the epoch.
    """
    wish = (retry_after or "").strip()
    if re.fullmatch(r"[0-9]{1,9}", wish):
        seconds = float(wish)
    elif _DATE.fullmatch(wish):
        try:
            seconds = parsedate_to_datetime(wish).timestamp() - now
        except ValueError:
            return None
    else:
        return None
    return min(max(seconds, 1.0), _LONGEST_PATIENCE)
