"""The state machine of the grant: who waits, who goes on, and what is started when."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krebit_proxy.core.freshness import Moment
from krebit_proxy.core.grant import Intent, Issued, Verdict
from krebit_proxy.core.lifecycle import LOCK_TIMEOUT, TRANSITIONS, IllegalEventError, step
from krebit_proxy.core.outlook import OUTAGE, PATIENCE, status
from krebit_proxy.core.protocol import (
    Abandoned,
    Answer,
    Answered,
    Authorized,
    Conflicted,
    Demanded,
    Denial,
    Event,
    Failed,
    FreeLock,
    Locked,
    LogoutAsked,
    Phase,
    Read,
    ReadStore,
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
from krebit_proxy.core.secret import Secret
from krebit_proxy.core.storing import LOOK_EVERY, SUPERSEDED
from tests.fakes.play import DOWN, NEW, Play, answers, grant, tokens


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

    assert play.on(Demanded(1, rejected=1)) == [Answer(1)]
    assert play.on(Demanded(2, rejected=2)) == [ReadStore()]
    assert play.on(Demanded(3, rejected=2)) == []
    assert play.on(Read(grant(3))) == [Answer(2), Answer(3)]
    assert not play.state.rejected


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
    assert told.denial is not None
    assert told.denial.code == "token_unavailable"
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
    assert play.later(OUTAGE - LOOK_EVERY) == [ReadStore()]
    assert answers(play.on(Failed(DOWN))) == [Answer(1, Denial("token_unavailable", "The store failed.", "Wait.", 4))]
    assert answers(play.on(Demanded(2))) == [Answer(2, Denial("token_unavailable", "The store failed.", "Wait.", 4))]
    assert play.later(LOOK_EVERY) == [ReadStore()]
    play.on(Read(grant()))
    assert play.on(Demanded(3)) == [Answer(3)]


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
    assert told.denial is not None
    assert told.denial.code == "reauthorization_required"
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
    assert answers(play.on(Demanded(2)))[0].denial is not None


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
    from krebit_proxy.core.grant import Unclear

    held = grant(1, tokens(left=-1))
    play = Play().spending(held)
    play.on(Answered(Unclear("reset")))
    assert play.phase is Phase.PAUSING

    assert play.on(Authorized(1, tokens(2))) == [FreeLock()]
    assert play.later(0) == [ReadStore()]


@pytest.mark.parametrize("phase", [Phase.IDLE, Phase.LOOKING, Phase.CHECKING, Phase.PAUSING])
def test_stopping_starts_nothing_new(phase: Phase) -> None:
    from krebit_proxy.core.grant import Unclear

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
