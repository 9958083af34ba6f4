"""A refused access token is suspected, not dead: which calls still use it, and how many renewals 401s may cause.

A 401 may be about the token (it was revoked, or the server lost it) or about the path (401 where 403 is meant). And a
new token may need a second until all servers know it. One response cannot tell these apart. So the token stays in use,
with care:

-   *Half-open.* While the token is suspected, one call uses it at once, and then one call a second. These calls are the
    probes. All others wait for the renewal that is under way, or get an error from us. So a good token is recognized
    within a second, and a dead one costs the API one call a second. Calls on paths that the API accepted before go
    first, those on paths that it refused last.
-   *Cleared by an accepted call.* A probe is sent after the 401. If its response is not a 401, the suspicion ends.
    Calls that were under way before the 401 prove nothing: after a real revocation, their late responses would hide it.
    So a probe has the number of the suspicion, and any other call 0.
-   *Young tokens get time.* A token younger than `YOUNG` that was never accepted is not suspected at the first 401. The
    call is sent once more when the token is `SETTLED` seconds old. If the token then turns out to be good, calls wait
    for later tokens to settle, too, before they are sent again.
-   *Unproven after a suspicion.* One call tries the token that replaced a suspected one. The others wait for the
    result, so that a token which needs time costs one call, and not all.
-   *One budget.* It limits the renewals that a 401 causes, and not the clock. A real revocation needs one renewal. An
    API that answers 401 to everything could otherwise cause one for each call.
"""

from dataclasses import dataclass, field, replace
from enum import Enum
from math import inf
from typing import Final

PROBE_EVERY: Final = 1.0  # seconds between the calls that try a suspected token
CONTENTION: Final = 3.0  # seconds for which a call on a good path has precedence over those on refused ones
EVIDENCE: Final = 5.0  # seconds for which an accepted call shows that the token is good
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
        """Whether no further renewal is possible now."""
        return self.left(now) < 1 - _ROUNDING

    def changed(self, by: float, now: float) -> "Budget":
        """After `by` renewals were given back, or taken if it is negative."""
        return Budget(max(0.0, min(BURST, self.left(now) + by)), now)

    def next_at(self, now: float) -> float:
        """When the next renewal is possible."""
        return now + max(0.0, 1 - self.left(now)) * REFILL


class PathRecord(Enum):
    """What the API has said to a path lately."""

    ACCEPTED = "it was accepted"
    NEW = "nothing"
    REFUSED = "it was refused with the token at hand"


@dataclass(frozen=True, slots=True)
class Trust:
    """What the API has said about the current token. Each method returns the state after an event.

    Attributes:
        accepted: The API has accepted the token at least once.
        accepted_at: Boot clock: when a probe, or the first call with a token, was accepted last.
        doubted: It refused the token while the token was young.
        lagging: It has refused a young token and accepted it later, so new tokens need time to settle.
        suspected: It refused the token, and has accepted no probe since.
        unproven: The token replaced a suspected one, and no call with it was accepted yet.
        number: Of the latest suspicion. A refused probe increases it, too, so that older probes clear nothing.
        probe_at: Boot clock: when the next call may try a suspected or unproven token.
        wanted_at: Boot clock: when a call on a path that was not refused last asked for the token.
        budget: For the renewals that 401s cause.
    """

    accepted: bool = False
    accepted_at: float = -inf
    doubted: bool = False
    lagging: bool = False
    suspected: bool = False
    unproven: bool = False
    number: int = 0
    probe_at: float = 0.0
    wanted_at: float = -inf
    budget: Budget = field(default_factory=Budget)

    @property
    def half_open(self) -> bool:
        """Whether calls may go on with the token one at a time only."""
        return self.suspected or self.unproven

    def refused(self, refusal: Unauthorized, age: float, now: float) -> "Trust":
        """After a 401 to the current token. `age` is in seconds."""
        if self.must_settle(refusal, age):
            return replace(self, doubted=True)
        if self.budget.is_spent(now) and now < self.accepted_at + EVIDENCE:
            return self  # no renewal may follow, and others use the token well: the 401 speaks of the path
        if not self.suspected:
            return replace(self, suspected=True, unproven=False, number=self.number + 1, probe_at=now)
        if refusal.probe == self.number:
            return replace(self, number=self.number + 1)
        return self

    def refused_again(self, refusal: Unauthorized, age: float) -> "Trust":
        """After a 401 to a call that was sent again, and is not sent any more. `age` is in seconds."""
        return replace(self, doubted=self.doubted or self.must_settle(refusal, age))

    def charged(self, renewals: int, now: float) -> "Trust":
        """After renewals because of 401s. A negative number: they did not take place."""
        return replace(self, budget=self.budget.changed(-renewals, now))

    def must_settle(self, refusal: Unauthorized, age: float) -> bool:
        """Whether the token may be too new, so that the call should be sent with it once more."""
        return not self.accepted and not refusal.repeated and age < YOUNG

    def proven(self, probe: int, now: float) -> "Trust":
        """After any response other than 401."""
        return replace(
            self,
            accepted=True,
            accepted_at=now,
            lagging=self.lagging or self.doubted,
            suspected=self.suspected and probe != self.number,
            unproven=False,
        )

    def wanted(self, record: PathRecord, now: float) -> "Trust":
        """A call asks for the token."""
        return replace(self, wanted_at=now) if self.half_open and record is not PathRecord.REFUSED else self

    def may_probe(self, record: PathRecord, now: float) -> bool:
        """Whether a call may try the token now.

        Calls on a path that was accepted before need not wait for the others, who then wait for longer. Those on one
        that was refused come last: whoever asks again and again for what he may not have must not keep others out.
        """
        if record is PathRecord.ACCEPTED:
            return now >= self.probe_at - PROBE_EVERY
        return now >= self.probe_at and (record is PathRecord.NEW or now >= self.wanted_at + CONTENTION)

    def probed(self, now: float) -> "Trust":
        """After one call was allowed to try the token."""
        return replace(self, probe_at=max(self.probe_at, now) + PROBE_EVERY)

    def of_next(self, now: float, *, charge: int) -> "Trust":
        """For a new token. `charge`: how many renewals other processes have made because of 401s."""
        return Trust(
            accepted_at=self.accepted_at,
            lagging=self.lagging,
            unproven=self.suspected,
            number=self.number,
            probe_at=now,
            budget=self.budget.changed(-charge, now),
        )
