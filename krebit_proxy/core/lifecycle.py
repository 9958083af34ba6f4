"""THE state machine of the grant: `step(state, event, now) -> (state, effects)`.

Everything that changes what a process believes about its grant happens here, and nothing here does anything: what the
protocol wants done is an effect, and whatever comes of it, failures included, is an event. A test can be the world.

Theory
======

A refresh token may be good for one use only, a second use may kill the whole grant, and the answer to a use may be lost
between the server and our disk. So:

1.  *One at a time, over all processes.* A process spends a refresh token only under the lock that all processes of a
    store share, and only after it has read the store again under that lock: after a wait it usually finds newer tokens.
2.  *Intent before, answer after.* The intent is stored before the token is spent. That is also the test that the store
    can be written: a token is never spent when the store has just refused a write. The answer is stored before it is
    used. If that write fails, the answer is used all the same, from memory. The process keeps the lock and tries the
    write until it succeeds, so that nobody else spends the old token.
3.  *Compare and set.* Every write names the generation that it replaces. A generation is one set of tokens; a newer one
    is never overwritten by an older one. Intents and verdicts are notes on a generation.
4.  *Only invalid_grant and its kin are a verdict.* It is stored if the generation is still the one that was refused;
    otherwise another process was quicker, and its tokens are adopted. Any other definite refusal is a soft verdict when
    it comes twice and no access token is left: a person is called, and the token is still tried. Nothing is ever
    deleted but by a logout.
5.  *Unclear is not failed.* When nobody knows whether the token was spent, the same token is presented again, twice at
    once and then with growing pauses: servers with a grace time answer again, and on strict ones nothing is lost that
    was not lost already. When it was certainly not spent, the intent is retracted and the lock freed between tries.
6.  *What can be read is kept.* A refresh token that comes without a usable access token is stored as the next
    generation, with the old access token.
7.  *A refused access token is suspected, not dead* (see `core.suspicion`). A 401 is charged to the generation that its
    call was sent with, so a hundred late ones cause one refresh.
8.  *Callers wait only for what may help them* (see `core.grant_status`). They never own a refresh: leaving cancels
    nothing.

The normal way through, one line for each phase (see `Phase`); every other arrow is a way back to IDLE:

    IDLE -> LOOKING -> LOCKING -> CHECKING -> INTENDING -> SPENDING -> STORING -> IDLE

An order of a person (`Authorized`, `LogoutAsked`) takes the same way as far as CHECKING and goes to STORING from there.
`TRANSITIONS` is the whole table. A result in a phase that did not ask for it is an error that names both.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from krebit_proxy.core.events import (
    NEVER,
    Abandoned,
    Accepted,
    Answer,
    Answered,
    Authorized,
    Conflicted,
    Demanded,
    Denial,
    Effect,
    Event,
    Failed,
    FreeLock,
    Go,
    Locked,
    LogoutAsked,
    Phase,
    Read,
    ReadStore,
    RefusalSeen,
    RefusedAgain,
    Report,
    Revoke,
    Revoked,
    Run,
    Spend,
    State,
    Stopping,
    TakeLock,
    Waiter,
    WakeAt,
    Woke,
    WriteGrant,
    Written,
    given,
)
from krebit_proxy.core.freshness import Freshness, Moment
from krebit_proxy.core.grant import Grant, Intent, Tokens, Verdict
from krebit_proxy.core.grant_status import answer, answers_change_at, due_in, refresh_due, renewable, time_left
from krebit_proxy.core.secret import Secret
from krebit_proxy.core.token_response import Issued, NotSent, Refusal, RefusalKind, Rotated, Unclear

STOP_PATIENCE: Final = 10.0  # seconds that a stopping process goes on trying to store what must not be lost
LOCK_TIMEOUT: Final = 65.0  # seconds in all; longer than the longest token request of another holder
REPEATED_AFTER: Final = 2.0  # seconds after which a refusal that comes again is believed
TELLING: Final = 4.0  # seconds between two answers that tell whether the end of the refresh token moves
LONGEST_SOFT_PAUSE: Final = 600.0  # seconds between attempts when a person is needed, and a success would be a wonder
AT_ONCE: Final = (0.5, 2.0)  # seconds until an unclear token request is repeated, lock kept
MISCONFIGURED_PAUSE: Final = 60.0  # seconds; only a person can help, so there is no hurry
SUPERSEDED: Final = Denial(
    "token_unavailable",
    "Somebody else authorized the proxy, or logged it out, while this waited for the store. The later change counts.",
    "Check the status page. Repeat this if you still want it.",
)
LOCK_LOST: Final = Denial(
    "token_unavailable",
    "The proxy lost the lock of the grant store.",
    "The proxy keeps trying. Retry your request later.",
)
LOOK_EVERY: Final = 4.0  # seconds; a new authorization or a logout elsewhere is seen within five
LONGEST_PAUSE: Final = 60.0  # seconds between attempts
LONGEST_UNSTORED: Final = 30.0  # seconds between tries of a write that must not be lost
AT_STOP: Final = 1.0  # seconds between tries of such a write when the process must end
Step = tuple[State, tuple[Effect, ...]]


class IllegalEventError(Exception):
    """A result came that this phase did not ask for. The state is unchanged."""


def step(state: State, event: Event, now: Moment) -> Step:
    """What follows from `event`. Raises IllegalEventError for a result that nobody asked for."""
    effects: tuple[Effect, ...] = ()
    before = state.phase
    match event:
        case (
            Demanded() | Accepted() | RefusedAgain() | Abandoned() | Authorized() | LogoutAsked() | Woke() | Stopping()
        ):
            state = _wish(state, event, now)
        case _:
            transition = TRANSITIONS.get((state.phase, type(event)))
            if transition is None:
                raise IllegalEventError(f"{type(event).__name__} in phase {state.phase.name}")
            state, effects = transition(state, event, now)
    state, started = _proceed(state, now)
    if state.phase is not before:
        state = replace(state, phase_since=now.boot)
    state, answers = _answer_callers(state, now)
    return state, (*effects, *started, *answers, WakeAt(_alarm(state, now)))


def _wish(state: State, event: Event, now: Moment) -> State:
    """Takes note of what somebody wants; `_proceed` sees to it when it can."""
    match event:
        case Demanded():
            state = _demanded(state, event, now)
        case Accepted(generation, probe):
            if generation == state.generation:
                state = replace(state, trust=state.trust.proven(probe, now.boot))
        case RefusedAgain(refusal):
            trust = state.trust
            if state.fresh and refusal.generation == state.generation:
                doubted = trust.doubted or trust.must_settle(refusal, state.fresh.age(now))
                state = replace(state, trust=replace(trust, doubted=doubted))
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


def _demanded(state: State, event: Demanded, now: Moment) -> State:
    refusal, trust, settling = event.refusal, state.trust, False
    # Charged to the generation it was sent with: a late 401 says nothing about a newer token.
    if refusal is not None and refusal.generation == state.generation and state.fresh:
        age = state.fresh.age(now)
        settling = trust.must_settle(refusal, age)
        trust = trust.refused(refusal, age, now.boot)
    since = now.boot if event.since is None else event.since
    caller = Waiter(event.caller, since, event.lifetime, refusal, event.record, settling)
    return replace(state, callers=(*state.callers, caller), trust=trust.wanted(event.record, now.boot))


def _proceed(state: State, now: Moment) -> Step:
    """Starts what is due: a look at the store, or the next try of what paused."""
    if state.phase is Phase.IDLE and not state.stopping and (state.look_at <= now.boot or _wants_lock(state, now)):
        return replace(state, phase=Phase.LOOKING, run=Run()), (ReadStore(),)
    if state.phase is Phase.PAUSING and (state.stopping or state.orders):
        return _release(state)
    if state.phase is Phase.PAUSING and state.run.until <= now.boot:
        return _spend(state, now)
    if state.phase is Phase.UNSTORED and state.run.until <= now.boot:
        return _write(state)
    return state, ()


def _wants_lock(state: State, now: Moment) -> bool:
    return state.try_at <= now.boot and bool(state.orders or refresh_due(state, now))


def _answer_callers(state: State, now: Moment) -> Step:
    waiting, answers = [], []
    for caller in state.callers:
        told = answer(state, caller, now)
        if told is None:
            waiting.append(caller)
            continue
        answers.append(Answer(caller.id, told))
        if told is Go.PROBE:
            state = replace(state, trust=state.trust.probed(now.boot))
    if answers:
        state = replace(state, callers=tuple(waiting))
    return state, tuple(answers)


def _alarm(state: State, now: Moment) -> float:
    """The next moment, by the boot clock, at which something is due without anything happening before."""
    times = [*answers_change_at(state, now)]
    if state.phase is Phase.IDLE:
        times.append(state.look_at)
        if state.fresh and renewable(state):
            due_at = now.boot + due_in(state, now)
            if state.trust.suspected:
                due_at = min(due_at, state.trust.budget.next_at(now.boot))
            times.append(max(due_at, state.try_at))
        if state.orders:
            times.append(state.try_at)
    elif state.phase in {Phase.PAUSING, Phase.UNSTORED}:
        times.append(state.run.until)
    return max(now.boot, min(times, default=now.boot + LOOK_EVERY))


# What the store holds


def _looked(state: State, event: Read, now: Moment) -> Step:
    state, reports = _adopt(state, event.grant, now)
    if state.stopping or not _wants_lock(state, now):
        return replace(state, phase=Phase.IDLE), reports
    until = now.boot + LOCK_TIMEOUT if state.run.until == NEVER else state.run.until
    return replace(state, phase=Phase.LOCKING, run=Run(until=until)), (*reports, TakeLock(LOOK_EVERY))


def _look_failed(state: State, event: Failed, now: Moment) -> Step:
    if _wants_lock(state, now):
        return _store_failed(state, event, now)
    # A mere look: nothing was attempted, so nothing has failed.
    look_at = now.boot + LOOK_EVERY
    state = replace(_lost_store(state, event.denial, now), phase=Phase.IDLE, look_at=look_at, stranger=None)
    return state, (_report("grant.store_failed", "warning", reason=event.denial.detail),)


def _locked(state: State, _: Locked, __: Moment) -> Step:
    return replace(state, phase=Phase.CHECKING, locked=True, run=Run()), (ReadStore(),)


def _not_locked(state: State, event: Failed, now: Moment) -> Step:
    """Where somebody else has the lock, looks what the store says of it, and waits on: not for ever."""
    if event.busy and now.boot < state.run.until:
        return replace(state, phase=Phase.LOOKING), (ReadStore(),)
    return _store_failed(state, event, now)


def _checked(state: State, event: Read, now: Moment) -> Step:
    """Decides, with the store's word under the lock, what this run is for."""
    state, reports = _adopt(state, event.grant, now)
    state = replace(state, run=Run(base=event.grant.generation if event.grant else 0))
    if state.orders:
        state, effects = _serve(state, state.orders[0])
    elif state.stopping or not refresh_due(state, now):
        state, effects = _release(state)
    else:
        state, effects = _intend(state, event.grant, now)
    return state, (*reports, *effects)


