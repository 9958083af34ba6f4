"""THE state machine of the grant: `step(state, event, now) -> (state, effects)`.

Everything that changes what a process believes about its grant happens here, and nothing here does anything: what the
protocol wants done is an effect, and whatever comes of it, failures included, is an event. A test can be the world.

Theory
======

A refresh token may be good for one use only, a second use may kill the whole grant, and the answer to a use may be lost
between the server and our disk. So:

1.  *One at a time, over all processes.* A refresh token is spent only under the lock that all processes of a store
    share, and only after the store was read again under that lock: who waited for it usually finds newer tokens there.
2.  *Intent before, answer after.* The intent is stored before the token is spent. That is also the test that the store
    can be written: a token is never spent when the store has just refused a write. The answer is stored before it is
    used. If that write fails the answer is used all the same, from memory, and the write is tried until it succeeds,
    with the lock kept, so that nobody else spends the old token.
3.  *Compare and set.* Every write names the generation that it replaces. A generation is one set of tokens; a newer one
    is never overwritten by an older one. Intents and verdicts are notes on a generation.
4.  *Only invalid_grant is a verdict.* It is stored if the generation is still the one that was refused; otherwise
    somebody else was quicker and theirs is adopted. The tokens stay: nothing is ever deleted but by a logout.
5.  *Unclear is not failed.* When nobody knows whether the token was spent, the same token is presented again, twice at
    once and then with growing pauses: servers with a grace time answer again, and on strict ones nothing is lost that
    was not lost already. When it was certainly not spent, the intent is retracted and the lock freed between tries.
6.  *A 401 is charged to the generation it was sent with*, so a hundred late ones cause one refresh.
7.  *Callers wait only when no usable token is left* (see `core.outlook`). They never own a refresh: leaving cancels
    nothing.

The normal way through, one line for each phase (see `Phase`); every other arrow is a way back to IDLE:

    IDLE -> LOOKING -> LOCKING -> CHECKING -> INTENDING -> SPENDING -> STORING -> IDLE

An order of a person (`Authorized`, `LogoutAsked`) takes the same way as far as CHECKING and goes to STORING from there.
`TRANSITIONS` is the whole table. A result in a phase that did not ask for it is an error that names both.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from krebit_proxy.core.freshness import Moment
from krebit_proxy.core.outlook import OUTAGE, PATIENCE, answer, renewable, time_left, window
from krebit_proxy.core.protocol import (
    NEVER,
    Abandoned,
    Answer,
    Answered,
    Authorized,
    Caller,
    Conflicted,
    Demanded,
    Denial,
    Effect,
    Event,
    Failed,
    Locked,
    LogoutAsked,
    Phase,
    Read,
    ReadStore,
    Revoke,
    Revoked,
    Run,
    State,
    Stopping,
    TakeLock,
    WakeAt,
    Woke,
    Written,
)
from krebit_proxy.core.spending import answered, intend, intended, retracted, spend
from krebit_proxy.core.storing import (
    LOOK_EVERY,
    SUPERSEDED,
    Step,
    adopt,
    answered_order,
    beaten,
    conflicted,
    is_newer,
    lost_store,
    pend,
    reconciled,
    release,
    report,
    store_failed,
    stored,
    unstored,
    write,
)

STOP_PATIENCE: Final = 10.0  # seconds that a stopping process goes on trying to store what must not be lost
LOCK_TIMEOUT: Final = 65.0  # seconds in all; longer than the longest token request of another holder


class IllegalEventError(Exception):
    """A result came that this phase did not ask for. The state is unchanged."""


def step(state: State, event: Event, now: Moment) -> Step:
    """What follows from `event`. Raises IllegalEventError for a result that nobody asked for."""
    effects: tuple[Effect, ...] = ()
    match event:
        case Demanded() | Abandoned() | Authorized() | LogoutAsked() | Woke() | Stopping():
            state = _wish(state, event, now)
        case _:
            transition = TRANSITIONS.get((state.phase, type(event)))
            if transition is None:
                raise IllegalEventError(f"{type(event).__name__} in phase {state.phase.name}")
            state, effects = transition(state, event, now)
    state, started = _proceed(state, now)
    state, answers = _answer_callers(state, now)
    return state, (*effects, *started, *answers, WakeAt(_alarm(state, now)))


def _wish(state: State, event: Event, now: Moment) -> State:
    """Takes note of what somebody wants; `_proceed` sees to it when it can."""
    match event:
        case Demanded(caller, rejected, lifetime):
            state = replace(state, callers=(*state.callers, Caller(caller, now.boot, lifetime)))
            # Charged to the generation it was sent with: a late 401 says nothing about a newer token.
            if rejected is not None and rejected == state.generation:
                state = replace(state, rejected=True)
        case Abandoned(caller):
            state = replace(state, callers=tuple(c for c in state.callers if c.id != caller))
        case Authorized() | LogoutAsked():
            # A person is waiting: no pause after earlier failures.
            known = state.grant.authorized_at if state.grant else 0.0
            state = replace(state, orders=(*state.orders, replace(event, known=known)), try_at=NEVER)
        case Stopping():
            run = replace(state.run, until=NEVER)
            state = replace(state, stopping=True, stop_by=now.boot + STOP_PATIENCE, run=run)
        case _:
            pass
    return state


def _proceed(state: State, now: Moment) -> Step:
    """Starts what is due: a look at the store, or the next try of what paused."""
    if state.phase is Phase.IDLE and not state.stopping and (state.look_at <= now.boot or _wants_lock(state, now)):
        return replace(state, phase=Phase.LOOKING, run=Run()), (ReadStore(),)
    if state.phase is Phase.PAUSING and (state.stopping or state.orders):
        return release(state)
    if state.phase is Phase.PAUSING and state.run.until <= now.boot:
        return spend(state, now)
    if state.phase is Phase.UNSTORED and state.run.until <= now.boot:
        return write(state)
    return state, ()


def _wants_lock(state: State, now: Moment) -> bool:
    return state.try_at <= now.boot and bool(state.orders or _refresh_due(state, now))


def _refresh_due(state: State, now: Moment) -> bool:
    return renewable(state) and time_left(state, now) <= window(state)


def _answer_callers(state: State, now: Moment) -> Step:
    if not state.callers:
        return state, ()
    answers = [(caller, answer(state, caller, now)) for caller in state.callers]
    waiting = tuple(caller for caller, told in answers if told is False)
    effects = tuple(
        Answer(caller.id, told if isinstance(told, Denial) else None) for caller, told in answers if told is not False
    )
    return replace(state, callers=waiting), effects


def _alarm(state: State, now: Moment) -> float:
    """The next moment, by the boot clock, at which something is due without anything happening before."""
    times = [caller.since + PATIENCE for caller in state.callers]
    if state.callers and state.store_trouble and state.store_lost_at + OUTAGE > now.boot:
        times.append(state.store_lost_at + OUTAGE)
    if state.phase is Phase.IDLE:
        times.append(state.look_at)
        if state.fresh and renewable(state):
            times.append(max(now.boot + time_left(state, now) - window(state), state.try_at))
        if state.orders:
            times.append(state.try_at)
    elif state.phase in {Phase.PAUSING, Phase.UNSTORED}:
        times.append(state.run.until)
    return max(now.boot, min(times, default=now.boot + LOOK_EVERY))


# What the store holds


def _looked(state: State, event: Read, now: Moment) -> Step:
    state, reports = adopt(state, event.grant, now)
    if state.stopping or not _wants_lock(state, now):
        return replace(state, phase=Phase.IDLE), reports
    until = now.boot + LOCK_TIMEOUT if state.run.until == NEVER else state.run.until
    return replace(state, phase=Phase.LOCKING, run=Run(until=until)), (*reports, TakeLock(LOOK_EVERY))


def _look_failed(state: State, event: Failed, now: Moment) -> Step:
    if _wants_lock(state, now):
        return store_failed(state, event, now)
    # A mere look: nothing was attempted, so nothing has failed.
    look_at = now.boot + LOOK_EVERY
    state = replace(lost_store(state, event.denial, now), phase=Phase.IDLE, look_at=look_at, stranger=None)
    return state, (report("grant.store_failed", "warning", reason=event.denial.detail),)


def _locked(state: State, _: Locked, __: Moment) -> Step:
    return replace(state, phase=Phase.CHECKING, locked=True, run=Run()), (ReadStore(),)


def _not_locked(state: State, event: Failed, now: Moment) -> Step:
    """Where somebody else has the lock, looks what the store says of it, and waits on: not for ever."""
    if event.busy and now.boot < state.run.until:
        return replace(state, phase=Phase.LOOKING), (ReadStore(),)
    return store_failed(state, event, now)


def _checked(state: State, event: Read, now: Moment) -> Step:
    """Decides, with the store's word under the lock, what this run is for."""
    state, reports = adopt(state, event.grant, now)
    state = replace(state, run=Run(base=event.grant.generation if event.grant else 0))
    if state.orders:
        state, effects = _serve(state, state.orders[0])
    elif state.stopping or not _refresh_due(state, now):
        state, effects = release(state)
    else:
        state, effects = intend(state, event.grant, now)
    return state, (*reports, *effects)


