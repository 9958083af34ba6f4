"""The terms of `core.lifecycle`: its state, its events and its effects.

-   An *event* is something that has happened. `Wish` events come from callers, people and time, and are legal in every
    phase. `Result` events are the results of effects, and are legal only in the phase that started the effect.
-   An *effect* is something that the driver must do. `ReadStore`, `TakeLock`, `WriteGrant`, `Spend` and `Revoke` lead
    to a `Result`. The others do not.
-   `State` is all that one process knows about the grant.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Final, TypeVar

from krebit_proxy.core.freshness import Freshness
from krebit_proxy.core.grant import Grant, Intent, Tokens
from krebit_proxy.core.secret import Secret
from krebit_proxy.core.suspicion import PathRecord, Trust, Unauthorized
from krebit_proxy.core.token_response import Outcome

NEVER: Final = float("-inf")
T = TypeVar("T")


class Phase(Enum):
    """What the process waits for. At most one effect with a result is under way at a time."""

    IDLE = "nothing is under way"
    LOOKING = "reading the store without the lock"
    LOCKING = "waiting for the lock"
    CHECKING = "reading the store again, under the lock"
    INTENDING = "storing the intent to spend the refresh token"
    SPENDING = "the token request is under way"
    PAUSING = "the outcome is unclear; a short wait until the same token is sent again"
    STORING = "storing what must not be lost: new tokens, a verdict or a logout"
    UNSTORED = "that write failed; waiting for the next try, with the lock"
    RECONCILING = "reading what another process has stored instead"
    RETRACTING = "clearing the intent, since the token was certainly not spent"
    REVOKING = "revoking the tokens before a logout deletes them"


@dataclass(frozen=True, slots=True)
class Denial:
    """Why there is no token: a code of `errors.CODES`, what is wrong, what to do, and seconds until a retry.

    `cause` is for the log and the terminal only: it may name the store and repeat what a database said. May be empty.
    """

    code: str
    detail: str
    hint: str = ""
    retry_after: int | None = None
    cause: str = ""

    @property
    def reason(self) -> str:
        """All that is known, for the log."""
        return self.cause or self.detail


# Events that are wishes


@dataclass(frozen=True, slots=True)
class Demanded:
    """A caller needs a token.

    Attributes:
        caller: Who gets the `Answer`.
        lifetime: Seconds for which the token should still be good.
        refusal: The 401 response to its call, if there was one. Then it needs a better token, or that 401.
        since: Boot clock: when it began to wait. None: now.
        record: Of the path that it calls.
    """

    caller: int
    lifetime: float = 0
    refusal: Unauthorized | None = None
    since: float | None = None
    record: PathRecord = PathRecord.NEW


@dataclass(frozen=True, slots=True)
class Accepted:
    """A call with a token of this generation got any other response than 401. `probe` is as in `Unauthorized`."""

    generation: int
    probe: int = 0


@dataclass(frozen=True, slots=True)
class RefusedAgain:
    """A call that was sent again with another token met a 401 with that, too, and has ended so."""

    refusal: Unauthorized


@dataclass(frozen=True, slots=True)
class Abandoned:
    """A caller no longer waits. That cancels nothing that is under way."""

    caller: int


@dataclass(frozen=True, slots=True)
class Authorized:
    """A person has authorized the proxy, and these are the tokens. `caller` is None once it has its answer."""

    caller: int | None
    tokens: Tokens
    known: float = 0.0  # `authorized_at` of the grant that we knew then

    @property
    def at(self) -> float:
        """When the person did so, by the wall clock."""
        return self.tokens.obtained_at


@dataclass(frozen=True, slots=True)
class LogoutAsked:
    """A person wants the current tokens deleted. `caller` is None once it has its answer."""

    caller: int | None
    at: float  # wall clock
    known: float = 0.0  # `authorized_at` of the grant that we knew then


@dataclass(frozen=True, slots=True)
class Woke:
    """The time of the last `WakeAt` has come."""


@dataclass(frozen=True, slots=True)
class Stopping:
    """The process must end. It starts nothing new, and still stores what must not be lost."""


# Events that are results


@dataclass(frozen=True, slots=True)
class Read:
    """The store holds this."""

    grant: Grant | None


@dataclass(frozen=True, slots=True)
class Locked:
    """This process has the lock."""


@dataclass(frozen=True, slots=True)
class Written:
    """The grant is stored, durably."""


@dataclass(frozen=True, slots=True)
class Conflicted:
    """The store did not hold the expected generation, so it wrote nothing."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The store failed. A write may have happened all the same."""

    denial: Denial
    busy: bool = False  # another process has the lock; the store works


@dataclass(frozen=True, slots=True)
class Answered:
    """The token request is over."""

    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Revoked:
    """The revocation request is over. `accepted` says whether the server confirmed it."""

    accepted: bool


Wish = Demanded | Accepted | RefusedAgain | Abandoned | Authorized | LogoutAsked | Woke | Stopping
Result = Read | Locked | Written | Conflicted | Failed | Answered | Revoked
Event = Wish | Result


# Effects with a result


@dataclass(frozen=True, slots=True)
class ReadStore:
    """Read the store. Result: Read or Failed."""


@dataclass(frozen=True, slots=True)
class TakeLock:
    """Wait for the lock, `timeout` seconds at most. Result: Locked or Failed."""

    timeout: float