# Orders of a person, who is told by an Answer


def _serve(state: State, order: Authorized | LogoutAsked) -> Step:
    state = replace(state, orders=state.orders[1:], run=replace(state.run, order=order))
    superseded = state.grant is not None and _is_newer(state.grant, order)
    if isinstance(order, Authorized) and not superseded:
        return _write(_pend(replace(state, end_mark=None), order.tokens, order.at))
    if isinstance(order, LogoutAsked) and state.tokens is not None and not superseded:
        return replace(state, phase=Phase.REVOKING), (Revoke(state.tokens.refresh_token or state.tokens.access_token),)
    state, effects = _release(state)
    return state, (*_answered_order(order, SUPERSEDED if superseded else None), *effects)


def _revoked(state: State, event: Revoked, _: Moment) -> Step:
    assert state.run.order is not None  # a revocation belongs to a logout
    state, effects = _write(_pend(state, None, state.run.order.at))
    return state, (_report("grant.revoked", accepted=event.accepted), *effects)


# A refresh


def _intend(state: State, stored: Grant | None, now: Moment) -> Step:
    """Stores that the refresh token is about to be spent, and by whom."""
    suspect = stored.intent if stored else None
    if suspect and suspect.holder != state.policy.holder and state.policy.intent_grace:
        # Where a lock can die before its holder, the holder of an unfinished intent may still be at it: it gets time,
        # by our own clock, since its clock may be another one.
        seen = state.stranger[1] if state.stranger and state.stranger[0] == suspect else now.boot
        if now.boot < seen + state.policy.intent_grace:
            state, effects = _release(replace(state, stranger=(suspect, seen)))
            return replace(state, try_at=seen + state.policy.intent_grace), effects
    intent = Intent(now.wall, _refresh_token(state).fingerprint(), state.policy.holder)
    pending = replace(given(state.grant), intent=intent)
    run = replace(state.run, pending=pending, suspect=suspect)
    state = replace(state, phase=Phase.INTENDING, run=run, stranger=None)
    return state, (WriteGrant(state.run.base, pending),)


