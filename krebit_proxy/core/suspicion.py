"""A refused token is suspected, not dead: when calls still try it, and how many renewals 401s may cause.

A 401 may speak of the token (revoked, a restarted server) or of the path (401 where 403 is meant), and a new token may
need a second until all servers know it. One answer cannot tell these apart, so the token stays in use with care:

-   *Half-open.* While the token is suspected, one call goes on with it at once, then one a second: the probes. All
    others wait for the renewal that is under way, or get an error of ours. So a token that is good after all is found
    out within a second, and one that is dead costs the API a call a second.
-   *Cleared by an accepted call.* A probe that comes back as anything but 401 was sent after the refusal, and so says
    more than it. Calls that were under way before the refusal prove nothing: at a real revocation their late answers
    would hide it. Probes carry the number of the suspicion, other calls 0.
-   *Young tokens are waited for.* A token that is refused before its first success, and is younger than `YOUNG`, is
    tried once more when it is `SETTLED` seconds old, before anything is concluded. Where such a token was good later,
    calls wait for the next ones to settle before they are sent again.
-   *A token that replaced a suspected one is unproven:* one call tries it first, and the others wait for what comes of
    that, so that a token which needs time costs one call and not all.
-   *One budget.* Renewals that are due because of a 401, and not of the clock, are limited. A real revocation needs
    one; an API that says 401 to everything could cause one for each call.
"""

from dataclasses import dataclass, field, replace
from enum import Enum
from math import inf
from typing import Final

PROBE_EVERY: Final = 1.0  # seconds between the calls that try a suspected token
CONTENTION: Final = 3.0  # seconds for which a call on a good path has precedence over those on refused ones
EVIDENCE: Final = 5.0  # seconds for which an accepted call shows that the token is good
YOUNG: Final = 5.0  # seconds: how long a token may be unknown to servers that have not seen it yet
SETTLED: Final = 2.0  # seconds after which a young token is tried again
BURST: Final = 3.0  # renewals that 401s may cause at once
REFILL: Final = 60.0  # seconds until one more may follow
_ROUNDING: Final = 1e-6  # of times that were added up


@dataclass(frozen=True, slots=True)
class Unauthorized:
    """A call came back with 401. It is charged to the token that it was sent with.

    Attributes:
        generation: Of that token.
        probe: Number of the suspicion where the call was a probe, else 0.
        repeated: Whether the call had been tried with this token before, when that was young.
    """

    generation: int
    probe: int = 0
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class Budget:
    """Renewals that 401s may still cause. Times are seconds of the boot clock."""

    credits: float = BURST  # as of `counted_at`
    counted_at: float = 0.0

    def left(self, now: float) -> float:
        """How many renewals may follow now; less than one is none."""
        return min(BURST, self.credits + max(0.0, now - self.counted_at) / REFILL)

    def is_spent(self, now: float) -> bool:
        """Whether no renewal may follow now."""
        return self.left(now) < 1 - _ROUNDING

    def changed(self, by: float, now: float) -> "Budget":
        """One less, or one given back."""
        return Budget(max(0.0, min(BURST, self.left(now) + by)), now)

    def next_at(self, now: float) -> float:
        """When the next renewal may follow."""
        return now + max(0.0, 1 - self.left(now)) * REFILL


class PathRecord(Enum):
    """What the API has said to a path lately."""

    ACCEPTED = "it was accepted"
    NEW = "nothing"
    REFUSED = "it was refused with the token at hand"


@dataclass(frozen=True, slots=True)
class Trust:
    """What the API has said of the current token, and what that may cost.

    Attributes:
        accepted: It has accepted the token at least once.
        accepted_at: Boot clock: when a probe, or the first call with a token, was accepted last.
        doubted: It refused the token while that was young.
        lagging: It has refused a young token that it accepted later: new ones need time.
        suspected: It refused the token, and no probe was accepted since.
        unproven: The token replaced a suspected one, and no call with it was accepted yet.
        number: Of the latest suspicion. A refused probe raises it, too, so that older probes clear nothing.
        probe_at: Boot clock: from when on one call may try a suspected or unproven token.
        wanted_at: Boot clock: when a call on a path that was not refused last wanted to.
        budget: Of renewals that 401s cause.
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
        """After a 401 to the current token, which is `age` seconds old."""
        if self.must_settle(refusal, age):
            return replace(self, doubted=True)
        if self.budget.is_spent(now) and now < self.accepted_at + EVIDENCE:
            return self  # no renewal may follow, and others use the token well: the 401 speaks of the path
        if not self.suspected:
            return replace(self, suspected=True, unproven=False, number=self.number + 1, probe_at=now)
        if refusal.probe == self.number:
            return replace(self, number=self.number + 1)
        return self

    def must_settle(self, refusal: Unauthorized, age: float) -> bool:
        """Whether the token may just be unknown yet, and the call has not been tried with it a second time."""
        return not self.accepted and not refusal.repeated and age < YOUNG

    def proven(self, probe: int, now: float) -> "Trust":
        """After a call that was accepted."""
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
        """After a probe was sent."""
        return replace(self, probe_at=max(self.probe_at, now) + PROBE_EVERY)

    def of_next(self, now: float, *, charge: int) -> "Trust":
        """For another token. `charge`: how often others have renewed it because of 401s."""
        return Trust(
            accepted_at=self.accepted_at,
            lagging=self.lagging,
            unproven=self.suspected,
            number=self.number,
            probe_at=now,
            budget=self.budget.changed(-charge, now),
        )
