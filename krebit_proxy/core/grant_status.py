"""What callers, people and probes are told about a state: a token, a wait, or why not."""

import math
from dataclasses import dataclass, replace
from typing import Final

from krebit_proxy.core.events import Denial, Phase, State, Waiter, given
from krebit_proxy.core.freshness import Moment

PATIENCE: Final = 30.0  # seconds that a caller waits at most
OUTAGE: Final = 10.0  # seconds that a store may be away, as a database that restarts, before callers are told

_SETUP: Final = Denial("setup_required", "This proxy is not authorized yet.", "Open /setup in a browser, once.")
_NO_REFRESH_TOKEN: Final = Denial(
    "reauthorization_required",
    "The access token has expired, and the authorization server issued no refresh token.",
    "Open /setup in a browser to authorize again.",
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
    """Seconds for which the token is believed to be good; 0 or less when it is not."""
    return state.fresh.left(now) if state.fresh and not state.rejected else 0


def window(state: State) -> float:
    """Seconds before expiry from which the tokens at hand are to be renewed; more when a caller needs more time."""
    fresh = given(state.fresh)
    wanted = max((caller.lifetime for caller in state.callers), default=0.0)
    return max(fresh.window(state.policy.ahead, state.policy.jitter), min(wanted, fresh.lifetime / 2))


def renewable(state: State) -> bool:
    """Whether a refresh could bring a new token at all."""
    return bool(state.tokens and state.tokens.refresh_token and state.grant and not state.grant.verdict)


def is_ready(state: State, caller: Waiter, now: Moment) -> bool:
    """Whether the token at hand is all that this caller can wish for."""
    left = time_left(state, now)
    if state.fresh is None or left <= state.fresh.margin:
        return False
    return left >= min(caller.lifetime, state.fresh.lifetime / 2)


def answer(state: State, caller: Waiter, now: Moment) -> Denial | bool:
    """True: use the token. False: wait. Else why there is none.

    A caller waits only while something is under way that may bring a better token, and never longer than `PATIENCE`.
    """
    if is_ready(state, caller, now):
        return True
    # Or while somebody else may be at it, whose intent is respected for a while, or while the store may come back.
    awaited = state.stranger is not None and now.boot < state.try_at
    trouble = state.store_trouble
    outage = trouble is not None and trouble.code != "misconfigured" and now.boot < state.store_lost_at + OUTAGE
    under_way = state.phase not in {Phase.IDLE, Phase.UNSTORED}
    hopeful = under_way or ((awaited or outage) and not state.stopping)
    if hopeful and now.boot - caller.since < PATIENCE:
        return False
    # Nothing better will come for now: what is left of the old token is still a valid token.
    return True if time_left(state, now) > 0 else denial(state, now)


def denial(state: State, now: Moment) -> Denial:
    """Why there is no usable token."""
    if state.known or state.grant:
        if state.tokens is None:
            return _SETUP
        if state.grant and state.grant.verdict:
            return Denial(
                "reauthorization_required",
                state.grant.verdict.reason,
                "Open /setup in a browser to authorize again.",
            )
        if state.tokens.refresh_token is None:
            return _NO_REFRESH_TOKEN
    trouble = state.trouble or state.store_trouble
    if trouble is None:
        return Denial("token_unavailable", "A new token is still being fetched.", "Try again shortly.", 1)
    if trouble.code == "misconfigured":
        return trouble
    next_try = max(state.try_at, state.look_at if state.store_trouble else state.try_at)
    return replace(trouble, retry_after=math.ceil(max(1.0, next_try - now.boot)))


def status(state: State, now: Moment) -> GrantStatus:
    """The state of the grant for people and probes."""
    left = time_left(state, now)
    tokens = state.tokens
    problem = _problem(state, now, ready=left > 0)
    holder, began = _holder(state)
    renewal = None
    if state.fresh and renewable(state):
        renewal = now.wall + max(0.0, state.fresh.left(now) - window(state), state.try_at - now.boot)
    return GrantStatus(
        ready=left > 0,
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
    )


def _holder(state: State) -> tuple[str | None, float | None]:
    """Who has the lock, and since when it is at a refresh. Of others we know what the store said at the last look."""
    intent = state.grant.intent if state.grant else None
    holder = state.policy.holder if state.locked else intent.holder if intent else None
    return holder, intent.at if intent and intent.holder == holder else None


def _problem(state: State, now: Moment, *, ready: bool) -> Denial | None:
    if not ready:
        return denial(state, now)
    if state.grant and state.grant.verdict:
        return denial(state, now)
    return state.store_trouble or state.trouble
