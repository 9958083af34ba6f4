"""THE state machine of the grant: `step(state, event, now) -> (state, effects)`.

Every decision about the grant is made here, and no I/O. What must be done is returned as an effect. What happens, such
as the result of an effect or its failure, comes in as an event. So a test can play store, server, clock and callers.

Theory
======

A refresh token may work only once. A second use may kill the whole grant. And the response to a use may be lost before
it is on our disk. These rules follow:

1.  *One at a time, over all processes.* A process spends a refresh token only under the lock that all processes with
    the same store share. Before that, it reads the store again under the lock: after a wait, newer tokens may be there.
2.  *Intent before, response after.* The intent is stored before the token is spent. This also tests the store: if it
    refuses the write, the token is not spent. The response is stored before it is used. If that write fails, callers
    get the new token from memory. The process then keeps the lock and retries the write until it succeeds, so that no
    other process spends the old token.
3.  *Compare and set.* Every write names the generation that it replaces. A generation is one set of tokens. An older
    one never overwrites a newer one. Intents and verdicts are notes on a generation.
4.  *Only invalid_grant and its kin are a verdict.* A verdict is stored if the store still has the refused generation.
    Otherwise another process was faster, and this one adopts its tokens. Any other definite refusal becomes a soft
    verdict if it comes twice while no good access token is left: a person is asked for help, and the proxy keeps
    trying. Only a logout ever deletes tokens.
5.  *Unclear is not failed.* If nobody knows whether the token was spent, the same token is sent again: twice soon, then
    with growing pauses. Servers with a grace period answer again. With strict servers, nothing more can be lost. If the
    token was certainly not spent, the intent is retracted, and the lock is free between tries.
6.  *What can be read is kept.* A refresh token without a usable access token is stored as the next generation, together
    with the old access token.
7.  *A refused access token is suspected, not dead* (see `core.suspicion`). A 401 counts only for the generation that
    its call was sent with, so a hundred late ones cause one refresh.
8.  *Callers wait only for what may help them* (see `core.grant_status`). No refresh belongs to a caller. If a caller
    leaves, that cancels nothing.

The normal way through the phases (see `Phase`). Every other transition leads back to IDLE in the end:

    IDLE -> LOOKING -> LOCKING -> CHECKING -> INTENDING -> SPENDING -> STORING -> IDLE

An order of a person (`Authorized`, `LogoutAsked`) goes the same way up to CHECKING. From there it goes to STORING, a
logout through REVOKING. `TRANSITIONS` is the whole table. Any other result in a phase raises IllegalEventError.
"""

import math
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
    Wish,
    WriteGrant,
    Written,
    given,
)
from krebit_proxy.core.freshness import Freshness, Moment
from krebit_proxy.core.grant import Grant, Intent, Tokens, Verdict
from krebit_proxy.core.grant_status import answer, answers_change_at, due_in, refresh_due, renewable, time_left
from krebit_proxy.core.secret import Secret
from krebit_proxy.core.token_response import Issued, NotSent, Refusal, RefusalKind, Rotated, Unclear

STOP_PATIENCE: Final = 10.0  # seconds for which a stopping process retries a write that must not be lost
LOCK_TIMEOUT: Final = 65.0  # seconds in total; longer than a token request of another process can take
REPEATED_AFTER: Final = 2.0  # seconds between two equal refusals that make a soft verdict
TELLING: Final = 4.0  # seconds between two responses that show whether the refresh token's end moves
LONGEST_SOFT_PAUSE: Final = 600.0  # seconds between attempts after a soft verdict
AT_ONCE: Final = (0.5, 2.0)  # seconds until an unclear token request is repeated, under the same lock
MISCONFIGURED_PAUSE: Final = 60.0  # seconds between attempts if only other settings can help
SUPERSEDED: Final = Denial(
    "token_unavailable",
    "Somebody else authorized the proxy or logged it out at the same time. The later change counts.",
    "Check the status page. If you still want your change, repeat it.",
)
LOCK_LOST: Final = Denial(
    "token_unavailable",
    "The proxy lost the lock of the grant store.",
    "The proxy keeps trying. Retry your request later.",
)
LOOK_EVERY: Final = 4.0  # seconds between looks at the store; changes by others are seen within five
LONGEST_PAUSE: Final = 60.0  # seconds between attempts
LONGEST_UNSTORED: Final = 30.0  # seconds, at most, between tries of a write that must not be lost
AT_STOP: Final = 1.0  # seconds, at most, between these tries in a stopping process
Step = tuple[State, tuple[Effect, ...]]


