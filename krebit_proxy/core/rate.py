"""How often each caller may send requests, and how often an address may guess a client key."""

from collections import OrderedDict
from typing import Final

_FREE_GUESSES: Final = 10  # wrong keys without a pause: somebody tries out a tool
_LONGEST_PAUSE: Final = 60.0  # seconds
_FORGOTTEN: Final = 900.0  # seconds without a wrong key, after which a site starts anew
_MOST_SITES: Final = 4096  # that are remembered; each takes some 300 bytes


class Rates:
    """One limit for each caller, by the generic cell rate algorithm. It stores a single time for each caller."""

    def __init__(self, rate: float, burst: int) -> None:
        """`rate`: requests per second, on average. `burst`: requests at once, after a pause."""
        self._interval = 1 / rate
        self._slack = (burst - 1) * self._interval
        self._due: dict[str, float] = {}  # when the next request of a caller is due at the steady rate

    def wait(self, caller: str, now: float) -> float:
        """Seconds until the caller may send a request. 0: now, and this request is counted."""
        due = max(self._due.get(caller, now), now)
        early = due - now - self._slack
        if early > 0:
            return early
        self._due[caller] = due + self._interval
        return 0.0


class Guesses:
    """Wrong client keys by site, so that nobody can try out many.

    A site may be wrong ten times. Then it must pause after each wrong key: one second, and twice as long each time, up
    to a minute. In a pause no key from there counts, right or wrong, so that guessing is slow. Two kinds of right keys
    are exempt, because others may share the address: those too long to be guessed, for which nobody asks here, and
    those that were used from there before.
    """

    def __init__(self) -> None:
        self._sites: OrderedDict[str, tuple[int, float]] = OrderedDict()  # how often it was wrong, end of its pause
        self._known: OrderedDict[tuple[str, bytes], None] = OrderedDict()  # right keys, and where they came from

    def wrong(self, site: str, now: float) -> float:
        """Counts a wrong key, unless `site` must pause. Returns the rest of the pause in seconds, else 0."""
        count, end = self._state(site, now)
        if now < end:
            return end - now
        pause = min(2.0 ** (count - _FREE_GUESSES), _LONGEST_PAUSE) if count >= _FREE_GUESSES else 0.0
        self._sites[site] = count + 1, now + pause
        self._sites.move_to_end(site)
        if len(self._sites) > _MOST_SITES:
            self._sites.popitem(last=False)
        return 0.0

    def right(self, site: str, key: bytes, now: float) -> float:
        """Notes a right key that could be guessed. Returns the seconds until it counts; 0: now."""
        if (site, key) in self._known:
            return 0.0
        _, end = self._state(site, now)
        if now < end:
            return end - now
        self._known[site, key] = None
        if len(self._known) > _MOST_SITES:
            self._known.popitem(last=False)
        return 0.0

    def _state(self, site: str, now: float) -> tuple[int, float]:
        count, end = self._sites.get(site, (0, now))
        return (0, now) if now - end > _FORGOTTEN else (count, end)