def _intended(state: State, _: Written, now: Moment) -> Step:
    """The intent is stored: now, and only now, the token may be spent."""
    grant = given(state.run.pending)
    # A store that had been set back holds our generation again from here on.
    state = _recovered(replace(state, grant=grant, run=replace(state.run, base=grant.generation)))
    if state.stopping:
        return _retract(state, Denial("token_unavailable", "The proxy is stopping.", "Retry your request later."), now)
    return _spend(state, now)


def _spend(state: State, now: Moment) -> Step:
    """One token request."""
    run, trust = replace(state.run, attempt=state.run.attempt + 1), state.trust
    if trust.suspected and not run.charged and due_in(state, now) > 0:
        run, trust = replace(run, charged=True), replace(trust, budget=trust.budget.changed(-1, now.boot))
    state = replace(state, phase=Phase.SPENDING, refreshed_at=now.wall, run=run, trust=trust)
    return state, (Spend(_refresh_token(state)),)


def _answered(state: State, event: Answered, now: Moment) -> Step:
    """Sorts the outcomes: new tokens, a verdict, certainly not spent, perhaps spent."""
    match event.outcome:
        case Issued(tokens, warnings):
            state, tokens = _carried(replace(state, refreshed="ok"), tokens)
            state, effects = _write(_pend(state, tokens, _authorized_at(state)))
            return state, (*(_report("grant.warning", "warning", text=text) for text in warnings), *effects)
        case Rotated(refresh_token, reason, refresh_expires_at):
            # The old refresh token is gone, so this one is stored first. The access token stays as it is.
            tokens = replace(given(state.tokens), refresh_token=refresh_token, refresh_expires_at=refresh_expires_at)
            state = replace(state, run=replace(state.run, flaw=reason))
            return _write(_pend(state, tokens, _authorized_at(state)))
        case Refusal(error, description, RefusalKind.VERDICT):
            return _condemn(state, _cause(error, description), now)
        case Refusal(error, description, RefusalKind.CLIENT):
            trouble = Denial(
                "misconfigured",
                f"Krebit does not accept this client. It said: {_sentence(_cause(error, description))}",
                "Check client_id, client_secret and oauth.client_auth.",
            )
            return _retract(state, trouble, now, pause=MISCONFIGURED_PAUSE)
        case Refusal() as refusal:
            return _refused(state, refusal, now)
        case NotSent(reason, retry_after):
            if state.run.charged:  # it has cost the server nothing
                trust = state.trust
                state = replace(state, trust=replace(trust, budget=trust.budget.changed(1, now.boot)))
            return _retract(state, _unavailable(reason), now, pause=retry_after)
        case Unclear(reason, retry_after):  # pragma: no branch -- there is no other kind
            return _doubt(state, reason, retry_after, now)


