"""What a process believes of the grant, and the writes that must not be lost. Part of `core.lifecycle`."""

from dataclasses import replace
from typing import Final

from krebit_proxy.core.freshness import Freshness, Moment
from krebit_proxy.core.grant import Grant, Tokens
from krebit_proxy.core.protocol import (
    NEVER,
    Answer,
    Authorized,
    Conflicted,
    Denial,
    Effect,
    Failed,
    FreeLock,
    LogoutAsked,
    Phase,
    Read,
    ReadStore,
    Report,
    Run,
    State,
    WriteGrant,
    Written,
    given,
)

LOOK_EVERY: Final = 4.0  # seconds; a new authorization or a logout elsewhere is seen within five
LONGEST_PAUSE: Final = 60.0  # seconds between attempts
LONGEST_UNSTORED: Final = 30.0  # seconds between tries of a write that must not be lost

AT_STOP: Final = 1.0  # seconds between tries of such a write when the process must end
SUPERSEDED: Final = Denial(
    "token_unavailable",
    "Somebody else authorized, or logged out, while this had to wait for the store; that counts.",
    "Look at the status page, and do it again if it is still wanted.",
)
LOCK_LOST: Final = Denial(
    "token_unavailable", "The lock of the grant store was lost.", "It is tried again; so should you."
)

Step = tuple[State, tuple[Effect, ...]]


def adopt(state: State, stored: Grant | None, now: Moment) -> Step:
    """Believes the store, unless memory has a newer generation: then the store was set back, and will be set right."""
    if state.trouble is not None and state.trouble == state.store_trouble and state.phase is Phase.LOOKING:
        state = replace(state, trouble=None)
    state = replace(state, known=True, store_trouble=None, look_at=now.boot + LOOK_EVERY)
    if stored is None or stored.generation < state.generation:
        return state, ()
    if stored.generation == state.generation and stored.tokens == state.tokens:
        # Notes may have changed. Known tokens keep the expiry that was found when they were first seen.
        return replace(state, grant=stored), ()
    return believe(state, stored, now), (report("grant.adopted", generation=stored.generation),)


def believe(state: State, grant: Grant, now: Moment) -> State:
    """Serves callers from `grant` from now on."""
    return replace(
        state,
        grant=grant,
        fresh=Freshness.of(grant.tokens, now) if grant.tokens else None,
        rejected=False,
        failures=0,
        trouble=None,
        try_at=NEVER,
    )


def pend(state: State, tokens: Tokens | None, authorized_at: float) -> State:
    """Makes the next generation ready to be written: above the store's, and above ours if the store was set back."""
    generation = max(state.run.base, state.generation) + 1
    policy = state.policy
    grant = Grant(generation, policy.organization, policy.client_id, tokens, authorized_at=authorized_at)
    return replace(state, run=replace(state.run, pending=grant))


def write(state: State) -> Step:
    """Writes what is pending; it must not be lost."""
    return replace(state, phase=Phase.STORING), (WriteGrant(state.run.base, given(state.run.pending)),)


def stored(state: State, _: Written, now: Moment) -> Step:
    """What was pending is stored: it may be used, and the lock is free again."""
    grant, order = given(state.run.pending), state.run.order
    # Already served from memory if an earlier try of the write failed: then its age is known better.
    state = replace(state, grant=grant) if grant.generation == state.generation else believe(state, grant, now)
    state, effects = release(replace(state, store_trouble=None, failures=0, trouble=None))
    return state, (_announcement(grant, order), *answered_order(order), *effects)


def unstored(state: State, event: Failed, now: Moment) -> Step:
    """The write failed: use what it holds from memory, keep the lock, and keep trying."""
    pending, order, tries = given(state.run.pending), state.run.order, state.run.tries + 1
    if pending.generation > state.generation:
        state = believe(state, pending, now)
    # Where the lock can be lost, others respect our intent for `intent_grace`: the write must come well within it.
    longest = min(LONGEST_UNSTORED, state.policy.intent_grace / 4 or LONGEST_UNSTORED)
    until = now.boot + _pause(tries, now, longest=longest)
    if state.stopping:
        until = min(until, now.boot + AT_STOP)
    told = answered_order(order, event.denial)
    # The person has been told, and the order still counts more than what may be found in the store.
    order = replace(order, caller=None) if order else None
    run = replace(state.run, order=order, tries=tries, until=until)
    state = replace(lost_store(state, event.denial, now), phase=Phase.UNSTORED, grant=pending, run=run)
    state = replace(state, trouble=event.denial)
    # A process that must end cannot try for ever.
    over = state.stopping and now.boot >= state.stop_by
    state, effects = release(state) if over else (state, ())
    reason = event.denial.detail
    return state, (report("grant.not_stored", "error", generation=pending.generation, reason=reason), *told, *effects)


def conflicted(state: State, _: Conflicted, __: Moment) -> Step:
    """The store does not hold what was expected: look what it is."""
    return replace(state, phase=Phase.RECONCILING), (ReadStore(),)


