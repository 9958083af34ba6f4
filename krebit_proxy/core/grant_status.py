"""What a `State` of `core.lifecycle` means for callers, people and probes.

-   `answer` decides for one caller: use the token, wait, or fail. A caller waits only while something that may bring a
    better token is under way, and never longer than `PATIENCE`. A store that fails counts as a short outage first: only
    after `OUTAGE` seconds do callers get an error.
-   `status` describes the grant for the status page, the health check, the metrics and the alarm.
-   `due_in` and `refresh_due` say when the token should be renewed.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from krebit_proxy.core.events import NEVER, Denial, Go, Phase, State, Waiter, given
from krebit_proxy.core.freshness import Moment, lead
from krebit_proxy.core.suspicion import CONTENTION, SETTLED, Trust

PATIENCE: Final = 30.0  # seconds that a caller waits at most
OUTAGE: Final = 10.0  # seconds for which the store may fail (a database restarts) before callers get an error

_SHORTEST: Final = 2.0  # seconds; a shorter lifetime of a refresh token cannot be meant, so it is ignored
# Phases that a working store ends quickly. LOCKING is none: another process may have the lock for a refresh.
_OF_THE_STORE: Final = frozenset(
    {Phase.LOOKING, Phase.CHECKING, Phase.INTENDING, Phase.STORING, Phase.RECONCILING, Phase.RETRACTING}
)
_RENEWING: Final = frozenset(
    {Phase.LOCKING, Phase.CHECKING, Phase.INTENDING, Phase.SPENDING, Phase.PAUSING, Phase.STORING, Phase.RECONCILING}
)
_AUTHORIZE: Final = "Open /setup in a browser to authorize again."
_SETUP: Final = Denial(
    "setup_required", "This proxy is not authorized yet.", "Open /setup in a browser to authorize it."
)
_NO_REFRESH_TOKEN: Final = Denial(
    "reauthorization_required",
    "The access token has expired or Krebit refuses it, and there is no refresh token to renew it.",
    _AUTHORIZE,
)


@dataclass(frozen=True, slots=True)
class GrantStatus:
    """What people and probes may know: no token. Times are seconds since the epoch."""

    ready: bool  # a request would get a token now
    code: str | None  # one of errors.CODES when something is wrong, even while still ready
    detail: str  # one sentence: what is the matter
    hint: str  # one sentence: what to do; may be empty
    generation: int
    obtained_at: float | None
    expires_at: float | None
    scope: str
    last_refresh_at: float | None
    last_refresh: str | None  # outcome of the last refresh: "ok", or a short reason
    next_refresh_at: float | None
    refreshing: bool
    lock_held: bool  # by this process
    lock_holder: str | None  # host and process that has the lock, or has left a refresh unfinished
    refresh_began_at: float | None  # when the holder stored its intent
    store_error: str | None
    suspected: bool = False  # the API has refused the token, and has not accepted it since
    refresh_token_expires_at: float | None = None
    refresh_token_end_is_fixed: bool = False  # renewals do not move that end: a person must authorize again before it


def time_left(state: State, now: Moment) -> float:
    """Seconds until the token expires. 0 or less: it has expired, or there is none."""
    return state.fresh.left(now) if state.fresh else 0


def renewable(state: State) -> bool:
    """Whether there is a refresh token that Krebit has not refused for good."""
    return bool(state.tokens and state.tokens.refresh_token and state.grant and not state.grant.verdict)


def due_in(state: State, now: Moment) -> float:
    """Seconds until the tokens should be renewed. A caller that needs a longer lifetime makes it earlier."""
    fresh, tokens, policy = given(state.fresh), given(state.tokens), state.policy
    wanted = max((caller.lifetime for caller in state.callers), default=0.0)
    window = max(fresh.window(policy.ahead, policy.jitter), min(wanted, fresh.lifetime / 2))
    due = fresh.left(now) - window
    # The refresh token may expire before the access token. If renewals do not move that end, an early one is useless.
    if tokens.refresh_expires_at is not None and not tokens.refresh_end_is_fixed:
        lifetime = tokens.refresh_expires_at - tokens.obtained_at
        if lifetime >= _SHORTEST:
            due = min(due, tokens.refresh_expires_at - now.wall - lead(lifetime, policy.ahead, policy.jitter))
    return due


def refresh_due(state: State, now: Moment) -> bool:
    """Whether the token should be renewed now: it expires soon, or the API has refused it."""
    if not renewable(state):
        return False
    return due_in(state, now) <= 0 or (state.trust.suspected and not state.trust.budget.is_spent(now.boot))


def answer(state: State, caller: Waiter, now: Moment) -> Go | Denial | None:
    """What a caller should do, or why there is no token. None: it waits."""
    refusal, trust, left = caller.refusal, state.trust, time_left(state, now)
    age = state.fresh.age(now) if state.fresh else SETTLED
    if refusal is None or refusal.generation != state.generation or left <= 0:
        if trust.unproven and left > 0:
            return _try_out(trust, caller, age, now)
        return _answer(state, caller, now)
    if caller.settling:
        return None if age < SETTLED else Go.AGAIN
    if not trust.suspected:
        return Go.RELAY
    if _is_hopeful(state, caller, now):
        return None
    unaffordable = renewable(state) and not refresh_due(state, now) and state.trouble is None
    return Go.RELAY if unaffordable else denial(state, now)


def _try_out(trust: Trust, caller: Waiter, age: float, now: Moment) -> Go | None:
    """For a token that replaced a suspected one: one call tries it, and the others wait for what comes of that."""
    if age >= SETTLED:
        return Go.ON  # a call may take long, and the others must not wait for that
    if trust.doubted or trust.lagging:
        return None
    return Go.PROBE if trust.may_probe(caller.record, now.boot) else None


def _answer(state: State, caller: Waiter, now: Moment) -> Go | Denial | None:
    """The same for a caller without a 401 to the current token."""
    left, trust = time_left(state, now), state.trust
    if state.fresh is not None and left > state.fresh.margin:
        if trust.suspected:
            if trust.may_probe(caller.record, now.boot):
                return Go.PROBE
        elif left >= min(caller.lifetime, state.fresh.lifetime / 2):
            return Go.ON
    if _is_hopeful(state, caller, now):
        return None
    # Nothing better will come soon. The old token is still valid for what is left of its lifetime.
    return Go.ON if left > 0 and not trust.suspected else denial(state, now)


def _is_hopeful(state: State, caller: Waiter, now: Moment) -> bool:
    """Whether waiting may bring the caller a token."""
    if now.boot - caller.since >= PATIENCE:
        return False
    trouble = state.store_trouble
    lost = state.store_lost_at != NEVER and now.boot >= state.store_lost_at + OUTAGE
    if state.phase in _OF_THE_STORE:
        return not lost and now.boot < state.phase_since + OUTAGE
    if state.phase is Phase.LOCKING:
        return not lost
    if state.phase not in {Phase.IDLE, Phase.UNSTORED}:
        return True
    # Another process may be refreshing: we respect its intent for a while. Or the store may come back.
    awaited = state.stranger is not None and now.boot < state.try_at
    outage = trouble is not None and trouble.code != "misconfigured" and not lost
    return (awaited or outage) and not state.stopping


def answers_change_at(state: State, now: Moment) -> Iterator[float]:
    """Times of the boot clock at which waiting callers may get another answer, even if nothing happens until then."""
    if not state.callers:
        return
    fresh = state.fresh
    for caller in state.callers:
        yield caller.since + PATIENCE
        if fresh and (caller.refusal or state.trust.unproven):
            yield _upcoming(now.boot - fresh.age(now) + SETTLED, now)
    if state.trust.half_open:
        yield _upcoming(state.trust.probe_at, now)
        yield _upcoming(state.trust.wanted_at + CONTENTION, now)
    yield _upcoming(state.store_lost_at + OUTAGE, now)
    if state.phase in _OF_THE_STORE:
        yield _upcoming(state.phase_since + OUTAGE, now)


def _upcoming(at: float, now: Moment) -> float:
    return at if at > now.boot else math.inf


def denial(state: State, now: Moment) -> Denial:
    """Why there is no usable token now."""
    if state.known or state.grant:
        if state.tokens is None:
            return _SETUP
        if state.grant and state.grant.verdict:
            return Denial("reauthorization_required", state.grant.verdict.reason, _AUTHORIZE)
        if state.soft_verdict:
            return state.soft_verdict
        if state.tokens.refresh_token is None:
            return _NO_REFRESH_TOKEN
    suspected = state.trust.suspected and time_left(state, now) > 0
    trouble = state.trouble or state.store_trouble
    if trouble is None:
        if suspected:
            return Denial(
                "token_unavailable",
                "Krebit refuses the access token.",
                "The proxy keeps trying. Retry in a second.",
                1,
            )
        return Denial("token_unavailable", "The proxy is getting a new token.", "Retry in a second.", 1)
    if trouble.code == "misconfigured":
        return trouble
    next_try = max(state.try_at, state.look_at) if state.store_trouble else state.try_at
    # One call a second tries a suspected token, which may turn out to be good.
    return replace(trouble, retry_after=1 if suspected else math.ceil(max(1.0, next_try - now.boot)))


def status(state: State, now: Moment) -> GrantStatus:
    """Describes the grant at `now`. `code` may name a trouble even while `ready`."""
    tokens, ready = state.tokens, _is_ready(state, now)
    problem = _problem(state, now, ready=ready)
    holder, began = _holder(state)
    renewal = None
    if state.fresh and renewable(state):
        renewal = now.wall + max(0.0, due_in(state, now), state.try_at - now.boot)
    return GrantStatus(
        ready=ready,
        code=problem.code if problem else None,
        detail=problem.detail if problem else "Authorized.",
        hint=problem.hint if problem else "",
        generation=state.generation,
        obtained_at=tokens.obtained_at if tokens else None,
        expires_at=tokens.expires_at if tokens else None,
        scope=tokens.scope if tokens else "",
        last_refresh_at=state.refreshed_at,
        last_refresh=state.refreshed,
        next_refresh_at=renewal,
        refreshing=state.phase in {Phase.SPENDING, Phase.PAUSING},
        lock_held=state.locked,
        lock_holder=holder,
        refresh_began_at=began,
        store_error=state.store_trouble.detail if state.store_trouble else None,
        suspected=state.trust.suspected,
        refresh_token_expires_at=tokens.refresh_expires_at if tokens else None,
        refresh_token_end_is_fixed=tokens.refresh_end_is_fixed if tokens else False,
    )


def _is_ready(state: State, now: Moment) -> bool:
    """Whether a request would get a token now. A suspected token counts while it is being renewed."""
    if time_left(state, now) <= 0:
        return False
    looking = state.phase is Phase.LOOKING and refresh_due(state, now)
    return not state.trust.suspected or looking or state.phase in _RENEWING


def _holder(state: State) -> tuple[str | None, float | None]:
    """Who has the lock, and since when it has been refreshing. About others we know only what the store said last."""
    intent = state.grant.intent if state.grant else None
    holder = state.policy.holder if state.locked else intent.holder if intent else None
    return holder, intent.at if intent and intent.holder == holder else None


def _problem(state: State, now: Moment, *, ready: bool) -> Denial | None:
    if not ready or state.soft_verdict or (state.grant and state.grant.verdict):
        return denial(state, now)
    return state.store_trouble or state.trouble