class IllegalEventError(Exception):
    """A result came in a phase that did not ask for it. The state is unchanged."""


def step(state: State, event: Event, now: Moment) -> Step:
    """The state after `event`, and what must be done. Raises IllegalEventError for a result without its effect."""
    effects: tuple[Effect, ...] = ()
    before = state.phase
    if isinstance(event, Wish):
        state = _wish(state, event, now)
    elif transition := TRANSITIONS.get((state.phase, type(event))):
        state, effects = transition(state, event, now)
    else:
        raise IllegalEventError(f"{type(event).__name__} in phase {state.phase.name}")
    state, started = _proceed(state, now)
    if state.phase is not before:
        state = replace(state, phase_since=now.boot)
    state, answers = _answer_callers(state, now)
    return state, (*effects, *started, *answers, WakeAt(_alarm(state, now)))


def _wish(state: State, event: Event, now: Moment) -> State:
    """Records a wish. `_proceed` fulfils it as soon as possible."""
    match event:
        case Demanded():
            state = _demanded(state, event, now)
        case Accepted(generation, probe):
            if generation == state.generation:
                state = replace(state, trust=state.trust.proven(probe, now.boot))
        case RefusedAgain(refusal):
            if state.fresh and refusal.generation == state.generation:
                state = replace(state, trust=state.trust.refused_again(refusal, state.fresh.age(now)))
        case Abandoned(caller):
            state = replace(state, callers=tuple(c for c in state.callers if c.id != caller))
        case Authorized() | LogoutAsked():
            # A person waits for this, so a pause after earlier failures ends.
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
    # A late 401 to an older token says nothing about the current one.
    if refusal is not None and refusal.generation == state.generation and state.fresh:
        age = state.fresh.age(now)
        settling = trust.must_settle(refusal, age)
        trust = trust.refused(refusal, age, now.boot)
    since = now.boot if event.since is None else event.since
    caller = Waiter(event.caller, since, event.lifetime, refusal, event.record, settling)
    return replace(state, callers=(*state.callers, caller), trust=trust.wanted(event.record, now.boot))


def _proceed(state: State, now: Moment) -> Step:
    """Starts what is due: a look at the store, or the next try after a pause."""
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
    """When, by the boot clock, something is due even if no event comes before."""
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
    # Only a look: there was no attempt, so no attempt has failed.
    look_at = now.boot + LOOK_EVERY
    state = replace(_lost_store(state, event.denial, now), phase=Phase.IDLE, look_at=look_at, stranger=None)
    return state, (_report("grant.store_failed", "warning", reason=event.denial.reason),)


def _locked(state: State, _: Locked, __: Moment) -> Step:
    return replace(state, phase=Phase.CHECKING, locked=True, run=Run()), (ReadStore(),)


def _not_locked(state: State, event: Failed, now: Moment) -> Step:
    """If another process has the lock, looks at the store again and goes on waiting, `LOCK_TIMEOUT` seconds at most."""
    if event.busy and now.boot < state.run.until:
        return replace(state, phase=Phase.LOOKING), (ReadStore(),)
    return _store_failed(state, event, now)


def _checked(state: State, event: Read, now: Moment) -> Step:
    """Decides what to do under the lock, now that the store was read under it."""
    state, reports = _adopt(state, event.grant, now)
    state = replace(state, run=Run(base=event.grant.generation if event.grant else 0))
    if state.orders:
        state, effects = _serve(state, state.orders[0])
    elif state.stopping or not refresh_due(state, now):
        state, effects = _release(state)
    else:
        state, effects = _intend(state, event.grant, now)
    return state, (*reports, *effects)