def reconciled(state: State, event: Read, now: Moment) -> Step:
    """Somebody wrote: us (a write whose outcome was lost), somebody newer, or the store was set back."""
    pending, found, order = given(state.run.pending), event.grant, state.run.order
    base = found.generation if found else 0
    state = replace(state, run=replace(state.run, base=base))
    if found == pending:
        return stored(state, Written(), now)
    if order is not None and (found is None or not is_newer(found, order)):
        return write(pend(state, pending.tokens, pending.authorized_at))  # the word of a person counts more
    if found is None or base < pending.generation:
        return write(state)
    state, effects = release(believe(state, found, now))
    told = answered_order(order, SUPERSEDED)
    return state, (report("grant.adopted", generation=base), *told, *effects)


def is_newer(grant: Grant, order: Authorized | LogoutAsked) -> bool:
    """Whether somebody authorized, or logged out, elsewhere while the order had to wait for the store.

    What was known when the order was given is older, whatever a clock says that was wrong or was set.
    """
    return order.known != grant.authorized_at > order.at


def store_failed(state: State, event: Failed, now: Moment) -> Step:
    """The store did not do what the run needs to go on: nothing was spent, so nothing is lost.

    People who wait are told. What they authorized is kept and tried again, since its code is used up.
    """
    told = [told for order in state.orders for told in answered_order(order, event.denial)]
    kept = tuple(replace(order, caller=None) for order in state.orders if isinstance(order, Authorized))
    # While the store is away the holder of an unfinished intent cannot finish it: its time counts anew.
    state = replace(lost_store(state, event.denial, now), orders=kept, look_at=now.boot + LOOK_EVERY, stranger=None)
    state, effects = give_up(state, event.denial, now, longest=LOOK_EVERY)
    return state, (*told, *effects)


def lost_store(state: State, denial: Denial, now: Moment) -> State:
    """Notes what the store said, and since when it fails."""
    lost_at = state.store_lost_at if state.store_trouble else now.boot
    return replace(state, store_trouble=denial, store_lost_at=lost_at)


def beaten(state: State, _: Conflicted, now: Moment) -> Step:
    """Somebody wrote without the lock, or after we had lost it: look again."""
    return give_up(replace(state, look_at=now.boot), LOCK_LOST, now)


def give_up(
    state: State, trouble: Denial, now: Moment, *, pause: float | None = None, longest: float = LONGEST_PAUSE
) -> Step:
    """Ends an attempt that brought nothing. It is made again after `pause` seconds, or with growing ones."""
    state, told = fail(state, trouble, now, pause=pause, longest=longest)
    state, effects = release(state)
    return state, (told, *effects)


def fail(
    state: State, trouble: Denial, now: Moment, *, pause: float | None = None, longest: float = LONGEST_PAUSE
) -> tuple[State, Report]:
    """Counts an attempt that brought nothing, and sets the earliest time of the next."""
    failures = state.failures + 1
    wait = _pause(failures, now, longest=longest) if pause is None else pause
    spent = state.phase is Phase.SPENDING
    told = report(
        "grant.refresh_failed" if spent else "grant.store_failed",
        "warning",
        reason=trouble.detail,
        next_try_in=round(wait, 1),
    )
    refreshed = trouble.detail if spent else state.refreshed
    state = replace(state, failures=failures, trouble=trouble, try_at=now.boot + wait, refreshed=refreshed)
    return state, told


def answered_order(order: Authorized | LogoutAsked | None, denial: Denial | None = None) -> tuple[Answer, ...]:
    """Tells the person behind an order, if there is one who has not been told yet."""
    return (Answer(order.caller, denial),) if order and order.caller is not None else ()


def release(state: State) -> Step:
    """Back to IDLE, without the lock."""
    return replace(state, phase=Phase.IDLE, locked=False, run=Run()), (FreeLock(),)


def _pause(failures: int, now: Moment, *, longest: float) -> float:
    """1, 2, 4 … seconds, of which a random part is left out, so that many processes do not come back together."""
    return min(longest, 2.0 ** min(failures - 1, 16)) * (0.5 + now.chance / 2)


def unavailable(reason: str) -> Denial:
    """The token endpoint brought nothing for now."""
    return Denial("token_unavailable", f"The token endpoint failed: {reason}.", "It is tried again; so should you.")


def _announcement(grant: Grant, order: Authorized | LogoutAsked | None) -> Report:
    if grant.verdict:
        return report("grant.refused", "error", generation=grant.generation, reason=grant.verdict.reason)
    if grant.tokens is None:
        return report("grant.logged_out", generation=grant.generation)
    event = "grant.authorized" if order else "grant.refreshed"
    return report(event, generation=grant.generation, lifetime=round(grant.tokens.lifetime))


def report(event: str, level: str = "info", **fields: object) -> Report:
    """A line for the log."""
    return Report(event, level, tuple(fields.items()))