def _carried(state: State, tokens: Tokens) -> tuple[State, Tokens]:
    """New tokens, with what the answer left out because it has not changed."""
    old, end = given(state.tokens), tokens.refresh_expires_at
    if end is None and tokens.refresh_token == old.refresh_token:
        end = old.refresh_expires_at
    # An end that slides moves by as much time as has passed. Servers round, so that must have been some seconds.
    mark = state.end_mark or (old.refresh_expires_at, old.obtained_at)
    passed, fixed = tokens.obtained_at - mark[1], old.refresh_end_is_fixed
    if end is None or mark[0] is None:
        fixed, mark = False, (end, tokens.obtained_at)
    elif passed >= TELLING:
        fixed, mark = end - mark[0] < passed / 2, (end, tokens.obtained_at)
    # RFC 6749 6: a scope that is omitted "is treated as equal to the scope originally granted".
    tokens = replace(tokens, scope=tokens.scope or old.scope, refresh_expires_at=end, refresh_end_is_fixed=fixed)
    return replace(state, end_mark=mark), tokens


def _refused(state: State, refusal: Refusal, now: Moment) -> Step:
    """A definite no in words that do not say to what: a verdict only when it comes again, and no token is good."""
    words = _cause(refusal.error, refusal.description)
    dead = state.trust.suspected or time_left(state, now) <= 0
    if not dead:
        # It is asked again when it matters, which is at the expiry.
        return _retract(state, _unavailable(words), now, longest=max(REPEATED_AFTER, time_left(state, now)))
    first = state.refusal
    pause = max(REPEATED_AFTER, _pause(state.failures + 1, now, longest=LONGEST_PAUSE))
    if first is None or not ((first.worded and refusal.worded) or first.mark == refusal.mark):
        state = replace(state, refusal=RefusalSeen(refusal.mark, now.boot, refusal.worded))
        return _retract(state, _unavailable(words), now, pause=pause)
    if now.boot < first.at + REPEATED_AFTER:
        return _retract(state, _unavailable(words), now, pause=pause)
    verdict = Denial(
        "reauthorization_required",
        f"Krebit refuses to renew the access token. It says: {_sentence(words)}",
        "Open /setup in a browser to authorize again. The proxy keeps trying.",
    )
    told = () if state.soft_verdict else (_report("grant.refused", "error", reason=verdict.detail, final=False),)
    state, effects = _retract(replace(state, soft_verdict=verdict), verdict, now, longest=LONGEST_SOFT_PAUSE)
    return state, (*told, *effects)


