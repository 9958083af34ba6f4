"""The vocabulary of `core.lifecycle`: the state of a process, what can happen to it, and what it can want done."""

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
    """What the process is waiting for. At most one effect on store or token endpoint is under way at a time."""

    IDLE = "nothing is under way"
    LOOKING = "reading the store without the lock"
    LOCKING = "waiting for the lock"
    CHECKING = "reading the store again, under the lock"
    INTENDING = "storing the intent to spend the refresh token"
    SPENDING = "the token request is under way"
    PAUSING = "the outcome is unclear; the same token is presented again shortly"
    STORING = "storing what must not be lost: new tokens, a verdict, a logout"
    UNSTORED = "that write failed; it is tried again, and the lock is kept"
    RECONCILING = "reading what somebody else stored instead"
    RETRACTING = "clearing the intent: the token was certainly not spent"
    REVOKING = "revoking the tokens before they are forgotten"


@dataclass(frozen=True, slots=True)
class Denial:
    """Why there is no token: one of `errors.CODES`, a sentence on what is wrong, one on what to do, whole seconds."""

    code: str
    detail: str
    hint: str = ""
    retry_after: int | None = None


# Events. First what people and callers want, legal at any time.


@dataclass(frozen=True, slots=True)
class Demanded:
    """A caller needs a token.

    Attributes:
        caller: To whom the `Answer` goes.
        lifetime: Seconds that the token should still have.
        refusal: The 401 that its call met, if so. Then it needs another token, or word that none would help.
        since: Boot clock: when it began to wait, if that was earlier.
        record: Of the path that it calls.
    """

    caller: int
    lifetime: float = 0
    refusal: Unauthorized | None = None
    since: float | None = None
    record: PathRecord = PathRecord.NEW


@dataclass(frozen=True, slots=True)
class Accepted:
    """A call with a token of this generation came back as anything but 401; `probe` as in `Unauthorized`."""

    generation: int
    probe: int = 0


@dataclass(frozen=True, slots=True)
class RefusedAgain:
    """A call that was sent again with another token met a 401 with that, too, and has ended so."""

    refusal: Unauthorized


@dataclass(frozen=True, slots=True)
class Abandoned:
    """A caller left. Nothing that is under way is cancelled."""

    caller: int


@dataclass(frozen=True, slots=True)
class Authorized:
    """A person authorized us; the code was exchanged for these tokens. `caller` is None once it has been told."""

    caller: int | None
    tokens: Tokens
    known: float = 0.0  # `authorized_at` of the grant that was known then

    @property
    def at(self) -> float:
        """When that was, by the wall clock."""
        return self.tokens.obtained_at


@dataclass(frozen=True, slots=True)
class LogoutAsked:
    """A person wants forgotten what there is now."""

    caller: int | None
    at: float  # wall clock
    known: float = 0.0  # `authorized_at` of the grant that was known then


@dataclass(frozen=True, slots=True)
class Woke:
    """Time passed."""


@dataclass(frozen=True, slots=True)
class Stopping:
    """The process is asked to end: start nothing new, lose nothing."""


# Then what effects came to, each legal only in the phase that asked for it.


@dataclass(frozen=True, slots=True)
class Read:
    """The store holds this."""

    grant: Grant | None


@dataclass(frozen=True, slots=True)
class Locked:
    """The lock is ours."""


@dataclass(frozen=True, slots=True)
class Written:
    """The grant is stored, durably."""


@dataclass(frozen=True, slots=True)
class Conflicted:
    """The stored generation was not the expected one; nothing was written."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The store could not do it. Of a write nobody can say whether it happened."""

    denial: Denial
    busy: bool = False  # somebody else has the lock; the store is well


@dataclass(frozen=True, slots=True)
class Answered:
    """What the token request came to."""

    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Revoked:
    """The revocation request ended, for better or worse."""

    accepted: bool


Wish = Demanded | Accepted | RefusedAgain | Abandoned | Authorized | LogoutAsked | Woke | Stopping
Result = Read | Locked | Written | Conflicted | Failed | Answered | Revoked
Event = Wish | Result


# Effects: what the driver must do. Those of the first group answer with an event.


@dataclass(frozen=True, slots=True)
class ReadStore:
    """Read the store. Comes back as Read or Failed."""


@dataclass(frozen=True, slots=True)
class TakeLock:
    """Wait for the lock, `timeout` seconds at most. Comes back as Locked or Failed."""

    timeout: float


@dataclass(frozen=True, slots=True)
class WriteGrant:
    """Compare-and-set. Comes back as Written, Conflicted or Failed."""

    expected: int
    grant: Grant
    under_lock: bool = False  # not to be written at all if the lock is no longer held: Failed


@dataclass(frozen=True, slots=True)
class Spend:
    """One token request with this refresh token, if the lock is still held: Answered; else nothing is sent: Failed."""

    refresh_token: Secret