@dataclass(frozen=True, slots=True)
class WriteGrant:
    """Store `grant` if the store holds the generation `expected`. Result: Written, Conflicted or Failed."""

    expected: int
    grant: Grant
    under_lock: bool = False  # if this process has lost the lock, write nothing: Failed


@dataclass(frozen=True, slots=True)
class Spend:
    """Send one token request with this refresh token. Result: Answered. If the lock is lost, send nothing: Failed."""

    refresh_token: Secret


@dataclass(frozen=True, slots=True)
class Revoke:
    """Revoke this token, if there is a revocation endpoint. Result: Revoked."""

    token: Secret


# Effects without a result


@dataclass(frozen=True, slots=True)
class FreeLock:
    """Free the lock, if this process has it."""


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Send Woke at this time of the boot clock. It replaces any earlier WakeAt."""

    boot: float


class Go(Enum):
    """What a caller should do now."""

    ON = "use the current token"
    PROBE = "try the current token, which is suspected; for one caller only"
    AGAIN = "use the refused token once more: it was so new that perhaps not every server knew it"
    RELAY = "pass on the 401: the token is good, or another one would not help"


@dataclass(frozen=True, slots=True)
class Answer:
    """Tell a caller what to do, or why there is no token."""

    caller: int
    told: Go | Denial = Go.ON


@dataclass(frozen=True, slots=True)
class Report:
    """Write an event to the log. The fields contain no secret."""

    event: str
    level: str = "info"
    fields: tuple[tuple[str, object], ...] = ()


Effect = ReadStore | TakeLock | WriteGrant | Spend | Revoke | FreeLock | WakeAt | Answer | Report


@dataclass(frozen=True, slots=True)
class Policy:
    """Values that do not change while a process runs."""

    organization: str
    client_id: str
    holder: str  # host, process, and what no other process has; for intents
    ahead: float = 300  # the setting refresh.ahead, seconds
    jitter: float = 0  # -0.1 to 0.1, drawn once per process
    intent_grace: float = 0  # stores.Store.intent_grace, seconds


@dataclass(frozen=True, slots=True)
class RefusalSeen:
    """A definite refusal of a refresh: `Refusal.mark`, and when it came by the boot clock."""

    mark: str
    at: float
    worded: bool  # with an error code, and not just a status


@dataclass(frozen=True, slots=True)
class Waiter:
    """A caller that waits for an answer."""

    id: int
    since: float  # boot clock
    lifetime: float  # seconds for which the token should still be good
    refusal: Unauthorized | None = None
    record: PathRecord = PathRecord.NEW
    settling: bool = False  # its token was refused while young, and will be tried again once it has settled


@dataclass(frozen=True, slots=True)
class Run:
    """What is known only while this process has the lock or waits for it."""

    base: int = 0  # the stored generation, as read under the lock; writes expect it
    pending: Grant | None = None  # what is being written
    attempt: int = 0  # token requests of this run
    tries: int = 0  # failed writes of `pending`
    until: float = NEVER  # boot clock: end of a pause, or of the wait for the lock
    suspect: Intent | None = None  # an earlier attempt with an unknown outcome
    charged: bool = False  # whether this renewal counts in the budget for 401s
    flaw: str = ""  # why a token response with a new refresh token has no usable access token
    order: Authorized | LogoutAsked | None = None  # the wish of a person that this run serves; None: a refresh


@dataclass(frozen=True, slots=True)
class State:
    """All that one process knows. `grant` is the newest one that it has seen, and callers get its token."""

    policy: Policy
    phase: Phase = Phase.IDLE
    known: bool = False  # the store has answered at least once
    grant: Grant | None = None
    fresh: Freshness | None = None  # of grant.tokens
    trust: Trust = field(default_factory=Trust)  # what the API has said about that token
    locked: bool = False
    run: Run = field(default_factory=Run)
    callers: tuple[Waiter, ...] = ()
    orders: tuple[Authorized | LogoutAsked, ...] = ()
    look_at: float = NEVER  # boot clock: next look at the store
    try_at: float = NEVER  # boot clock: no attempt before
    failures: int = 0  # failed attempts in a row
    trouble: Denial | None = None  # why the last attempt failed
    store_trouble: Denial | None = None  # why the store failed, if it did not work last time
    store_lost_at: float = NEVER  # boot clock: since when the store has failed
    phase_since: float = NEVER  # boot clock
    end_mark: tuple[float | None, float] | None = None  # an end of the refresh token, and when it was named
    refusal: RefusalSeen | None = None  # the last definite refusal that was no verdict
    soft_verdict: Denial | None = None  # that refusal came twice: a person is needed, and the proxy keeps trying
    stranger: tuple[Intent, float] | None = None  # an unfinished intent of another holder, and when we first saw it
    stopping: bool = False
    stop_by: float = NEVER  # boot clock: when a stopping process gives up storing
    refreshed_at: float | None = None  # wall clock, of the last token request
    refreshed: str | None = None  # its outcome, as in GrantStatus.last_refresh

    @property
    def generation(self) -> int:
        """The generation of `grant`; 0 without one."""
        return self.grant.generation if self.grant else 0

    @property
    def tokens(self) -> Tokens | None:
        """The tokens of `grant`. None: never authorized, or logged out."""
        return self.grant.tokens if self.grant else None


def given(value: T | None) -> T:
    """`value`, which is not None in this phase. mypy cannot know that."""
    assert value is not None
    return value
