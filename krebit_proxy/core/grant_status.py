"""The status of the grant: what callers, people and probes are told about a state of `core.lifecycle`."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from krebit_proxy.core.events import NEVER, Denial, Go, Phase, State, Waiter, given
from krebit_proxy.core.freshness import Moment, lead
from krebit_proxy.core.suspicion import CONTENTION, SETTLED, Trust

PATIENCE: Final = 30.0  # seconds that a caller waits at most
OUTAGE: Final = 10.0  # seconds that a store may be away, as a database that restarts, before callers are told

_SHORTEST: Final = 2.0  # seconds; a refresh token that is said to last less says nothing of use
# What takes the store no time. To get the lock may: somebody else may be at a refresh.
_OF_THE_STORE: Final = frozenset(
    {Phase.LOOKING, Phase.CHECKING, Phase.INTENDING, Phase.STORING, Phase.RECONCILING, Phase.RETRACTING}
)
_RENEWING: Final = frozenset(
    {Phase.LOCKING, Phase.CHECKING, Phase.INTENDING, Phase.SPENDING, Phase.PAUSING, Phase.STORING, Phase.RECONCILING}
)
_AUTHORIZE: Final = "Open /setup in a browser to authorize again."
_SETUP: Final = Denial("setup_required", "This proxy is not authorized yet.", "Open /setup in a browser, once.")
_NO_REFRESH_TOKEN: Final = Denial(
    "reauthorization_required",
    "The access token is no longer good, and Krebit issued no refresh token to renew it with.",
    _AUTHORIZE,
)


@dataclass(frozen=True, slots=True)
class GrantStatus:
    """What people and probes may know. Times are seconds since the epoch, None where there is none. No token."""

    ready: bool  # a request would be authenticated now
    code: str | None  # one of errors.CODES when something is wrong, even while still ready
    detail: str  # one sentence: what is the matter
    hint: str  # one sentence: what to do
    generation: int
    obtained_at: float | None
    expires_at: float | None
    scope: str
    last_refresh_at: float | None
    last_refresh: str | None  # outcome of the last refresh: "ok", or a short reason
    next_refresh_at: float | None
    refreshing: bool
    lock_held: bool  # by this process
    lock_holder: str | None  # host and process that have the lock, or had it and left a refresh unfinished
    refresh_began_at: float | None  # when the holder stored its intent
    store_error: str | None
    suspected: bool = False  # the upstream refused the token, and has not accepted it since
    refresh_token_expires_at: float | None = None
    refresh_token_end_is_fixed: bool = False  # a renewal did not move it: a person must authorize again before it


def time_left(state: State, now: Moment) -> float:
    """Seconds for which the clocks call the token good; 0 or less when they do not."""
    return state.fresh.left(now) if state.fresh else 0


def renewable(state: State) -> bool:
    """Whether a refresh could bring a new token at all."""
    return bool(state.tokens and state.tokens.refresh_token and state.grant and not state.grant.verdict)


def due_in(state: State, now: Moment) -> float:
    """Seconds until the tokens at hand are to be renewed, by the clock; earlier when a caller needs more time."""
    fresh, tokens, policy = given(state.fresh), given(state.tokens), state.policy
    wanted = max((caller.lifetime for caller in state.callers), default=0.0)
    window = max(fresh.window(policy.ahead, policy.jitter), min(wanted, fresh.lifetime / 2))
    due = fresh.left(now) - window
    # A refresh token may end before the access token does. Where a renewal does not move that end, haste is no use.
    if tokens.refresh_expires_at is not None and not tokens.refresh_end_is_fixed:
        lifetime = tokens.refresh_expires_at - tokens.obtained_at
        if lifetime >= _SHORTEST:
            due = min(due, tokens.refresh_expires_at - now.wall - lead(lifetime, policy.ahead, policy.jitter))
    return due


def refresh_due(state: State, now: Moment) -> bool:
    """Whether the token is to be renewed now: by the clock, or since the upstream refused it."""
    if not renewable(state):
        return False
    return due_in(state, now) <= 0 or (state.trust.suspected and not state.trust.budget.is_spent(now.boot))


def answer(state: State, caller: Waiter, now: Moment) -> Go | Denial | None:
    """How a caller goes on, or why there is no token; None: it waits.

    A caller waits only while something is under way that may bring a better token, and never longer than `PATIENCE`.
    """
    refusal, trust = caller.refusal, state.trust
    age = state.fresh.age(now) if state.fresh else SETTLED
    if refusal is None or refusal.generation != state.generation or time_left(state, now) <= 0:
        if trust.unproven and time_left(state, now) > 0:
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
    if trust.doubted or trust.lagging:
        return Go.ON if age >= SETTLED else None
    return Go.PROBE if trust.may_probe(caller.record, now.boot) else None


def _answer(state: State, caller: Waiter, now: Moment) -> Go | Denial | None:
    """The same for a caller that has no 401 to the token at hand."""
    left, trust = time_left(state, now), state.trust
    if state.fresh is not None and left > state.fresh.margin:
        if trust.suspected:
            if trust.may_probe(caller.record, now.boot):
                return Go.PROBE
        elif left >= min(caller.lifetime, state.fresh.lifetime / 2):
            return Go.ON
    if _is_hopeful(state, caller, now):
        return None
    # Nothing better will come for now: what is left of the old token is still a valid token.
    return Go.ON if left > 0 and not trust.suspected else denial(state, now)


def _is_hopeful(state: State, caller: Waiter, now: Moment) -> bool:
    """Whether it is worth waiting for what is under way."""
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
    # Somebody else may be at it, whose intent is respected for a while; or the store may come back.
    awaited = state.stranger is not None and now.boot < state.try_at
    outage = trouble is not None and trouble.code != "misconfigured" and not lost
    return (awaited or outage) and not state.stopping


def answers_change_at(state: State, now: Moment) -> Iterator[float]:
    """When those who wait get another answer than now, by the boot clock, if nothing happens before."""
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
    """Why there is no usable token."""
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
                "token_unavailable", "Krebit refuses the access token.", "The proxy tries it once a second. Retry.", 1
            )
        return Denial("token_unavailable", "The proxy is fetching a new token.", "Retry in a moment.", 1)
    if trouble.code == "misconfigured":
        return trouble
    next_try = max(state.try_at, state.look_at if state.store_trouble else state.try_at)
    # A suspected token is tried every second, and may turn out to be good.
    return replace(trouble, retry_after=1 if suspected else math.ceil(max(1.0, next_try - now.boot)))


def status(state: State, now: Moment) -> GrantStatus:
    """The state of the grant for people and probes."""
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
    """Whether a request would be authenticated now. A suspected token counts while a renewal is to be had."""
    if time_left(state, now) <= 0:
        return False
    looking = state.phase is Phase.LOOKING and refresh_due(state, now)
    return not state.trust.suspected or looking or state.phase in _RENEWING


def _holder(state: State) -> tuple[str | None, float | None]:
    """Who has the lock, and since when it is at a refresh. Of others we know what the store said at the last look."""
    intent = state.grant.intent if state.grant else None
    holder = state.policy.holder if state.locked else intent.holder if intent else None
    return holder, intent.at if intent and intent.holder == holder else None


def _problem(state: State, now: Moment, *, ready: bool) -> Denial | None:
    if not ready:
        return denial(state, now)
    if state.soft_verdict or (state.grant and state.grant.verdict):
        return denial(state, now)
    return state.store_trouble or state.trouble
