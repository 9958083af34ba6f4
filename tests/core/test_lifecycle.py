"""The state machine of the grant: who waits, who goes on, what is started when, and what must not be lost."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krebit_proxy.core.events import (
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
    RefusedAgain,
    Result,
    Revoke,
    Revoked,
    Spend,
    Stopping,
    TakeLock,
    Woke,
    WriteGrant,
    Written,
)
from krebit_proxy.core.freshness import Moment
from krebit_proxy.core.grant import Grant, Intent, Tokens, Verdict
from krebit_proxy.core.grant_status import OUTAGE, PATIENCE, status
from krebit_proxy.core.lifecycle import (
    AT_ONCE,
    LOCK_TIMEOUT,
    LONGEST_SOFT_PAUSE,
    LONGEST_UNSTORED,
    LOOK_EVERY,
    MISCONFIGURED_PAUSE,
    SUPERSEDED,
    TRANSITIONS,
    IllegalEventError,
    step,
)
from krebit_proxy.core.secret import Secret
from krebit_proxy.core.suspicion import BURST, CONTENTION, EVIDENCE, REFILL, SETTLED, Budget, PathRecord, Unauthorized
from krebit_proxy.core.token_response import Issued, NotSent, Refusal, RefusalKind, Rotated, Unclear
from tests.fakes.play import DOWN, NEW, Play, answers, grant, tokens

EXPIRED = grant(1, tokens(left=-1))


def test_the_normal_way_through() -> None:
    play, held = Play(), grant(1, tokens(left=-1))

    assert play.on(Woke()) == [ReadStore()]
    assert play.on(Read(held)) == [TakeLock(LOOK_EVERY)]
    assert play.on(Locked()) == [ReadStore()]
    [intent] = play.on(Read(held))
    assert isinstance(intent, WriteGrant)
    assert intent.grant.intent is not None
    assert play.on(Written()) == [Spend(Secret("r1"))]
    [write] = play.on(Answered(NEW))
    assert write == WriteGrant(1, grant(2, NEW.tokens))
    assert play.on(Written()) == [FreeLock()]
    assert play.state.grant == grant(2, NEW.tokens)
    assert play.phase is Phase.IDLE


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize(
    "event", [Read(None), Locked(), Written(), Conflicted(), Failed(DOWN), Answered(NEW), Revoked(accepted=True)]
)
def test_a_result_that_nobody_asked_for_is_an_error_that_names_both(phase: Phase, event: Result) -> None:
    if (phase, type(event)) in TRANSITIONS:
        return
    state = replace(Play().state, phase=phase)

    with pytest.raises(IllegalEventError, match=f"{type(event).__name__} in phase {phase.name}"):
        step(state, event, Moment(0, 0))


def test_each_phase_but_those_that_rest_has_a_way_out() -> None:
    resting = {Phase.IDLE, Phase.PAUSING, Phase.UNSTORED}

    assert {phase for phase, _ in TRANSITIONS} == set(Phase) - resting


def test_a_usable_token_is_handed_out_at_once() -> None:
    assert Play().holding(grant()).on(Demanded(7)) == [Answer(7)]


def test_callers_of_an_expired_token_wait_and_are_all_answered_by_one_refresh() -> None:
    play, held = Play().holding(grant()), grant()
    play.now += 2995
    effects = [effect for caller in range(100) for effect in play.on(Demanded(caller))]
    assert effects == [ReadStore()]
    play.on(Read(held))
    play.locked(held)
    play.on(Written())
    play.on(Answered(Issued(tokens(2, at=play.now))))

    assert answers(play.on(Written())) == [Answer(caller) for caller in range(100)]


def test_an_early_refresh_lets_callers_go_on_with_the_old_token() -> None:
    play = Play().spending(grant(1, tokens(left=200)))

    assert play.on(Demanded(1)) == [Answer(1)]


def test_a_refresh_is_due_when_the_window_opens_and_not_before() -> None:
    play = Play(ahead=300).holding(grant())

    assert play.alarm == 1000 + LOOK_EVERY
    for _ in range(int((3000 - 360) / LOOK_EVERY) - 1):
        assert play.later(LOOK_EVERY) == [ReadStore()]
        assert play.on(Read(grant())) == []
    assert play.later(2 * LOOK_EVERY) == [ReadStore()]
    assert play.on(Read(grant())) == [TakeLock(LOOK_EVERY)]


def test_the_alarm_is_set_to_the_opening_of_the_window() -> None:
    play = Play(ahead=360).holding(grant(1, tokens(left=363)))

    assert play.alarm == pytest.approx(1003)


def test_a_401_is_charged_to_the_generation_it_was_sent_with() -> None:
    play = Play().holding(grant(2))

    assert play.on(Demanded(1, refusal=Unauthorized(1))) == [Answer(1)]
    assert play.on(Demanded(2, refusal=Unauthorized(2))) == [ReadStore()]
    assert play.on(Demanded(3, refusal=Unauthorized(2))) == []
    assert play.on(Read(grant(3))) == [Answer(2), Answer(3)]
    assert not play.state.trust.suspected


def test_a_newer_grant_under_the_lock_is_taken_and_nothing_is_spent() -> None:
    play = Play().holding(grant(1, tokens(left=-1)))

    assert play.locked(grant(2)) == [FreeLock()]
    assert play.state.generation == 2
    assert play.reports == ["grant.adopted"]


def test_a_caller_that_leaves_cancels_nothing() -> None:
    play = Play().holding(grant(1, tokens(left=-1)))
    play.on(Demanded(1))

    assert play.on(Abandoned(1)) == []
    assert play.phase is Phase.LOCKING
    assert play.state.callers == ()


def test_a_long_upload_waits_for_a_token_that_lasts() -> None:
    play = Play(ahead=10).holding(grant(1, tokens(left=500)))

    assert play.on(Demanded(1, lifetime=400)) == [Answer(1)]
    assert play.on(Demanded(2, lifetime=600)) == [ReadStore()]
    assert play.on(Read(grant(2))) == [Answer(2)]


def test_nobody_waits_longer_than_the_patience() -> None:
    play = Play().spending(grant(1, tokens(left=-1)))
    play.on(Demanded(1))

    assert play.alarm == 1000 + PATIENCE
    assert answers(play.later(PATIENCE - 1)) == []
    [told] = answers(play.later(1))
    assert isinstance(told.told, Denial)
    assert told.told.code == "token_unavailable"
    assert play.phase is Phase.SPENDING


def test_a_look_that_fails_harms_nothing_and_is_repeated() -> None:
    play = Play().holding(grant())
    play.later(LOOK_EVERY)

    assert play.on(Failed(DOWN)) == []
    assert play.state.failures == 0
    assert play.on(Demanded(1)) == [Answer(1)]
    assert play.later(LOOK_EVERY) == [ReadStore()]
    play.on(Read(grant()))
    assert play.state.store_trouble is None


def test_callers_wait_while_a_store_is_away_for_a_moment_and_are_told_when_it_stays_away() -> None:
    play = Play()
    play.on(Woke())
    play.on(Failed(DOWN))

    assert answers(play.on(Demanded(1))) == []
    assert play.later(LOOK_EVERY) == [ReadStore()]
    assert answers(play.on(Failed(DOWN))) == []
    told = Denial("token_unavailable", "The store failed.", "Wait.", 1)
    assert play.later(OUTAGE - LOOK_EVERY) == [ReadStore(), Answer(1, told)]
    assert answers(play.on(Demanded(2))) == [Answer(2, told)]
    assert play.on(Failed(DOWN)) == []
    assert answers(play.on(Demanded(3))) == [Answer(3, replace(told, retry_after=4))]
    assert play.later(LOOK_EVERY) == [ReadStore()]
    play.on(Read(grant()))
    assert play.on(Demanded(4)) == [Answer(4)]


def test_a_database_that_restarts_costs_no_call() -> None:
    play, held = Play(), grant(1, tokens(left=-1))
    play.holding(held)
    play.on(Demanded(1))
    play.on(Failed(DOWN))

    assert play.alarm == 1001
    assert play.later(3) == [ReadStore()]
    assert play.on(Read(grant(2))) == [Answer(1)]


@pytest.mark.parametrize("phase", [Phase.LOOKING, Phase.LOCKING, Phase.CHECKING, Phase.INTENDING])
def test_a_store_that_fails_before_the_token_is_spent_ends_the_attempt(phase: Phase) -> None:
    play, held = Play(), grant(1, tokens(left=-1))
    play.holding(held)
    if phase is Phase.LOOKING:
        play.on(Failed(DOWN))
        play.later(LOOK_EVERY)
    elif phase is not Phase.LOCKING:
        play.on(Locked())
        if phase is Phase.INTENDING:
            play.on(Read(held))
    assert play.phase is phase
    play.on(Demanded(1))
    effects = play.on(Failed(DOWN))

    assert effects == [FreeLock()]
    assert play.phase is Phase.IDLE
    assert play.later(5) == [ReadStore()]


BUSY = Failed(DOWN, busy=True)


def test_who_waits_for_the_lock_sees_meanwhile_who_has_it() -> None:
    held = grant(1, tokens(left=200))
    play = Play().holding(held)

    assert play.on(BUSY) == [ReadStore()]
    assert play.on(Read(replace(held, intent=Intent(1000.0, "x", "other/17")))) == [TakeLock(LOOK_EVERY)]
    assert status(play.state, Moment(play.now, play.now)).lock_holder == "other/17"


def test_who_waits_for_the_lock_takes_what_its_holder_has_stored() -> None:
    play = Play().holding(grant(1, tokens(left=-1)))
    play.on(Demanded(1))
    play.on(BUSY)

    assert play.on(Read(grant(2))) == [Answer(1)]
    assert play.phase is Phase.IDLE


def test_nobody_waits_for_the_lock_for_ever() -> None:
    held = grant(1, tokens(left=-1))
    play, looks = Play().holding(held), 0
    while play.on(BUSY) == [ReadStore()]:
        assert play.on(Read(held)) == [TakeLock(LOOK_EVERY)]
        play.now += LOOK_EVERY
        looks += 1

    assert looks == math.ceil(LOCK_TIMEOUT / LOOK_EVERY)
    assert play.phase is Phase.IDLE
    assert play.state.store_trouble == DOWN
    play.later(1)
    play.on(Read(held))
    play.on(BUSY)
    play.on(Read(held))
    assert play.on(BUSY) == [ReadStore()]  # and from the start


def test_a_wait_that_ended_well_does_not_shorten_the_next() -> None:
    play = Play().holding(grant(1, tokens(left=-1)))
    play.on(BUSY)
    play.on(Read(grant(2)))
    expired = grant(2, tokens(2, left=-1, at=play.now + LOCK_TIMEOUT))
    play.later(LOCK_TIMEOUT)
    play.on(Read(replace(expired, generation=3)))

    assert play.phase is Phase.LOCKING
    assert play.on(BUSY) == [ReadStore()]


def test_a_process_that_stops_waits_for_no_lock() -> None:
    play = Play().holding(grant(1, tokens(left=-1)))
    play.on(Stopping())

    assert play.on(BUSY) == [FreeLock()]
    assert play.phase is Phase.IDLE


def test_a_lost_lock_is_noticed_before_the_token_is_spent() -> None:
    play, held = Play(), grant(1, tokens(left=-1))
    play.holding(held)
    play.locked(held)
    assert play.on(Written()) == [Spend(Secret("r1"))]

    assert play.on(Failed(DOWN)) == [FreeLock()]
    assert play.phase is Phase.IDLE
    assert play.later(1) == [ReadStore()]  # and from the start


def test_an_authorization_is_stored_and_the_person_is_told() -> None:
    play = Play().holding(None)
    found = tokens(5)

    assert play.on(Authorized(1, found)) == [ReadStore()]
    assert play.on(Read(None)) == [TakeLock(LOOK_EVERY)]
    assert play.locked(None) == [WriteGrant(0, grant(1, found, authorized_at=found.obtained_at))]
    assert play.on(Written()) == [Answer(1), FreeLock()]
    assert play.reports == ["grant.authorized"]


def test_an_authorization_lifts_a_verdict() -> None:
    condemned = grant(1, tokens(left=-1), verdict=Verdict(1.0, "refused"))
    play = Play().holding(condemned)
    [told] = answers(play.on(Demanded(1)))
    assert isinstance(told.told, Denial)
    assert told.told.code == "reauthorization_required"
    play.on(Authorized(2, tokens(2)))
    play.on(Read(condemned))
    play.locked(condemned)
    play.on(Written())

    assert play.on(Demanded(3)) == [Answer(3)]


def test_what_a_person_authorized_is_kept_when_the_store_fails() -> None:
    play = Play().holding(None)
    play.on(Authorized(1, tokens(2)))

    assert answers(play.on(Failed(DOWN))) == [Answer(1, DOWN)]
    assert play.state.orders
    play.later(LOOK_EVERY)
    play.on(Read(None))
    play.locked(None)
    assert play.on(Written()) == [FreeLock()]  # nobody is told twice
    assert play.state.generation == 1


def test_an_authorization_that_had_to_wait_yields_to_a_later_one() -> None:
    play = Play().holding(None)
    play.on(Authorized(1, tokens(2, left=3000)))
    newer = grant(1, tokens(3, left=3100), authorized_at=600.0)
    play.on(Read(newer))

    assert play.locked(newer) == [Answer(1, SUPERSEDED), FreeLock()]
    assert play.state.tokens == newer.tokens


def test_a_logout_revokes_then_forgets_and_keeps_counting() -> None:
    play = Play().holding(grant(4))
    play.on(LogoutAsked(1, 1000.0))
    play.on(Read(grant(4)))

    assert play.locked(grant(4)) == [Revoke(Secret("r4"))]
    [write] = play.on(Revoked(accepted=False))
    assert isinstance(write, WriteGrant)
    assert (write.expected, write.grant.generation, write.grant.tokens) == (4, 5, None)
    assert play.on(Written()) == [Answer(1), FreeLock()]
    assert answers(play.on(Demanded(2)))[0].told is not Go.ON


def test_a_logout_without_a_refresh_token_revokes_the_access_token() -> None:
    held = grant(1, tokens(refresh=False))
    play = Play().holding(held)
    play.on(LogoutAsked(1, 1000.0))
    play.on(Read(held))

    assert play.locked(held) == [Revoke(Secret("a1"))]


def test_a_logout_that_had_to_wait_spares_what_was_authorized_after_it() -> None:
    play = Play().holding(grant())
    play.on(LogoutAsked(1, 1000.0))
    newer = grant(2, authorized_at=1001.0)
    play.on(Read(newer))

    assert play.locked(newer) == [Answer(1, SUPERSEDED), FreeLock()]
    assert play.state.grant == newer


def test_a_logout_of_nothing_is_done_at_once() -> None:
    play = Play().holding(None)
    play.on(LogoutAsked(1, 1000.0))
    play.on(Read(None))

    assert play.locked(None) == [Answer(1), FreeLock()]


def test_a_logout_that_cannot_reach_the_store_is_told_and_not_repeated() -> None:
    play = Play().holding(grant())
    play.on(LogoutAsked(1, 1000.0))

    assert answers(play.on(Failed(DOWN))) == [Answer(1, DOWN)]
    assert play.state.orders == ()


def test_an_order_ends_a_pause_between_unclear_requests() -> None:
    from krebit_proxy.core.token_response import Unclear

    held = grant(1, tokens(left=-1))
    play = Play().spending(held)
    play.on(Answered(Unclear("reset")))
    assert play.phase is Phase.PAUSING

    assert play.on(Authorized(1, tokens(2))) == [FreeLock()]
    assert play.later(0) == [ReadStore()]


@pytest.mark.parametrize("phase", [Phase.IDLE, Phase.LOOKING, Phase.CHECKING, Phase.PAUSING])
def test_stopping_starts_nothing_new(phase: Phase) -> None:
    from krebit_proxy.core.token_response import Unclear

    held = grant(1, tokens(left=-1))
    play = Play()
    if phase is Phase.IDLE:
        play.holding(grant())
    elif phase is Phase.LOOKING:
        play.on(Woke())
    elif phase is Phase.CHECKING:
        play.holding(held)
        play.on(Locked())
    else:
        play.spending(held)
        play.on(Answered(Unclear("reset")))
    assert play.phase is phase
    play.on(Stopping())
    if phase in {Phase.LOOKING, Phase.CHECKING}:
        play.on(Read(held))

    assert play.phase is Phase.IDLE
    assert play.later(1000) == []


def test_stopping_after_the_intent_takes_it_back() -> None:
    held = grant(1, tokens(left=-1))
    play = Play().holding(held)
    play.locked(held)
    play.on(Stopping())

    assert play.on(Written()) == [WriteGrant(1, held, under_lock=True)]
    assert play.on(Written()) == [FreeLock()]


def test_stopping_lets_a_token_request_end_and_its_answer_be_stored() -> None:
    play = Play().spending(grant(1, tokens(left=-1)))
    play.on(Stopping())
    play.on(Answered(NEW))
    play.on(Written())

    assert play.state.generation == 2
    assert play.phase is Phase.IDLE


@given(st.lists(st.sampled_from(["demand", "reject", "leave", "wake", "late"]), max_size=40), st.integers(-10, 400))
def test_whatever_callers_do_at_most_one_token_request_is_under_way(acts: list[str], left: int) -> None:
    play, spent = Play(), 0
    play.holding(grant(1, tokens(left=left)))
    for number, act in enumerate(acts):
        if act == "late":
            effects = play.later(2)
        else:
            events: dict[str, Event] = {
                "demand": Demanded(number),
                "reject": Demanded(number, 1),
                "leave": Abandoned(number - 1),
                "wake": Woke(),
            }
            effects = play.on(events[act])
        for effect in effects:
            assert isinstance(effect, Answer | ReadStore | TakeLock)
        if any(isinstance(effect, ReadStore) for effect in effects):
            following = play.on(Read(grant(1, tokens(left=left))))
            spent += sum(isinstance(effect, TakeLock) for effect in following)
    assert spent <= 1


# One refresh: what each outcome of a token request leads to


def test_the_intent_names_the_token_the_time_and_the_holder() -> None:
    play = Play().holding(EXPIRED)
    [write] = play.locked(EXPIRED)

    assert isinstance(write, WriteGrant)
    assert write.grant.intent == Intent(1000.0, Secret("r1").fingerprint(), "host/1")


def test_an_intent_that_meets_another_generation_is_given_up() -> None:
    play = Play().holding(EXPIRED)
    play.locked(EXPIRED)

    assert play.on(Conflicted()) == [FreeLock(), ReadStore()]


def test_an_unclear_outcome_presents_the_same_token_twice_at_once_with_the_lock_kept() -> None:
    play = Play().spending(EXPIRED)
    for pause in AT_ONCE:
        assert play.on(Answered(Unclear("reset"))) == []
        assert play.state.locked
        assert play.later(pause - 0.1) == []
        assert play.later(0.1) == [Spend(Secret("r1"))]

    assert play.on(Answered(Unclear("reset"))) == [FreeLock()]
    assert play.state.grant is not None
    assert play.state.grant.intent is not None  # it stays: nobody knows
    assert play.later(1) == [ReadStore()]


def test_what_was_unclear_before_is_presented_once_at_a_time() -> None:
    suspect = grant(1, tokens(left=-1), intent=Intent(5.0, "x", "host/1"))
    play = Play().spending(suspect)

    assert play.on(Answered(Unclear("reset"))) == [FreeLock()]
    assert play.later(1) == [ReadStore()]


def test_a_server_that_asks_for_patience_gets_it() -> None:
    play = Play().spending(EXPIRED)

    assert play.on(Answered(Unclear("HTTP status 503", 40))) == [FreeLock()]
    assert play.state.try_at == 1040


def test_a_lost_lock_ends_the_repetition() -> None:
    play = Play().spending(EXPIRED)
    play.on(Answered(Unclear("reset")))

    assert play.later(1) == [Spend(Secret("r1"))]
    assert play.on(Failed(DOWN)) == [FreeLock()]  # nothing was sent
    assert play.phase is Phase.IDLE


@pytest.mark.parametrize(
    ("outcome", "code", "pause"),
    [
        (NotSent("no connection"), "token_unavailable", 1),
        (NotSent("HTTP status 429", 120), "token_unavailable", 120),
        (Refusal("invalid_request", "later"), "token_unavailable", 2),
        (Refusal("invalid_client", "", RefusalKind.CLIENT), "misconfigured", MISCONFIGURED_PAUSE),
        (Refusal("unauthorized_client", "not yours", RefusalKind.CLIENT), "misconfigured", MISCONFIGURED_PAUSE),
    ],
)
def test_a_token_that_was_not_spent_is_kept_and_the_intent_is_taken_back(
    outcome: NotSent | Refusal, code: str, pause: float
) -> None:
    play = Play().spending(EXPIRED)
    play.on(Demanded(1))
    assert play.on(Answered(outcome)) == [WriteGrant(1, EXPIRED, under_lock=True)]
    effects = play.on(Written())

    assert FreeLock() in effects
    [told] = answers(effects)
    assert isinstance(told.told, Denial)
    assert told.told.code == code
    assert play.state.try_at == 1000 + pause
    assert play.state.grant == EXPIRED


def test_a_retraction_that_fails_is_let_be() -> None:
    play = Play().spending(EXPIRED)
    play.on(Answered(NotSent("no connection")))

    assert play.on(Failed(DOWN)) == [FreeLock()]
    assert play.phase is Phase.IDLE


def test_failures_in_a_row_make_the_pauses_longer() -> None:
    play, pauses = Play().holding(EXPIRED), []
    for _ in range(8):
        play.locked(EXPIRED)
        play.on(Written())
        play.on(Answered(NotSent("no connection")))
        play.on(Written())
        pauses.append(play.state.try_at - play.now)
        play.later(pauses[-1])
        play.on(Read(EXPIRED))

    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]


def test_a_refused_refresh_token_is_a_verdict_and_the_tokens_stay() -> None:
    play = Play().spending(EXPIRED)
    play.on(Demanded(1))
    [write] = play.on(Answered(Refusal("invalid_grant", "gone", RefusalKind.VERDICT)))
    assert isinstance(write, WriteGrant)
    assert write.grant.generation == 1
    assert write.grant.tokens == EXPIRED.tokens
    [told] = answers(play.on(Written()))

    assert isinstance(told.told, Denial)
    assert told.told.code == "reauthorization_required"
    assert "invalid_grant: gone" in told.told.detail
    assert play.reports == ["grant.refused"]
    assert play.later(3600) == [ReadStore()]
    assert play.on(Read(play.state.grant)) == []  # no token request ever again


def test_a_verdict_tells_of_an_earlier_attempt_whose_answer_was_lost() -> None:
    play = Play().holding(EXPIRED)
    suspicious = Grant(1, "acme", "app", EXPIRED.tokens, intent=Intent(0.0, "x", "other/17"))
    play.locked(suspicious)
    play.on(Written())
    [write] = play.on(Answered(Refusal("invalid_grant", "", RefusalKind.VERDICT)))

    assert isinstance(write, WriteGrant)
    assert write.grant.verdict is not None
    assert "other/17 probably used the token at 1970-01-01 00:00:00 UTC" in write.grant.verdict.reason


def test_a_verdict_that_meets_a_newer_generation_is_dropped() -> None:
    play = Play().spending(EXPIRED)
    play.on(Answered(Refusal("invalid_grant", "", RefusalKind.VERDICT)))

    assert play.on(Conflicted()) == [ReadStore()]
    assert play.on(Read(grant(2))) == [FreeLock()]
    assert play.state.grant == grant(2)


def test_where_locks_can_be_lost_the_holder_of_an_unfinished_intent_gets_time() -> None:
    play = Play(intent_grace=10).holding(EXPIRED)
    strange = Grant(1, "acme", "app", EXPIRED.tokens, intent=Intent(5.0, "x", "other/17"))

    assert play.locked(strange) == [FreeLock()]
    assert play.state.try_at == 1010
    play.later(6)
    play.on(Read(strange))
    play.later(4)
    assert play.on(Read(strange))
    play.on(Locked())
    [write] = play.on(Read(strange))
    assert isinstance(write, WriteGrant)  # long enough


def test_callers_wait_while_another_holder_may_still_bring_the_token() -> None:
    play = Play(intent_grace=10).holding(EXPIRED)
    strange = Grant(1, "acme", "app", EXPIRED.tokens, intent=Intent(5.0, "x", "other/17"))
    play.locked(strange)

    assert play.on(Demanded(1)) == []
    play.later(6)
    assert play.on(Read(grant(2))) == [Answer(1)]


def test_that_time_counts_anew_when_the_store_was_away() -> None:
    play = Play(intent_grace=10).holding(EXPIRED)
    strange = Grant(1, "acme", "app", EXPIRED.tokens, intent=Intent(5.0, "x", "other/17"))
    play.locked(strange)
    play.later(6)
    play.on(Failed(DOWN))
    play.later(6)
    play.on(Read(strange))

    assert play.locked(strange) == [FreeLock()]
    assert play.state.try_at == 1022


def test_a_lock_that_was_lost_right_before_the_token_request_spends_nothing() -> None:
    play = Play().spending(EXPIRED)

    assert play.on(Failed(DOWN)) == [FreeLock()]
    assert play.phase is Phase.IDLE
    assert play.state.try_at == 1001


def test_our_own_unfinished_intent_is_not_waited_for() -> None:
    play = Play(intent_grace=10).holding(EXPIRED)
    own = Grant(1, "acme", "app", EXPIRED.tokens, intent=Intent(5.0, "x", "host/1"))

    assert isinstance(play.locked(own)[0], WriteGrant)


def test_warnings_of_a_token_response_are_reported() -> None:
    play = Play().spending(EXPIRED)
    play.on(Answered(Issued(tokens(2), ("odd",))))

    assert play.reports == ["grant.warning"]


def test_an_answer_without_a_scope_leaves_the_scope_as_it_was() -> None:
    play = Play().spending(grant(1, replace(tokens(left=-1), scope="read write")))
    [write] = play.on(Answered(Issued(tokens(2))))

    assert isinstance(write, WriteGrant)
    assert write.grant.tokens == replace(tokens(2), scope="read write")


def test_an_answer_with_a_scope_is_believed() -> None:
    play = Play().spending(grant(1, replace(tokens(left=-1), scope="read write")))
    [write] = play.on(Answered(Issued(replace(tokens(2), scope="read"))))

    assert isinstance(write, WriteGrant)
    assert write.grant.tokens == replace(tokens(2), scope="read")


# Writes that must not be lost, and what is believed of a store that changes under us


RENEWED = grant(2, NEW.tokens)


def unstored() -> Play:
    """A process whose token request was answered, and whose store refuses the answer."""
    play = Play().spending(EXPIRED)
    play.on(Answered(NEW))
    play.on(Failed(DOWN))
    assert play.phase is Phase.UNSTORED
    return play


def test_an_answer_that_cannot_be_stored_is_used_and_the_lock_is_kept() -> None:
    play = unstored()

    assert play.on(Demanded(1)) == [Answer(1)]
    assert play.state.tokens == NEW.tokens
    assert play.state.locked
    assert play.alarm == 1001


def test_the_write_is_tried_until_it_succeeds() -> None:
    play, pauses = unstored(), []
    for _ in range(7):
        pauses.append(play.alarm - play.now)
        assert play.later(pauses[-1]) == [WriteGrant(1, RENEWED)]
        play.on(Failed(DOWN))

    assert pauses == [1, 2, 4, 8, 16, LONGEST_UNSTORED, LONGEST_UNSTORED]
    play.later(LONGEST_UNSTORED)
    assert FreeLock() in play.on(Written())
    assert play.state.store_trouble is None


def test_where_locks_can_be_lost_the_write_is_tried_well_within_the_time_that_others_wait() -> None:
    play = Play(intent_grace=10).spending(EXPIRED)
    play.on(Answered(NEW))
    pauses = []
    for _ in range(4):
        play.on(Failed(DOWN))
        pauses.append(play.alarm - play.now)
        play.later(pauses[-1])

    assert pauses == [1, 2, 2.5, 2.5]


def test_a_process_that_stops_goes_on_trying_for_a_while_and_says_so() -> None:
    play = unstored()

    assert play.on(Stopping()) == [WriteGrant(1, RENEWED)]
    for _ in range(10):
        assert play.on(Failed(DOWN)) == []
        assert play.later(1) == [WriteGrant(1, RENEWED)]
    assert play.on(Failed(DOWN)) == [FreeLock()]
    assert play.reports == ["grant.not_stored"]
    assert play.phase is Phase.IDLE


def test_a_write_that_happened_after_all_is_recognized() -> None:
    play = unstored()
    play.later(1)

    assert play.on(Conflicted()) == [ReadStore()]
    assert play.on(Read(RENEWED)) == [FreeLock()]
    assert play.state.grant == RENEWED


def test_a_newer_grant_of_somebody_else_is_adopted_and_ours_is_dropped() -> None:
    play, theirs = unstored(), grant(2, tokens(9))
    play.later(1)
    play.on(Conflicted())

    assert play.on(Read(theirs)) == [FreeLock()]
    assert play.state.grant == theirs
    assert play.on(Demanded(1)) == [Answer(1)]


def test_a_store_that_was_set_back_is_set_right() -> None:
    play = unstored()
    play.later(1)
    play.on(Conflicted())

    assert play.on(Read(None)) == [WriteGrant(0, RENEWED)]


def test_a_look_that_fails_while_reconciling_goes_back_to_trying() -> None:
    play = unstored()
    play.later(1)
    play.on(Conflicted())
    play.on(Failed(DOWN))

    assert play.phase is Phase.UNSTORED


def test_memory_that_is_newer_than_the_store_is_kept_and_stored_with_the_next_intent() -> None:
    play = Play().holding(grant(5, tokens(left=30)))
    play.locked(None)
    assert play.state.generation == 5
    assert play.on(Written())
    [write] = play.on(Answered(NEW))

    assert isinstance(write, WriteGrant)
    assert (write.expected, write.grant.generation) == (5, 6)


def test_the_same_generation_with_other_tokens_is_what_the_store_says() -> None:
    play = Play().holding(grant(1, tokens(1)))
    play.later(5)
    play.on(Read(grant(1, tokens(9))))

    assert play.state.tokens == tokens(9)


def test_an_authorization_wins_over_whatever_was_stored_meanwhile() -> None:
    play = Play().holding(EXPIRED)
    found = tokens(7, at=2000)
    play.on(Authorized(1, found))
    play.locked(EXPIRED)
    play.on(Conflicted())

    assert play.on(Read(grant(4))) == [WriteGrant(4, grant(5, found, authorized_at=found.obtained_at))]
    assert Answer(1) in play.on(Written())


def test_an_authorization_yields_to_a_later_one_that_was_stored_meanwhile() -> None:
    play = Play().holding(EXPIRED)
    play.on(Authorized(1, tokens(7)))
    play.locked(EXPIRED)
    play.on(Conflicted())
    theirs = grant(2, tokens(8), authorized_at=5000.0)

    assert play.on(Read(theirs)) == [Answer(1, SUPERSEDED), FreeLock()]
    assert play.state.grant == theirs


def test_a_person_whose_authorization_cannot_be_stored_is_told_and_served_all_the_same() -> None:
    play = Play().holding(None)
    play.on(Authorized(1, tokens(2)))
    play.on(Read(None))
    play.locked(None)

    assert answers(play.on(Failed(DOWN))) == [Answer(1, DOWN)]
    assert play.on(Demanded(2)) == [Answer(2)]
    play.later(1)
    assert play.on(Written()) == [FreeLock()]


def test_an_authorization_that_had_to_be_served_from_memory_still_wins_when_the_store_is_back() -> None:
    play = Play().holding(EXPIRED)
    found = tokens(7, at=2000)
    play.on(Authorized(1, found))
    play.locked(EXPIRED)
    play.on(Failed(DOWN))
    play.later(1)
    play.on(Conflicted())

    assert play.on(Read(grant(2))) == [WriteGrant(2, grant(3, found, authorized_at=found.obtained_at))]
    assert play.on(Written()) == [FreeLock()]
    assert play.state.tokens == found


def test_a_logout_is_announced_as_such() -> None:
    play = unstored()
    forgotten = Grant(3, "acme", "app", None, authorized_at=9999.0)
    play.later(1)
    play.on(Conflicted())
    play.on(Read(forgotten))

    assert play.state.tokens is None


# A token that the API refuses


def refused(generation: int = 1, *, probe: int = 0, repeated: bool = False, caller: int = 1) -> Demanded:
    return Demanded(caller, refusal=Unauthorized(generation, probe, repeated))


def spending_for_a_401() -> Play:
    """A call met a 401, and the renewal that it asked for is under way."""
    play, held = Play().holding(grant()), grant()
    play.on(refused())
    play.on(Read(held))
    play.locked(held)
    play.on(Written())
    assert play.phase is Phase.SPENDING
    return play


def after_a_failed_renewal() -> Play:
    """A call met a 401, and the token endpoint is away."""
    play = spending_for_a_401()
    play.on(Answered(NotSent("no connection", 60)))
    play.on(Written())
    return play


def code(answer: Answer) -> str:
    return answer.told.code if isinstance(answer.told, Denial) else answer.told.name


def test_while_a_refused_token_is_renewed_one_call_goes_on_with_it_and_the_others_wait() -> None:
    play = spending_for_a_401()

    assert answers(play.on(Demanded(2))) == [Answer(2, Go.PROBE)]
    assert answers(play.on(Demanded(3))) == []
    assert play.alarm == play.now + 1
    assert answers(play.later(1)) == [Answer(3, Go.PROBE)]


def test_a_caller_that_met_a_401_gets_our_answer_when_the_renewal_fails() -> None:
    play = spending_for_a_401()
    assert answers(play.on(Answered(NotSent("no connection")))) == []
    [told] = answers(play.on(Written()))

    assert code(told) == "token_unavailable"


def test_without_a_renewal_one_call_a_second_tries_the_token_and_the_others_are_told() -> None:
    play = after_a_failed_renewal()

    assert [code(*answers(play.on(Demanded(caller)))) for caller in (2, 3, 4)] == [
        "PROBE",
        "token_unavailable",
        "token_unavailable",
    ]
    play.now += 1
    assert code(*answers(play.on(Demanded(5)))) == "PROBE"


def test_an_accepted_probe_lets_all_calls_flow_again_and_drops_the_renewal() -> None:
    play = after_a_failed_renewal()
    play.on(Demanded(2))
    play.on(Accepted(1, play.state.trust.number))

    assert answers(play.on(Demanded(3))) == [Answer(3, Go.ON)]
    for _ in range(30):
        assert not any(isinstance(effect, TakeLock) for effect in play.later(4))
        play.on(Read(grant()))


def test_who_still_waits_because_of_a_401_gets_it_when_the_token_turns_out_to_be_good() -> None:
    play = spending_for_a_401()
    play.on(Demanded(2))

    assert answers(play.on(Accepted(1, play.state.trust.number))) == [Answer(1, Go.RELAY)]


def test_what_is_said_of_an_older_token_changes_nothing() -> None:
    play = after_a_failed_renewal()
    before = play.state.trust

    play.on(Accepted(0, before.number))

    assert play.state.trust == before


def test_a_young_token_that_is_refused_is_tried_again_when_it_has_settled() -> None:
    play = Play().holding(grant(1, tokens(left=3600)))

    assert play.on(refused()) == []
    assert play.alarm == play.now + SETTLED
    assert play.later(SETTLED) == [Answer(1, Go.AGAIN)]
    assert play.on(refused(repeated=True, caller=2)) == [ReadStore()]


def test_a_young_token_that_expires_before_it_settles_is_renewed() -> None:
    held = grant(1, tokens(left=1))
    held = replace(held, tokens=replace(tokens(left=1), obtained_at=1000))
    play = Play().holding(held)
    play.on(refused())

    assert play.later(1) == [ReadStore()]
    play.on(Read(held))
    play.locked(held)
    play.on(Written())
    play.on(Answered(NEW))
    assert answers(play.on(Written())) == [Answer(1, Go.ON)]


def test_where_young_tokens_are_not_known_at_once_a_call_waits_before_it_is_sent_again() -> None:
    held = grant(1, tokens(left=3600))
    play = Play().holding(held)
    play.on(refused())
    play.later(SETTLED)
    play.on(Accepted(1))
    assert play.state.trust.lagging
    play.on(refused(caller=2))
    play.on(Read(held))
    play.locked(held)
    play.on(Written())
    play.on(Answered(Issued(tokens(2, left=3600, at=play.now))))

    assert answers(play.on(Written())) == []
    assert play.later(SETTLED) == [Answer(2, Go.ON)]


def test_when_401s_have_cost_enough_renewals_they_are_relayed() -> None:
    play = Play().holding(grant())
    for generation in (1, 2, 3):
        held = grant(generation)
        play.on(refused(generation))
        play.on(Read(held))
        play.locked(held)
        play.on(Written())
        play.on(Answered(Issued(tokens(generation + 1))))
        assert answers(play.on(Written())) == [Answer(1)]

    assert play.on(refused(4)) == [Answer(1, Go.RELAY)]
    assert code(*answers(play.on(Demanded(2)))) == "PROBE"
    assert code(*answers(play.on(Demanded(3)))) == "token_unavailable"
    play.now += REFILL
    assert play.on(refused(4)) == [ReadStore()]


def test_a_renewal_that_never_reached_the_server_costs_nothing() -> None:
    assert after_a_failed_renewal().state.trust.budget.left(0) == BURST


def test_a_renewal_of_another_process_long_before_its_time_is_one_of_the_same_budget() -> None:
    play = Play().holding(grant())
    play.later(LOOK_EVERY)
    play.on(Read(grant(2)))
    early = play.state.trust.budget.left(play.now)

    assert early == BURST - 1


def test_a_token_that_is_suspected_and_expires_is_renewed_as_any_other() -> None:
    play = after_a_failed_renewal()
    play.now += 3001

    assert play.on(Demanded(2)) == [ReadStore()]


def test_a_refused_call_waits_no_longer_than_others() -> None:
    play = spending_for_a_401()
    [told] = answers(play.later(PATIENCE))

    assert code(told) == "token_unavailable"


def test_calls_on_a_path_that_was_refused_do_not_take_the_probes_of_others() -> None:
    play = after_a_failed_renewal()
    odd = PathRecord.REFUSED
    assert code(*answers(play.on(Demanded(2)))) == "PROBE"
    for _ in range(5):
        play.now += 0.5
        assert code(*answers(play.on(Demanded(3, record=odd)))) == "token_unavailable"

    assert code(*answers(play.on(Demanded(4)))) == "PROBE"
    play.now += CONTENTION
    assert code(*answers(play.on(Demanded(3, record=odd)))) == "PROBE"  # nobody else wanted to


def test_a_path_that_was_accepted_need_not_wait_for_the_others() -> None:
    play = after_a_failed_renewal()
    assert code(*answers(play.on(Demanded(2)))) == "PROBE"
    assert code(*answers(play.on(Demanded(3, record=PathRecord.ACCEPTED)))) == "PROBE"
    assert code(*answers(play.on(Demanded(4, record=PathRecord.ACCEPTED)))) == "token_unavailable"
    play.now += 1
    assert code(*answers(play.on(Demanded(5)))) == "token_unavailable"


def test_a_401_beside_calls_that_are_accepted_is_relayed_when_the_budget_is_spent() -> None:
    play = Play().holding(grant())
    play.state = replace(play.state, trust=replace(play.state.trust, budget=Budget(0, play.now)))
    play.on(Accepted(1))

    assert play.on(refused()) == [Answer(1, Go.RELAY)]
    assert not play.state.trust.suspected
    play.now += EVIDENCE
    play.on(refused())
    assert play.state.trust.suspected


def unproven() -> Play:
    """The token was refused, and has been renewed. Two calls that met the 401 wait, and one of them has gone on."""
    play = spending_for_a_401()
    play.on(refused(caller=2))
    play.on(Answered(Issued(tokens(2, left=3600, at=play.now))))
    assert answers(play.on(Written())) == [Answer(1, Go.PROBE)]
    return play


def test_one_call_tries_a_token_that_replaced_a_suspected_one_and_the_others_follow() -> None:
    play = unproven()

    assert answers(play.on(Demanded(3))) == []
    assert answers(play.on(Accepted(2, play.state.trust.number))) == [Answer(2), Answer(3)]


def test_a_new_token_that_is_refused_again_gets_time_before_others_use_it() -> None:
    play = unproven()
    play.on(RefusedAgain(Unauthorized(2, play.state.trust.number)))

    assert play.alarm <= play.now + SETTLED
    assert answers(play.later(SETTLED)) == [Answer(2)]


def test_another_call_tries_a_new_token_when_the_first_one_takes_long() -> None:
    play = unproven()

    assert answers(play.later(1)) == [Answer(2, Go.PROBE)]
    play.on(Demanded(3))
    play.on(Demanded(4))
    assert answers(play.later(1)) == [Answer(3), Answer(4)]


def test_what_was_refused_again_with_an_older_token_says_nothing() -> None:
    play = unproven()
    before = play.state.trust
    play.on(RefusedAgain(Unauthorized(1)))

    assert play.state.trust == before


# A refusal that is no verdict


DENIED = Refusal("invalid_request", "The refresh token is invalid.", RefusalKind.OTHER, "mark")


def denied(play: Play, refusal: Refusal = DENIED) -> list[Effect]:
    """The next attempt comes, and is refused in these words."""
    play.now = max(play.now, play.state.try_at)
    held = play.state.grant
    play.on(Woke())
    if play.phase is Phase.LOOKING:
        play.on(Read(held))
    play.locked(held)
    play.on(Written())
    play.on(Answered(refusal))
    return play.on(Written())


def test_a_definite_refusal_that_comes_twice_asks_for_a_person_and_is_tried_again() -> None:
    play = Play().holding(EXPIRED)
    denied(play)
    assert play.state.try_at == play.now + 2
    assert not play.state.soft_verdict
    denied(play)

    [told] = answers(play.on(Demanded(1)))
    assert isinstance(told.told, Denial)
    assert told.told.code == "reauthorization_required"
    assert "The refresh token is invalid" in told.told.detail
    assert play.state.grant is not None
    assert play.state.grant.verdict is None
    pauses = []
    for _ in range(12):
        denied(play)
        pauses.append(play.state.try_at - play.now)
    assert pauses[-1] == LONGEST_SOFT_PAUSE


def test_a_success_lifts_a_soft_verdict() -> None:
    play = Play().holding(EXPIRED)
    denied(play)
    denied(play)
    play.now = play.state.try_at
    play.on(Woke())
    play.on(Read(EXPIRED))
    play.locked(EXPIRED)
    play.on(Written())
    play.on(Answered(NEW))
    play.on(Written())

    assert play.state.soft_verdict is None
    assert answers(play.on(Demanded(1))) == [Answer(1)]


def test_two_different_refusals_are_not_the_same_one_twice() -> None:
    play = Play().holding(EXPIRED)
    denied(play, replace(DENIED, worded=False))
    denied(play, replace(DENIED, worded=False, mark="another"))

    assert play.state.soft_verdict is None


def test_two_refusals_within_a_moment_are_one() -> None:
    play = Play().holding(EXPIRED)
    denied(play)
    play.state = replace(play.state, try_at=play.now)  # somebody wants it now
    denied(play)

    assert play.state.soft_verdict is None


def test_a_refusal_while_the_token_is_good_is_no_verdict_however_often_it_comes() -> None:
    play = Play().holding(grant(1, tokens(left=200)))
    for _ in range(5):
        denied(play)

    assert play.state.soft_verdict is None
    assert play.state.try_at <= 1000 + 200 + 2


# An answer that brings a refresh token and no access token


def test_a_refresh_token_without_an_access_token_is_stored_and_presented_next() -> None:
    play = Play().spending(grant(1, tokens(left=200)))
    [write] = play.on(Answered(Rotated(Secret("r2"), "the access token is missing")))
    assert isinstance(write, WriteGrant)
    assert write.grant.tokens is not None
    assert write.grant.tokens.refresh_token == Secret("r2")
    assert write.grant.tokens.access_token == Secret("a1")
    play.on(Written())

    assert play.reports == ["grant.refresh_failed"]
    assert answers(play.on(Demanded(1))) == [Answer(1)]  # the old access token is as good as before
    play.now = play.state.try_at
    play.on(Woke())
    play.on(Read(write.grant))
    play.locked(write.grant)
    assert play.on(Written()) == [Spend(Secret("r2"))]


# The refresh token's own end


def ending(number: int, *, at: float, after: float, left: float = 3600) -> Tokens:
    return replace(tokens(number, left=left, at=at), obtained_at=at, refresh_expires_at=at + after)


def test_a_refresh_token_that_ends_before_the_access_token_is_renewed_before_it_ends() -> None:
    play = Play(ahead=300).holding(grant(1, ending(1, at=1000, after=60)))

    assert not any(isinstance(effect, TakeLock) for effect in play.later(29))
    play.on(Read(play.state.grant))
    assert play.alarm == 1030
    play.later(1)
    assert TakeLock(LOOK_EVERY) in play.on(Read(play.state.grant))


def test_a_refresh_token_that_is_said_to_last_a_moment_causes_no_storm() -> None:
    play = Play().holding(grant(1, ending(1, at=1000, after=1)))

    assert play.alarm == play.now + LOOK_EVERY


def test_an_end_that_a_renewal_does_not_move_is_fixed_and_causes_no_haste() -> None:
    play = Play().spending(grant(1, ending(1, at=0, after=5000, left=1010)))
    play.on(Answered(Issued(replace(ending(2, at=1000, after=4000), refresh_expires_at=5000))))
    play.on(Written())

    assert play.state.tokens is not None
    assert play.state.tokens.refresh_end_is_fixed
    assert play.alarm == play.now + LOOK_EVERY


def test_rounded_ends_of_quick_renewals_are_compared_over_some_seconds() -> None:
    play = Play().spending(grant(1, ending(1, at=995, after=5000, left=2)))
    fixed = []
    for second in range(6):
        at = 996.0 + second
        rounded = replace(ending(2 + second, at=at, after=0, left=2), refresh_expires_at=5995 + second % 2)
        play.now = at
        play.on(Answered(Issued(rounded)))
        play.on(Written())
        assert play.state.tokens is not None
        fixed.append(play.state.tokens.refresh_end_is_fixed)
        held = play.state.grant
        play.now = at + 1
        play.on(Woke())
        play.on(Read(held))
        play.locked(held)
        play.on(Written())

    assert fixed == [False, False, False, True, True, True]


def test_an_end_that_moves_along_is_not_fixed() -> None:
    play = Play().spending(grant(1, ending(1, at=0, after=5000, left=1010)))
    play.on(Answered(Issued(ending(2, at=1000, after=5000))))
    play.on(Written())

    assert play.state.tokens is not None
    assert not play.state.tokens.refresh_end_is_fixed


def test_the_end_of_a_refresh_token_that_stays_is_kept_when_the_answer_does_not_repeat_it() -> None:
    held = grant(1, ending(1, at=0, after=5000, left=1010))
    play = Play().spending(held)
    stays = replace(tokens(2, at=1000, left=3600), refresh_token=Secret("r1"))
    play.on(Answered(Issued(stays)))
    play.on(Written())

    assert play.state.tokens is not None
    assert play.state.tokens.refresh_expires_at == 5000


# A store that fails for long


def test_reads_that_work_do_not_hide_writes_that_do_not() -> None:
    play = Play().holding(EXPIRED)
    play.on(Demanded(1))
    asked: list[Effect] = []
    while not answers(asked) and play.now < 1100:
        match play.phase:
            case Phase.LOOKING | Phase.CHECKING:
                asked = play.on(Read(EXPIRED))
            case Phase.LOCKING:
                asked = play.on(Locked())
            case Phase.INTENDING:
                asked = play.on(Failed(DOWN))
            case _:
                asked = play.later(max(0.1, play.alarm - play.now))

    assert play.now == 1000 + OUTAGE
    while play.phase is not Phase.INTENDING:
        play.later(0.5)
        if play.phase is Phase.LOOKING:
            play.on(Read(EXPIRED))
        if play.phase is Phase.LOCKING:
            play.locked(EXPIRED)
    assert code(*answers(play.on(Demanded(2)))) == "token_unavailable"  # at once, in the middle of an attempt


def test_a_store_that_hangs_is_not_waited_for_longer_than_one_that_fails() -> None:
    play = Play()
    play.on(Woke())
    play.on(Demanded(1))

    assert play.alarm == 1000 + OUTAGE
    [told] = answers(play.later(OUTAGE))
    assert code(told) == "token_unavailable"
    assert code(*answers(play.on(Demanded(2)))) == "token_unavailable"


def test_an_authorization_whose_write_happened_is_not_written_over_a_later_renewal() -> None:
    play = Play().holding(None)
    play.on(Authorized(1, tokens(2, at=1000)))
    play.on(Read(None))
    play.locked(None)
    play.on(Failed(DOWN))  # it was written all the same, and another process has renewed it since
    play.later(1)
    play.on(Conflicted())
    mine = play.state.grant
    assert mine is not None
    later = replace(mine, generation=mine.generation + 1, tokens=tokens(3))

    assert FreeLock() in play.on(Read(later))
    assert play.state.grant == later
