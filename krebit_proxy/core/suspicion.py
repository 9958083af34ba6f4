"""A refused access token is suspected, not dead: which calls still use it, and how many renewals 401s may cause.

A 401 may be about the token (it was revoked, or the server lost it) or about the path (401 where 403 is meant). And a
new token may need a second until all servers know it. One response cannot tell these apart. So the token stays in use,
with care:

-   *Half-open.* While the token is suspected, one call uses it at once, and then one call a second. These calls are the
    probes. All others wait for the renewal that is under way, or get an error from us. So a good token is recognized
    within a second, and a dead one costs the API one call a second.
-   *Cleared by an accepted call.* A probe is sent after the 401. If its response is not a 401, the suspicion ends.
    Calls that were under way before the 401 prove nothing: after a real revocation, their late responses would hide it.
    So a probe has the number of the suspicion, and any other call 0.
-   *Young tokens get time.* A token younger than `YOUNG` that was never accepted is not suspected at the first 401. The
    call is sent once more when the token is `SETTLED` seconds old. If the token then turns out to be good, calls wait
    for later tokens to settle, too, before they are sent again.
-   *One budget.* It limits the renewals that a 401 causes, and not the clock. A real revocation needs one renewal. An
    API that answers 401 to everything could otherwise cause one for each call.
"""

from dataclasses import dataclass, field, replace
from typing import Final

PROBE_EVERY: Final = 1.0  # seconds between the calls that try a suspected token
YOUNG: Final = 5.0  # seconds for which a new token may be unknown to some servers
SETTLED: Final = 2.0  # seconds after which a young token is tried again
BURST: Final = 3.0  # renewals that 401s may cause in quick succession
REFILL: Final = 60.0  # seconds until the budget allows one more
_ROUNDING: Final = 1e-6  # tolerance for sums of times


@dataclass(frozen=True, slots=True)
class Unauthorized:
    """A call that was answered with 401.

    Attributes:
        generation: Of the token that it was sent with. The 401 says nothing about any other token.
        probe: The number of the suspicion if the call was a probe, else 0.
        repeated: Whether the call was sent with this token twice, because it was young the first time.
    """

    generation: int
    probe: int = 0
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class Budget:
    """The renewals that 401s may still cause. Times are seconds of the boot clock."""

    credits: float = BURST  # at `counted_at`
    counted_at: float = 0.0

    def left(self, now: float) -> float:
        """How many renewals are possible now. Less than 1: none."""
        return min(BURST, self.credits + max(0.0, now - self.counted_at) / REFILL)

    def is_spent(self, now: float) -> bool:
        return self.left(now) < 1 - _ROUNDING

    def changed(self, by: float, now: float) -> "Budget":
        """After `by` renewals were given back, or taken if it is negative."""
        return Budget(max(0.0, min(BURST, self.left(now) + by)), now)

    def next_at(self, now: float) -> float:
        """When the next renewal is possible."""
        return now + max(0.0, 1 - self.left(now)) * REFILL


@dataclass(frozen=True, slots=True)
class Trust:
    """What the API has said about the current token. Each method returns the state after an event.

    Attributes:
        accepted: The API has accepted the token at least once.
        doubted: It refused the token while the token was young.
        lagging: It has refused a young token and accepted it later, so new tokens need time to settle.
        suspected: It refused the token, and has accepted no probe since.
        number: Of the latest suspicion. A refused probe increases it, too, so that older probes clear nothing.
        probe_at: Boot clock: when the next call may try a suspected token.
        budget: For the renewals that 401s cause.
    """

    accepted: bool = False
    doubted: bool = False
    lagging: bool = False
    suspected: bool = False
    number: int = 0
    probe_at: float = 0.0
    budget: Budget = field(default_factory=Budget)

    def refused(self, refusal: Unauthorized, age: float, now: float) -> "Trust":
        """After a 401 to the current token. `age` is in seconds."""
        if self.must_settle(refusal, age):
            return replace(self, doubted=True)
        if not self.suspected:
            return replace(self, suspected=True, number=self.number + 1, probe_at=now)
        if refusal.probe == self.number:
            return replace(self, number=self.number + 1)
        return self

    def must_settle(self, refusal: Unauthorized, age: float) -> bool:
        """Whether the token may be too new, so that the call should be sent with it once more."""
        return not self.accepted and not refusal.repeated and age < YOUNG

    def proven(self, probe: int) -> "Trust":
        """After any response other than 401."""
        suspected = self.suspected and probe != self.number
        return replace(self, accepted=True, lagging=self.lagging or self.doubted, suspected=suspected)

    def probed(self, now: float) -> "Trust":
        """After one call was allowed to try the token."""
        return replace(self, probe_at=now + PROBE_EVERY)

    def of_next(self, now: float, *, charge: int) -> "Trust":
        """For a new token. `charge`: how many renewals other processes have made because of 401s."""
        return Trust(lagging=self.lagging, number=self.number, budget=self.budget.changed(-charge, now))
