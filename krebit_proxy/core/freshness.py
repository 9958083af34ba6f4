"""How long an access token can still be used, by two clocks.

The wall clock can jump, and the boot clock does not know tokens from before the machine started. So a token is fresh
only while both clocks say so. That covers a suspended laptop, a clock that was set forward, and a restart. One case
remains: if the wall clock is set back before a process first sees a token, an old token looks young until the API
answers with 401.
"""

from dataclasses import dataclass
from typing import Final

from krebit_proxy.core.grant import Tokens

SKEW: Final = 30.0  # seconds; if a token has less left, callers wait for the next one


@dataclass(frozen=True, slots=True)
class Moment:
    """The time by both clocks, and a random number for jitter."""

    wall: float  # seconds since the epoch
    boot: float  # seconds since the machine started, including suspension
    chance: float = 0.5  # uniform in [0, 1)


@dataclass(frozen=True, slots=True)
class Freshness:
    """When an access token expires, by each clock, and its lifetime in seconds."""

    wall: float
    boot: float
    lifetime: float

    @classmethod
    def of(cls, tokens: Tokens, now: Moment) -> "Freshness":
        """For tokens first seen at `now`. If `obtained_at` is in the future, they count as obtained now."""
        left = min(tokens.expires_at - now.wall, tokens.lifetime)
        return cls(tokens.expires_at, now.boot + left, tokens.lifetime)

    def left(self, now: Moment) -> float:
        """Seconds until the token expires, by the clock that says less."""
        return min(self.wall - now.wall, self.boot - now.boot)

    def age(self, now: Moment) -> float:
        """Seconds since the token was requested, by the boot clock."""
        return self.lifetime - (self.boot - now.boot)

    @property
    def margin(self) -> float:
        """Seconds before expiry from which callers wait for a newer token instead."""
        return min(SKEW, self.lifetime / 10)

    def window(self, ahead: float, jitter: float = 0) -> float:
        """Seconds before expiry from which the token is renewed in the background.

        Args:
            ahead: The setting `refresh.ahead`, in seconds. The result is at least a tenth of the lifetime, and at most
                half of it, since a short-lived token would otherwise be renewed all the time.
            jitter: -0.1 to 0.1, so that processes that share a grant do not all renew at once.
        """
        return lead(self.lifetime, ahead, jitter)


def lead(lifetime: float, ahead: float, jitter: float = 0) -> float:
    """Seconds before its end from which anything with this `lifetime` is renewed. For the others see `window`."""
    return min(max(ahead, lifetime / 10) * (1 + jitter), lifetime / 2)