# Orders of a person, who gets an Answer


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
    assert state.run.order is not None  # there is no revocation without a logout
    state, effects = _write(_pend(state, None, state.run.order.at))
    return state, (_report("grant.revoked", accepted=event.accepted), *effects)


def _intend(state: State, stored: Grant | None, now: Moment) -> Step:
    """Stores that this process is about to spend the refresh token."""
    suspect = stored.intent if stored else None
    if suspect and suspect.holder != state.policy.holder and state.policy.intent_grace:
        # In some stores a lock can end before its holder does. So the holder of an unfinished intent may still be
        # refreshing, and gets time. We measure that by our own clock, since the holder's may differ.
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
    """The intent is stored, so the token may be spent."""
    grant = given(state.run.pending)
    # If the store was set back, this write has brought it to our generation again.
    state = _recovered(replace(state, grant=grant, run=replace(state.run, base=grant.generation)))
    if state.stopping:
        return _retract(state, Denial("token_unavailable", "The proxy is stopping.", "Retry your request later."), now)
    return _spend(state, now)


def _spend(state: State, now: Moment) -> Step:
    run, trust = replace(state.run, attempt=state.run.attempt + 1), state.trust
    if trust.suspected and not run.charged and due_in(state, now) > 0:
        run, trust = replace(run, charged=True), trust.charged(1, now.boot)
    state = replace(state, phase=Phase.SPENDING, refreshed_at=now.wall, run=run, trust=trust)
    return state, (Spend(_refresh_token(state)),)


def _answered(state: State, event: Answered, now: Moment) -> Step:
    """Handles the outcome of a token request."""
    match event.outcome:
        case Issued(tokens, warnings):
            state, tokens = _carried(replace(state, refreshed="ok"), tokens)
            state, effects = _write(_pend(state, tokens, _authorized_at(state)))
            return state, (*(_report("grant.warning", "warning", text=text) for text in warnings), *effects)
        case Rotated(refresh_token, reason, refresh_expires_at):
            # The old refresh token is gone, so store the new one. The access token stays the old one.
            tokens = replace(given(state.tokens), refresh_token=refresh_token, refresh_expires_at=refresh_expires_at)
            state = replace(state, run=replace(state.run, flaw=reason))
            return _write(_pend(state, tokens, _authorized_at(state)))
        case Refusal(kind=RefusalKind.VERDICT) as refusal:
            return _condemn(state, refusal.words, now)
        case Refusal(kind=RefusalKind.CLIENT) as refusal:
            trouble = Denial(
                "misconfigured",
                f"Krebit does not accept this client. It said: {_sentence(refusal.words)}",
                "Check client_id, client_secret and oauth.client_auth.",
            )
            return _retract(state, trouble, now, pause=MISCONFIGURED_PAUSE)
        case Refusal() as refusal:
            return _refused(state, refusal, now)
        case NotSent(reason, retry_after):
            if state.run.charged:  # the renewal did not take place
                state = replace(state, trust=state.trust.charged(-1, now.boot))
            return _retract(state, _unavailable(reason), now, pause=retry_after)
        case Unclear(reason, retry_after):  # pragma: no branch -- there is no other kind
            return _doubt(state, reason, retry_after, now)


def _carried(state: State, tokens: Tokens) -> tuple[State, Tokens]:
    """The new tokens, completed with facts that the response leaves out because they have not changed."""
    old, end = given(state.tokens), tokens.refresh_expires_at
    if end is None and tokens.refresh_token == old.refresh_token:
        end = old.refresh_expires_at
    # A sliding end moves by as many seconds as have passed. Servers round, so a few seconds must have passed to tell.
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
    """Handles a definite refusal that is no verdict. Twice without a good access token, it is a soft verdict."""
    trouble, left = _unavailable(refusal.words), time_left(state, now)
    if left > 0 and not state.trust.suspected:
        # The access token still works. The refusal matters only when it expires.
        return _retract(state, trouble, now, longest=max(REPEATED_AFTER, left))
    first = state.refusal
    if first is None or not ((first.worded and refusal.worded) or first.mark == refusal.mark):
        first = RefusalSeen(refusal.mark, now.boot, refusal.worded)
        state = replace(state, refusal=first)
    if now.boot < first.at + REPEATED_AFTER:
        pause = max(REPEATED_AFTER, _pause(state.failures + 1, now, longest=LONGEST_PAUSE))
        return _retract(state, trouble, now, pause=pause)
    verdict = Denial(
        "reauthorization_required",
        f"Krebit refuses to renew the access token. It says: {_sentence(refusal.words)}",
        "Open /setup in a browser to authorize again. The proxy keeps trying.",
    )
    told = () if state.soft_verdict else (_report("grant.refused", "error", reason=verdict.detail, final=False),)
    state, effects = _retract(replace(state, soft_verdict=verdict), verdict, now, longest=LONGEST_SOFT_PAUSE)
    return state, (*told, *effects)