def _authorized_at(state: State) -> float:
    return given(state.grant).authorized_at


def _doubt(state: State, reason: str, retry_after: float | None, now: Moment) -> Step:
    """Perhaps spent. The intent stays in the store until the outcome is known."""
    trouble, tried = _unavailable(reason), state.run.attempt
    # At once only when this is the first doubt: who doubted before goes on with growing pauses.
    at_once = len(AT_ONCE) if tried > 1 or state.run.suspect is None else 0
    state = replace(state, run=replace(state.run, suspect=given(state.grant).intent))
    if tried > at_once or retry_after is not None:
        return _give_up(state, trouble, now, pause=retry_after)
    run = replace(state.run, until=now.boot + AT_ONCE[tried - 1])
    state = replace(state, phase=Phase.PAUSING, trouble=trouble, refreshed=reason, run=run)
    return state, (_report("grant.refresh_unclear", "warning", reason=reason, attempt=tried),)


def _condemn(state: State, cause: str, now: Moment) -> Step:
    """The compare-and-set of the verdict is also the second look: it fails if somebody stored a newer generation."""
    reason = f"Krebit refused the refresh token. It said: {_sentence(cause)}"
    if state.run.suspect:
        at = datetime.fromtimestamp(state.run.suspect.at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        reason += f" {state.run.suspect.holder} probably used the token at {at}, and the response was lost."
    condemned = replace(given(state.grant), intent=None, verdict=Verdict(now.wall, reason))
    return _write(replace(state, refreshed="invalid_grant", run=replace(state.run, pending=condemned)))


def _retract(
    state: State, trouble: Denial, now: Moment, *, pause: float | None = None, longest: float = LONGEST_PAUSE
) -> Step:
    """Certainly not spent: says so in the store, so that nobody suspects a lost answer later.

    Only under the lock: who has taken it since may have stored an intent of its own, which must stay.
    """
    state, told = _fail(state, trouble, now, pause=pause, longest=longest)
    # An older suspicion is not lifted by our own clean failure.
    innocent = replace(given(state.grant), intent=state.run.suspect)
    state = replace(state, phase=Phase.RETRACTING, run=replace(state.run, pending=innocent))
    return state, (told, WriteGrant(state.run.base, innocent, under_lock=True))


def _retracted(state: State, event: Written | Conflicted | Failed, _: Moment) -> Step:
    """Done, or not: the retraction is a courtesy to whoever reads the store later."""
    if isinstance(event, Written):
        state = _recovered(replace(state, grant=state.run.pending))
    return _release(state)


def _refresh_token(state: State) -> Secret:
    return given(given(state.tokens).refresh_token)


def _cause(error: str, description: str) -> str:
    return f"{error}: {description}" if description else error


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."


# What a process believes of the grant, and the writes that must not be lost


def _adopt(state: State, stored: Grant | None, now: Moment) -> Step:
    """Believes the store, unless memory has a newer generation: then the store was set back, and will be set right."""
    state, reports = _compared(replace(state, known=True, look_at=now.boot + LOOK_EVERY), stored, now)
    if not state.orders and not refresh_due(state, now):
        state = _recovered(state)  # a read was all that was needed of the store
    return state, reports


def _compared(state: State, stored: Grant | None, now: Moment) -> Step:
    if stored is None or stored.generation < state.generation:
        return state, ()
    if stored.generation == state.generation and stored.tokens == state.tokens:
        # Notes may have changed. Known tokens keep the expiry that was found when they were first seen.
        return replace(state, grant=stored), ()
    return _believe(state, stored, now), (_report("grant.adopted", generation=stored.generation),)


def _recovered(state: State) -> State:
    """The store has done what was needed of it."""
    trouble = None if state.trouble == state.store_trouble else state.trouble
    return replace(state, trouble=trouble, store_trouble=None, store_lost_at=NEVER)


def _believe(state: State, grant: Grant, now: Moment) -> State:
    """Serves callers from `grant` from now on."""
    return replace(
        state,
        grant=grant,
        fresh=Freshness.of(grant.tokens, now) if grant.tokens else None,
        trust=state.trust.of_next(now.boot, charge=_early_renewals(state, grant, now)),
        refusal=None,
        soft_verdict=None,
        failures=0,
        trouble=None,
        try_at=NEVER,
    )


def _early_renewals(state: State, grant: Grant, now: Moment) -> int:
    """How often others have renewed the token long before its time, as only a 401 makes them do: one budget for all."""
    if state.fresh is None or grant is state.run.pending:
        return 0
    early = due_in(state, now) > state.fresh.window(state.policy.ahead) / 2
    return grant.generation - state.generation if early else 0


def _pend(state: State, tokens: Tokens | None, authorized_at: float) -> State:
    """Makes the next generation ready to be written: above the store's, and above ours if the store was set back."""
    generation = max(state.run.base, state.generation) + 1
    policy = state.policy
    grant = Grant(generation, policy.organization, policy.client_id, tokens, authorized_at=authorized_at)
    return replace(state, run=replace(state.run, pending=grant))


def _write(state: State) -> Step:
    """Writes what is pending; it must not be lost."""
    return replace(state, phase=Phase.STORING), (WriteGrant(state.run.base, given(state.run.pending)),)


def _stored(state: State, _: Written, now: Moment) -> Step:
    """What was pending is stored: it may be used, and the lock is free again."""
    grant, run, trust = given(state.run.pending), state.run, state.trust
    # Already served from memory if an earlier try of the write failed: then its age is known better.
    state = replace(state, grant=grant) if grant.generation == state.generation else _believe(state, grant, now)
    state = replace(_recovered(state), failures=0, trouble=None)
    told = _announcement(grant, run.order)
    if run.flaw:  # a new refresh token is safe, but the access token is the old one
        state, told = _fail(replace(state, trust=trust), _unavailable(run.flaw), now)
    state, effects = _release(state)
    return state, (told, *_answered_order(run.order), *effects)


def _unstored(state: State, event: Failed, now: Moment) -> Step:
    """The write failed: use what it holds from memory, keep the lock, and keep trying."""
    pending, order, tries = given(state.run.pending), state.run.order, state.run.tries + 1
    if pending.generation > state.generation:
        state = _believe(state, pending, now)
    # Where the lock can be lost, others respect our intent for `intent_grace`: the write must come well within it.
    longest = min(LONGEST_UNSTORED, state.policy.intent_grace / 4 or LONGEST_UNSTORED)
    until = now.boot + _pause(tries, now, longest=longest)
    if state.stopping:
        until = min(until, now.boot + AT_STOP)
    told = _answered_order(order, event.denial)
    # The person has been told, and the order still counts more than what may be found in the store.
    order = replace(order, caller=None) if order else None
    run = replace(state.run, order=order, tries=tries, until=until)
    state = replace(_lost_store(state, event.denial, now), phase=Phase.UNSTORED, grant=pending, run=run)
    state = replace(state, trouble=event.denial)
    # A process that must end cannot try for ever.
    over = state.stopping and now.boot >= state.stop_by
    state, effects = _release(state) if over else (state, ())
    reason = event.denial.detail
    return state, (_report("grant.not_stored", "error", generation=pending.generation, reason=reason), *told, *effects)


def _conflicted(state: State, _: Conflicted, __: Moment) -> Step:
    """The store does not hold what was expected: look what it is."""
    return replace(state, phase=Phase.RECONCILING), (ReadStore(),)


def _reconciled(state: State, event: Read, now: Moment) -> Step:
    """Somebody wrote: us (a write whose outcome was lost), somebody newer, or the store was set back."""
    pending, found, order = given(state.run.pending), event.grant, state.run.order
    base = found.generation if found else 0
    state = replace(state, run=replace(state.run, base=base))
    if found == pending:
        return _stored(state, Written(), now)
    if order is not None and found is not None and found.authorized_at == pending.authorized_at:
        # Our write has happened, and somebody has renewed since what the person authorized.
        state, effects = _release(_believe(state, found, now))
        return state, (_report("grant.adopted", generation=base), *_answered_order(order), *effects)
    if order is not None and (found is None or not _is_newer(found, order)):
        return _write(_pend(state, pending.tokens, pending.authorized_at))  # the word of a person counts more
    if found is None or base < pending.generation:
        return _write(state)
    state, effects = _release(_believe(state, found, now))
    told = _answered_order(order, SUPERSEDED)
    return state, (_report("grant.adopted", generation=base), *told, *effects)


def _is_newer(grant: Grant, order: Authorized | LogoutAsked) -> bool:
    """Whether somebody authorized, or logged out, elsewhere while the order had to wait for the store.

    What was known when the order was given is older, whatever a clock says that was wrong or was set.
    """
    return order.known != grant.authorized_at > order.at


def _store_failed(state: State, event: Failed, now: Moment) -> Step:
    """The store did not do what the run needs to go on: nothing was spent, so nothing is lost.

    People who wait are told. What they authorized is kept and tried again, since its code is used up.
    """
    told = [told for order in state.orders for told in _answered_order(order, event.denial)]
    kept = tuple(replace(order, caller=None) for order in state.orders if isinstance(order, Authorized))
    # While the store is away the holder of an unfinished intent cannot finish it: its time counts anew.
    state = replace(_lost_store(state, event.denial, now), orders=kept, look_at=now.boot + LOOK_EVERY, stranger=None)
    state, effects = _give_up(state, event.denial, now, longest=LOOK_EVERY)
    return state, (*told, *effects)


def _lost_store(state: State, denial: Denial, now: Moment) -> State:
    """Notes what the store said, and since when it fails."""
    lost_at = now.boot if state.store_lost_at == NEVER else state.store_lost_at
    return replace(state, store_trouble=denial, store_lost_at=lost_at)


def _beaten(state: State, _: Conflicted, now: Moment) -> Step:
    """Somebody wrote without the lock, or after we had lost it: look again."""
    return _give_up(replace(state, look_at=now.boot), LOCK_LOST, now)


def _give_up(
    state: State, trouble: Denial, now: Moment, *, pause: float | None = None, longest: float = LONGEST_PAUSE
) -> Step:
    """Ends an attempt that brought nothing. It is made again after `pause` seconds, or with growing ones."""
    state, told = _fail(state, trouble, now, pause=pause, longest=longest)
    state, effects = _release(state)
    return state, (told, *effects)


def _fail(
    state: State, trouble: Denial, now: Moment, *, pause: float | None = None, longest: float = LONGEST_PAUSE
) -> tuple[State, Report]:
    """Counts an attempt that brought nothing, and sets the earliest time of the next."""
    failures = state.failures + 1
    wait = _pause(failures, now, longest=longest) if pause is None else pause
    spent = state.phase is Phase.SPENDING or bool(state.run.flaw)
    told = _report(
        "grant.refresh_failed" if spent else "grant.store_failed",
        "warning",
        reason=trouble.detail,
        next_try_in=round(wait, 1),
    )
    refreshed = trouble.detail if spent else state.refreshed
    state = replace(state, failures=failures, trouble=trouble, try_at=now.boot + wait, refreshed=refreshed)
    return state, told


def _answered_order(order: Authorized | LogoutAsked | None, denial: Denial | None = None) -> tuple[Answer, ...]:
    """Tells the person behind an order, if there is one who has not been told yet."""
    return (Answer(order.caller, denial or Go.ON),) if order and order.caller is not None else ()


def _release(state: State) -> Step:
    """Back to IDLE, without the lock."""
    return replace(state, phase=Phase.IDLE, locked=False, run=Run()), (FreeLock(),)


def _pause(failures: int, now: Moment, *, longest: float) -> float:
    """1, 2, 4 … seconds, of which a random part is left out, so that many processes do not come back together."""
    return min(longest, 2.0 ** min(failures - 1, 16)) * (0.5 + now.chance / 2)


def _unavailable(reason: str) -> Denial:
    """The token endpoint brought nothing for now."""
    return Denial(
        "token_unavailable",
        f"Krebit's token endpoint failed: {_sentence(reason)}",
        "The proxy keeps trying. Retry your request later.",
    )


def _announcement(grant: Grant, order: Authorized | LogoutAsked | None) -> Report:
    if grant.verdict:
        return _report("grant.refused", "error", generation=grant.generation, reason=grant.verdict.reason)
    if grant.tokens is None:
        return _report("grant.logged_out", generation=grant.generation)
    event = "grant.authorized" if order else "grant.refreshed"
    return _report(event, generation=grant.generation, lifetime=round(grant.tokens.lifetime))


def _report(event: str, level: str = "info", **fields: object) -> Report:
    """A line for the log."""
    return Report(event, level, tuple(fields.items()))


# The whole table: in this phase, that result, leads there. mypy cannot match the event's type to its key: Any.
Transition = Callable[[State, Any, Moment], Step]
TRANSITIONS: Final[dict[tuple[Phase, type[Event]], Transition]] = {
    (Phase.LOOKING, Read): _looked,
    (Phase.LOOKING, Failed): _look_failed,
    (Phase.LOCKING, Locked): _locked,
    (Phase.LOCKING, Failed): _not_locked,
    (Phase.CHECKING, Read): _checked,
    (Phase.CHECKING, Failed): _store_failed,
    (Phase.INTENDING, Written): _intended,
    (Phase.INTENDING, Conflicted): _beaten,
    (Phase.INTENDING, Failed): _store_failed,
    (Phase.SPENDING, Answered): _answered,
    (Phase.SPENDING, Failed): _store_failed,
    (Phase.STORING, Written): _stored,
    (Phase.STORING, Conflicted): _conflicted,
    (Phase.STORING, Failed): _unstored,
    (Phase.RECONCILING, Read): _reconciled,
    (Phase.RECONCILING, Failed): _unstored,
    (Phase.RETRACTING, Written): _retracted,
    (Phase.RETRACTING, Conflicted): _retracted,
    (Phase.RETRACTING, Failed): _retracted,
    (Phase.REVOKING, Revoked): _revoked,
}
