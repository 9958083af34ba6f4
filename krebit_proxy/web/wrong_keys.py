"""Wrong client keys: slows down whoever guesses, and writes one line a minute about each address that sends them."""

import asyncio
from math import ceil
from typing import Final

import structlog

from krebit_proxy.core.access import Peer
from krebit_proxy.core.rate import Guesses
from krebit_proxy.errors import Refused

_PERIOD: Final = 60.0  # seconds between two lines about one address
_MOST_LINES: Final = 1000  # addresses with a line of their own in each period
_OTHERS: Final = "other addresses"
_log: Final = structlog.get_logger()


class WrongKeys:
    """Watches the client keys that arrive. `core.rate.Guesses` decides."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._guesses = Guesses()
        self._unsaid: dict[str, int] = {}  # wrong keys since the last line about an address
        self._timer: asyncio.TimerHandle | None = None

    def tried(self, peer: Peer, key: bytes, *, guessable: bool) -> None:
        """Takes note of a key. Raises Refused(rate_limited) if too many keys from there were wrong.

        `key`: its SHA-256; empty if it is wrong. `guessable`: it is right, but short enough to be guessed.
        """
        site, now = peer.site or peer.caller.name, self._loop.time()
        if key:
            pause = self._guesses.right(site, key, now) if guessable else 0.0
        else:
            pause = self._guesses.wrong(site, now)
            self._note(site)
        if pause:
            raise Refused(
                "rate_limited",
                "Too many requests from this address had a wrong client key.",
                hint="Correct the key of the client, or wait.",
                retry_after=ceil(pause),
            )

    def _note(self, site: str) -> None:
        if site not in self._unsaid and len(self._unsaid) >= _MOST_LINES:
            site = _OTHERS
        if site in self._unsaid:
            self._unsaid[site] += 1
            return
        self._unsaid[site] = 0
        _tell(site, 1)
        if self._timer is None:
            self._timer = self._loop.call_later(_PERIOD, self.report)

    def report(self) -> None:
        """Logs what has come since the last lines."""
        counts = {site: count for site, count in self._unsaid.items() if count}
        for site, count in counts.items():
            _tell(site, count)
        self._unsaid = dict.fromkeys(counts, 0)
        self.close()
        if counts:
            self._timer = self._loop.call_later(_PERIOD, self.report)

    def close(self) -> None:
        """Ends the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _tell(site: str, count: int) -> None:
    _log.warning("access.wrong_keys", peer=site, count=count)