def _authorized_at(state: State) -> float:
    return given(state.grant).authorized_at


def _doubt(state: State, reason: str, retry_after: float | None, now: Moment) -> Step:
    """Handles an unclear outcome. The intent stays in the store, since the token may be spent."""
    trouble, tried = _unavailable(reason), state.run.attempt
    # Repeat soon only if no earlier outcome was unclear. Otherwise go on with growing pauses.
    at_once = len(AT_ONCE) if tried > 1 or state.run.suspect is None else 0
    state = replace(state, run=replace(state.run, suspect=given(state.grant).intent))
    if tried > at_once or retry_after is not None:
        return _give_up(state, trouble, now, pause=retry_after)
    run = replace(state.run, until=now.boot + AT_ONCE[tried - 1])
    state = replace(state, phase=Phase.PAUSING, trouble=trouble, refreshed=reason, run=run)
    return state, (_report("grant.refresh_unclear", "warning", reason=reason, attempt=tried),)


def _condemn(state: State, cause: str, now: Moment) -> Step:
    """Stores a verdict. The write fails if another process has stored a newer generation."""
    reason = f"Krebit refused the refresh token. It said: {_sentence(cause)}"
    if state.run.suspect:
        at = datetime.fromtimestamp(state.run.suspect.at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        reason += f" {state.run.suspect.holder} probably used the token at {at}, and the response was lost."
    condemned = replace(given(state.grant), intent=None, verdict=Verdict(now.wall, reason))
    return _write(replace(state, refreshed="invalid_grant", run=replace(state.run, pending=condemned)))


def _retract(
    state: State, trouble: Denial, now: Moment, *, pause: float | None = None, longest: float = LONGEST_PAUSE
) -> Step:
    """Clears the intent of a token that was certainly not spent, so that nobody suspects a lost response later.

    It writes only under the lock: a process that has taken the lock since may have stored an intent of its own.
    """
    state, told = _fail(state, trouble, now, pause=pause, longest=longest)
    # An older intent stays: our failure says nothing about its outcome.
    innocent = replace(given(state.grant), intent=state.run.suspect)
    state = replace(state, phase=Phase.RETRACTING, run=replace(state.run, pending=innocent))
    return state, (told, WriteGrant(state.run.base, innocent, under_lock=True))


def _retracted(state: State, event: Written | Conflicted | Failed, _: Moment) -> Step:
    """Goes on in any case: without the retraction, later readers only know less."""
    if isinstance(event, Written):
        state = _recovered(replace(state, grant=state.run.pending))
    return _release(state)


def _refresh_token(state: State) -> Secret:
    return given(given(state.tokens).refresh_token)


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."


# What a process knows about the grant, and the writes that must not be lost


def _adopt(state: State, stored: Grant | None, now: Moment) -> Step:
    """Takes over what the store has, unless the generation in memory is newer: then the store was set back."""
    state, reports = _compared(replace(state, known=True, look_at=now.boot + LOOK_EVERY), stored, now)
    if not state.orders and not refresh_due(state, now):
        state = _recovered(state)  # nothing but this read was needed from the store
    return state, reports


def _compared(state: State, stored: Grant | None, now: Moment) -> Step:
    if stored is None or stored.generation < state.generation:
        return state, ()
    if stored.generation == state.generation and stored.tokens == state.tokens:
        # Notes may have changed. The tokens are known, and so is when they expire by the boot clock.
        return replace(state, grant=stored), ()
    return _believe(state, stored, now), (_report("grant.adopted", generation=stored.generation),)


def _recovered(state: State) -> State:
    """After the store has done all that was needed."""
    trouble = None if state.trouble == state.store_trouble else state.trouble
    return replace(state, trouble=trouble, store_trouble=None, store_lost_at=NEVER)


def _believe(state: State, grant: Grant, now: Moment) -> State:
    """From now on, callers get the token of `grant`."""
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
    """How many renewals others have made before they were due. Only 401s cause these, so our budget counts them."""
    if (fresh := state.fresh) is None or grant is state.run.pending:
        return 0
    early = due_in(state, now) > fresh.window(state.policy.ahead) / 2
    due = 0 if early else math.ceil(2 * fresh.age(now) / fresh.lifetime)  # at most: see `freshness.lead`
    return max(0, grant.generation - state.generation - due)


def _pend(state: State, tokens: Tokens | None, authorized_at: float) -> State:
    """Prepares the next generation for a write. Its number is above the store's and above ours."""
    generation = max(state.run.base, state.generation) + 1
    policy = state.policy
    grant = Grant(generation, policy.organization, policy.client_id, tokens, authorized_at=authorized_at)
    return replace(state, run=replace(state.run, pending=grant))


def _write(state: State) -> Step:
    """Writes the pending grant, which must not be lost."""
    return replace(state, phase=Phase.STORING), (WriteGrant(state.run.base, given(state.run.pending)),)


def _stored(state: State, _: Written, now: Moment) -> Step:
    """The pending grant is stored: use it, and free the lock."""
    grant, run, trust = given(state.run.pending), state.run, state.trust
    # If an earlier try failed, callers already use it, and its age is known more exactly.
    state = replace(state, grant=grant) if grant.generation == state.generation else _believe(state, grant, now)
    state = replace(_recovered(state), failures=0, trouble=None)
    told = _announcement(grant, run.order)
    if run.flaw:  # the new refresh token is safe, but the access token is the old one
        state, told = _fail(replace(state, trust=trust), _unavailable(run.flaw), now)
    state, effects = _release(state)
    return state, (told, *_answered_order(run.order), *effects)


def _unstored(state: State, event: Failed, now: Moment) -> Step:
    """The write failed: use the pending grant from memory, keep the lock, and retry."""
    pending, order, tries = given(state.run.pending), state.run.order, state.run.tries + 1
    if pending.generation > state.generation:
        state = _believe(state, pending, now)
    # If the lock can be lost, others respect our intent for `intent_grace`. Retry well within that time.
    longest = min(LONGEST_UNSTORED, state.policy.intent_grace / 4 or LONGEST_UNSTORED)
    until = now.boot + _pause(tries, now, longest=longest)
    if state.stopping:
        until = min(until, now.boot + AT_STOP)
    told = _answered_order(order, event.denial)
    # The person has an answer now. The order still has priority over what the store may hold.
    order = replace(order, caller=None) if order else None
    run = replace(state.run, order=order, tries=tries, until=until)
    state = replace(_lost_store(state, event.denial, now), phase=Phase.UNSTORED, grant=pending, run=run)
    state = replace(state, trouble=event.denial)
    # A stopping process cannot retry for ever.
    over = state.stopping and now.boot >= state.stop_by
    state, effects = _release(state) if over else (state, ())
    reason = event.denial.reason
    return state, (_report("grant.not_stored", "error", generation=pending.generation, reason=reason), *told, *effects)


def _conflicted(state: State, _: Conflicted, __: Moment) -> Step:
    """The store does not hold the expected generation: read what it holds."""
    return replace(state, phase=Phase.RECONCILING), (ReadStore(),)


def _reconciled(state: State, event: Read, now: Moment) -> Step:
    """Decides why the write failed: it had happened before, another process wrote, or the store was set back."""
    pending, found, order = given(state.run.pending), event.grant, state.run.order
    base = found.generation if found else 0
    state = replace(state, run=replace(state.run, base=base))
    if found == pending:
        return _stored(state, Written(), now)
    if order is not None and found is not None and found.authorized_at == pending.authorized_at:
        # Our write has happened, and another process has renewed the token since then.
        state, effects = _release(_believe(state, found, now))
        return state, (_report("grant.adopted", generation=base), *_answered_order(order), *effects)
    if order is not None and (found is None or not _is_newer(found, order)):
        return _write(_pend(state, pending.tokens, pending.authorized_at))  # a person's order has priority
    if found is None or base < pending.generation:
        return _write(state)
    state, effects = _release(_believe(state, found, now))
    told = _answered_order(order, SUPERSEDED)
    return state, (_report("grant.adopted", generation=base), *told, *effects)


def _is_newer(grant: Grant, order: Authorized | LogoutAsked) -> bool:
    """Whether a person authorized or logged out elsewhere after `order` was given.

    A grant that was known when the order was given is older, even if a wrong clock says otherwise.
    """
    return order.known != grant.authorized_at > order.at


def _store_failed(state: State, event: Failed, now: Moment) -> Step:
    """The store failed before anything was spent, so nothing is lost.

    Waiting people get an answer. Tokens of a new authorization are kept and stored later, since the code is used up.
    """
    told = [told for order in state.orders for told in _answered_order(order, event.denial)]
    kept = tuple(replace(order, caller=None) for order in state.orders if isinstance(order, Authorized))
    # Without the store, the holder of an unfinished intent cannot finish. So its time starts again.
    state = replace(_lost_store(state, event.denial, now), orders=kept, look_at=now.boot + LOOK_EVERY, stranger=None)
    state, effects = _give_up(state, event.denial, now, longest=LOOK_EVERY)
    return state, (*told, *effects)


def _lost_store(state: State, denial: Denial, now: Moment) -> State:
    """Records why the store fails, and since when."""
    lost_at = now.boot if state.store_lost_at == NEVER else state.store_lost_at
    return replace(state, store_trouble=denial, store_lost_at=lost_at)


def _beaten(state: State, _: Conflicted, now: Moment) -> Step:
    """Another process wrote the store, so we have lost the lock: look again."""
    return _give_up(replace(state, look_at=now.boot), LOCK_LOST, now)


def _give_up(
    state: State, trouble: Denial, now: Moment, *, pause: float | None = None, longest: float = LONGEST_PAUSE
) -> Step:
    """Ends a failed attempt. The next follows after `pause` seconds, or after a growing pause."""
    state, told = _fail(state, trouble, now, pause=pause, longest=longest)
    state, effects = _release(state)
    return state, (told, *effects)


def _fail(
    state: State, trouble: Denial, now: Moment, *, pause: float | None = None, longest: float = LONGEST_PAUSE
) -> tuple[State, Report]:
    """Counts a failed attempt, and sets the earliest time of the next one."""
    failures = state.failures + 1
    wait = _pause(failures, now, longest=longest) if pause is None else pause
    spent = state.phase is Phase.SPENDING or bool(state.run.flaw)
    told = _report(
        "grant.refresh_failed" if spent else "grant.store_failed",
        "warning",
        reason=trouble.reason,
        next_try_in=round(wait, 1),
    )
    refreshed = trouble.detail if spent else state.refreshed
    state = replace(state, failures=failures, trouble=trouble, try_at=now.boot + wait, refreshed=refreshed)
    return state, told


def _answered_order(order: Authorized | LogoutAsked | None, denial: Denial | None = None) -> tuple[Answer, ...]:
    """The answer to the person who gave the order, if that person still waits for one."""
    return (Answer(order.caller, denial or Go.ON),) if order and order.caller is not None else ()


def _release(state: State) -> Step:
    """Frees the lock and returns to IDLE."""
    return replace(state, phase=Phase.IDLE, locked=False, run=Run()), (FreeLock(),)


def _pause(failures: int, now: Moment, *, longest: float) -> float:
    """1, 2, 4 … seconds, less a random part of up to half, so that many processes do not retry together."""
    return min(longest, 2.0 ** min(failures - 1, 16)) * (0.5 + now.chance / 2)


def _unavailable(reason: str) -> Denial:
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
    return Report(event, level, tuple(fields.items()))


# The whole table: (phase, result) -> what follows. `Any`, since mypy cannot match an event's type to its key.
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
