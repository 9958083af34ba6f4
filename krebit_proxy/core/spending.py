"""One refresh: from the intent to what the token endpoint said. Part of `core.lifecycle`."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from krebit_proxy.core.freshness import Moment
from krebit_proxy.core.grant import Grant, Intent, Issued, NotSent, Refusal, Unclear, Verdict
from krebit_proxy.core.protocol import (
    Answered,
    Conflicted,
    Denial,
    Failed,
    Phase,
    Spend,
    State,
    WriteGrant,
    Written,
    given,
)
from krebit_proxy.core.secret import Secret
from krebit_proxy.core.storing import (
    Step,
    fail,
    give_up,
    pend,
    release,
    report,
    unavailable,
    write,
)

AT_ONCE: Final = (0.5, 2.0)  # seconds until an unclear token request is repeated, lock kept
MISCONFIGURED_PAUSE: Final = 60.0  # seconds; only a person can help, so there is no hurry


# A refresh


def intend(state: State, stored: Grant | None, now: Moment) -> Step:
    """Stores that the refresh token is about to be spent, and by whom."""
    suspect = stored.intent if stored else None
    if suspect and suspect.holder != state.policy.holder and state.policy.intent_grace:
        # Where a lock can die before its holder, the holder of an unfinished intent may still be at it: it gets time,
        # by our own clock, since its clock may be another one.
        seen = state.stranger[1] if state.stranger and state.stranger[0] == suspect else now.boot
        if now.boot < seen + state.policy.intent_grace:
            state, effects = release(replace(state, stranger=(suspect, seen)))
            return replace(state, try_at=seen + state.policy.intent_grace), effects
    intent = Intent(now.wall, _refresh_token(state).fingerprint(), state.policy.holder)
    pending = replace(given(state.grant), intent=intent)
    run = replace(state.run, pending=pending, suspect=suspect)
    state = replace(state, phase=Phase.INTENDING, run=run, stranger=None)
    return state, (WriteGrant(state.run.base, pending),)


def intended(state: State, _: Written, now: Moment) -> Step:
    """The intent is stored: now, and only now, the token may be spent."""
    grant = given(state.run.pending)
    # A store that had been set back holds our generation again from here on.
    state = replace(state, grant=grant, run=replace(state.run, base=grant.generation))
    if state.stopping:
        return _retract(state, unavailable("the proxy is stopping"), now)
    return spend(state, now)


def spend(state: State, now: Moment) -> Step:
    """One token request."""
    run = replace(state.run, attempt=state.run.attempt + 1)
    state = replace(state, phase=Phase.SPENDING, refreshed_at=now.wall, run=run)
    return state, (Spend(_refresh_token(state)),)


def answered(state: State, event: Answered, now: Moment) -> Step:
    """Sorts the outcomes: new tokens, a verdict, certainly not spent, perhaps spent."""
    match event.outcome:
        case Issued(tokens, warnings):
            # RFC 6749 6: a scope that is omitted "is treated as equal to the scope originally granted".
            tokens = replace(tokens, scope=tokens.scope or given(state.tokens).scope)
            state, effects = write(pend(replace(state, refreshed="ok"), tokens, given(state.grant).authorized_at))
            return state, (*(report("grant.warning", "warning", text=text) for text in warnings), *effects)
        case Refusal("invalid_grant", description):
            return _condemn(state, description, now)
        case Refusal(("invalid_client" | "unauthorized_client") as error, description):
            trouble = Denial(
                "misconfigured",
                f"The token endpoint refused this client ({_cause(error, description)}).",
                "Check client_id, client_secret and oauth.client_auth.",
            )
            return _retract(state, trouble, now, pause=MISCONFIGURED_PAUSE)
        case Refusal(error, description):
            return _retract(state, unavailable(_cause(error, description)), now)
        case NotSent(reason, retry_after):
            return _retract(state, unavailable(reason), now, pause=retry_after)
        case Unclear(reason, retry_after):  # pragma: no branch -- there is no other kind
            return _doubt(state, reason, retry_after, now)


def _doubt(state: State, reason: str, retry_after: float | None, now: Moment) -> Step:
    """Perhaps spent. The intent stays in the store until the outcome is known."""
    trouble, tried = unavailable(reason), state.run.attempt
    # At once only when this is the first doubt: who doubted before goes on with growing pauses.
    at_once = len(AT_ONCE) if tried > 1 or state.run.suspect is None else 0
    state = replace(state, run=replace(state.run, suspect=given(state.grant).intent))
    if tried > at_once or retry_after is not None:
        return give_up(state, trouble, now, pause=retry_after)
    run = replace(state.run, until=now.boot + AT_ONCE[tried - 1])
    state = replace(state, phase=Phase.PAUSING, trouble=trouble, refreshed=reason, run=run)
    return state, (report("grant.refresh_unclear", "warning", reason=reason, attempt=tried),)


def _condemn(state: State, description: str, now: Moment) -> Step:
    """The compare-and-set of the verdict is also the second look: it fails if somebody stored a newer generation."""
    reason = f"The authorization server refused the refresh token ({_cause('invalid_grant', description)})."
    if state.run.suspect:
        at = datetime.fromtimestamp(state.run.suspect.at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        reason += f" It was probably spent at {at} by {state.run.suspect.holder}, whose answer was lost."
    condemned = replace(given(state.grant), intent=None, verdict=Verdict(now.wall, reason))
    return write(replace(state, refreshed="invalid_grant", run=replace(state.run, pending=condemned)))


def _retract(state: State, trouble: Denial, now: Moment, pause: float | None = None) -> Step:
    """Certainly not spent: says so in the store, so that nobody suspects a lost answer later.

    Only under the lock: who has taken it since may have stored an intent of its own, which must stay.
    """
    state, told = fail(state, trouble, now, pause=pause)
    # An older suspicion is not lifted by our own clean failure.
    innocent = replace(given(state.grant), intent=state.run.suspect)
    state = replace(state, phase=Phase.RETRACTING, run=replace(state.run, pending=innocent))
    return state, (told, WriteGrant(state.run.base, innocent, under_lock=True))


def retracted(state: State, event: Written | Conflicted | Failed, _: Moment) -> Step:
    """Done, or not: the retraction is a courtesy to whoever reads the store later."""
    if isinstance(event, Written):
        state = replace(state, grant=state.run.pending)
    return release(state)


def _refresh_token(state: State) -> Secret:
    return given(given(state.tokens).refresh_token)


def _cause(error: str, description: str) -> str:
    return f"{error}: {description}" if description else error