# Orders of a person, who is told by an Answer


def _serve(state: State, order: Authorized | LogoutAsked) -> Step:
    state = replace(state, orders=state.orders[1:], run=replace(state.run, order=order))
    superseded = state.grant is not None and is_newer(state.grant, order)
    if isinstance(order, Authorized) and not superseded:
        return write(pend(state, order.tokens, order.at))
    if isinstance(order, LogoutAsked) and state.tokens is not None and not superseded:
        return replace(state, phase=Phase.REVOKING), (Revoke(state.tokens.refresh_token or state.tokens.access_token),)
    state, effects = release(state)
    return state, (*answered_order(order, SUPERSEDED if superseded else None), *effects)


def _revoked(state: State, event: Revoked, _: Moment) -> Step:
    assert state.run.order is not None  # noqa: S101 -- a revocation belongs to a logout
    state, effects = write(pend(state, None, state.run.order.at))
    return state, (report("grant.revoked", accepted=event.accepted), *effects)


# The whole table: in this phase, that result, leads there. mypy cannot match the event's type to its key: Any.
Transition = Callable[[State, Any, Moment], Step]
TRANSITIONS: Final[dict[tuple[Phase, type[Event]], Transition]] = {
    (Phase.LOOKING, Read): _looked,
    (Phase.LOOKING, Failed): _look_failed,
    (Phase.LOCKING, Locked): _locked,
    (Phase.LOCKING, Failed): _not_locked,
    (Phase.CHECKING, Read): _checked,
    (Phase.CHECKING, Failed): store_failed,
    (Phase.INTENDING, Written): intended,
    (Phase.INTENDING, Conflicted): beaten,
    (Phase.INTENDING, Failed): store_failed,
    (Phase.SPENDING, Answered): answered,
    (Phase.SPENDING, Failed): store_failed,
    (Phase.STORING, Written): stored,
    (Phase.STORING, Conflicted): conflicted,
    (Phase.STORING, Failed): unstored,
    (Phase.RECONCILING, Read): reconciled,
    (Phase.RECONCILING, Failed): unstored,
    (Phase.RETRACTING, Written): retracted,
    (Phase.RETRACTING, Conflicted): retracted,
    (Phase.RETRACTING, Failed): retracted,
    (Phase.REVOKING, Revoked): _revoked,
}