@dataclass(frozen=True, slots=True)
class Revoke:
    """Revoke this token, if there is an endpoint for it. Comes back as Revoked."""

    token: Secret


@dataclass(frozen=True, slots=True)
class FreeLock:
    """Free the lock. Nothing comes back."""


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Send Woke at this time of the boot clock. Replaces the one before."""

    boot: float


class Go(Enum):
    """How a caller goes on."""

    ON = "with the token at hand"
    PROBE = "with the token at hand, which is suspected; one caller only"
    AGAIN = "once more with the token that was refused: it was too young to be known everywhere"
    RELAY = "with the 401 that it got: the token is good, or another one would not help"


@dataclass(frozen=True, slots=True)
class Answer:
    """Tell a caller how to go on, or why there is no token."""

    caller: int
    told: Go | Denial = Go.ON


@dataclass(frozen=True, slots=True)
class Report:
    """Write an event to the log. The fields hold no secret."""

    event: str
    level: str = "info"
    fields: tuple[tuple[str, object], ...] = ()


Effect = ReadStore | TakeLock | WriteGrant | Spend | Revoke | FreeLock | WakeAt | Answer | Report


@dataclass(frozen=True, slots=True)
class Policy:
    """What does not change while a process runs."""

    organization: str
    client_id: str
    holder: str  # host, process, and what no other process has; for intents
    ahead: float = 300  # the setting refresh.ahead, seconds
    jitter: float = 0  # -0.1 to 0.1, drawn once per process
    intent_grace: float = 0  # stores.Store.intent_grace, seconds


@dataclass(frozen=True, slots=True)
class RefusalSeen:
    """What the token endpoint said to a refresh, and when by the boot clock."""

    mark: str
    at: float
    worded: bool  # with an error code, and not just a status


@dataclass(frozen=True, slots=True)
class Waiter:
    """Somebody who waits for a token."""

    id: int
    since: float  # boot clock
    lifetime: float  # seconds that the token should still have
    refusal: Unauthorized | None = None
    record: PathRecord = PathRecord.NEW
    settling: bool = False  # its token was refused while young: it is tried again when it has settled


@dataclass(frozen=True, slots=True)
class Run:
    """What is known only while the lock is held, or wanted."""

    base: int = 0  # the stored generation, as read under the lock: what a write expects
    pending: Grant | None = None  # what is being written
    attempt: int = 0  # token requests of this run
    tries: int = 0  # failed writes of `pending`
    until: float = NEVER  # boot clock: when to go on, or how long to wait for the lock
    suspect: Intent | None = None  # an earlier attempt whose outcome nobody knows
    charged: bool = False  # to the budget of renewals that 401s cause
    flaw: str = ""  # what was wrong with an answer that brought a refresh token, and no access token
    order: Authorized | LogoutAsked | None = None  # the wish that this run serves, if it is no refresh


@dataclass(frozen=True, slots=True)
class State:
    """All that one process knows. `grant` is the newest that it has seen; callers are served from it."""

    policy: Policy
    phase: Phase = Phase.IDLE
    known: bool = False  # the store has answered at least once
    grant: Grant | None = None
    fresh: Freshness | None = None  # of grant.tokens
    trust: Trust = field(default_factory=Trust)  # of the upstream in that token
    locked: bool = False
    run: Run = field(default_factory=Run)
    callers: tuple[Waiter, ...] = ()
    orders: tuple[Authorized | LogoutAsked, ...] = ()
    look_at: float = NEVER  # boot clock: next look at the store
    try_at: float = NEVER  # boot clock: no attempt before
    failures: int = 0  # attempts in a row that brought nothing
    trouble: Denial | None = None  # why the last attempt brought nothing
    store_trouble: Denial | None = None  # what the store said last, if it failed
    store_lost_at: float = NEVER  # boot clock: since when what is needed of it fails
    phase_since: float = NEVER  # boot clock
    end_mark: tuple[float | None, float] | None = None  # an end of the refresh token, and when it was told
    refusal: RefusalSeen | None = None  # a definite one that was no verdict
    soft_verdict: Denial | None = None  # it came twice: a person is needed, and the token is still tried
    stranger: tuple[Intent, float] | None = None  # another holder's unfinished intent, and when it was first seen
    stopping: bool = False
    stop_by: float = NEVER  # boot clock: until when a stopping process tries to store what it has
    refreshed_at: float | None = None  # wall clock, of the last token request
    refreshed: str | None = None  # what it came to

    @property
    def generation(self) -> int:
        """The generation of the newest grant that we know, 0 if there is none."""
        return self.grant.generation if self.grant else 0

    @property
    def tokens(self) -> Tokens | None:
        """The tokens of that grant; None when never set up or logged out."""
        return self.grant.tokens if self.grant else None


def given(value: T | None) -> T:
    """What the phase guarantees to be there, and mypy cannot know."""
    assert value is not None
    return value
