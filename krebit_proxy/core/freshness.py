"""How long an access token can still be used, by two clocks that must agree.

The wall clock can jump, and the boot clock says nothing about a token that was obtained before the machine started.
A token is fresh only while both say so: a suspended laptop, a clock set forward and a restart are then all seen.
A wall clock that was set back makes an old token look young; that the upstream's 401 tells.
"""

from dataclasses import dataclass
from typing import Final

from krebit_proxy.core.grant import Tokens

SKEW: Final = 30.0  # seconds; with less left, callers wait for the next token


@dataclass(frozen=True, slots=True)
class Moment:
    """What time it is, and a throw of the dice for whoever needs jitter."""

    wall: float  # seconds since the epoch
    boot: float  # seconds since the machine started, suspension included
    chance: float = 0.5  # uniform in [0, 1)


@dataclass(frozen=True, slots=True)
class Freshness:
    """The moments, by either clock, at which an access token expires."""

    wall: float
    boot: float
    lifetime: float

    @classmethod
    def of(cls, tokens: Tokens, now: Moment) -> "Freshness":
        """For tokens that we see for the first time at `now`. Their age is unknown if they come from the future."""
        left = min(tokens.expires_at - now.wall, tokens.lifetime)
        return cls(tokens.expires_at, now.boot + left, tokens.lifetime)

    def left(self, now: Moment) -> float:
        """Seconds until the token expires, by the clock that is the more careful one."""
        return min(self.wall - now.wall, self.boot - now.boot)

    def age(self, now: Moment) -> float:
        """Seconds since the token was asked for, by the boot clock."""
        return self.lifetime - (self.boot - now.boot)

    @property
    def margin(self) -> float:
        """Seconds before expiry from which the token is not handed out if a newer one can be had."""
        return min(SKEW, self.lifetime / 10)

    def window(self, ahead: float, jitter: float = 0) -> float:
        """Seconds before expiry from which the token is renewed in the background.

        Args:
            ahead: the setting `refresh.ahead`; at least a tenth of the lifetime is taken, and at most half of it, or a
                short-lived token would be refreshed without end.
            jitter: -0.1 to 0.1, so that the processes that share a grant do not all wake at once.
        """
        return lead(self.lifetime, ahead, jitter)


def lead(lifetime: float, ahead: float, jitter: float = 0) -> float:
    """How long before its end something that lasts `lifetime` is renewed; the arguments are those of `window`."""
    return min(max(ahead, lifetime / 10) * (1 + jitter), lifetime / 2)
