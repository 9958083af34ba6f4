"""One refresh: what each outcome of a token request leads to."""

from dataclasses import replace

import pytest

from krebit_proxy.core.grant import Grant, Intent, Issued, NotSent, Refusal, Unclear
from krebit_proxy.core.protocol import (
    Answer,
    Answered,
    Conflicted,
    Demanded,
    Failed,
    FreeLock,
    Locked,
    Phase,
    Read,
    ReadStore,
    Spend,
    WriteGrant,
    Written,
)
from krebit_proxy.core.secret import Secret
from krebit_proxy.core.spending import AT_ONCE, MISCONFIGURED_PAUSE
from tests.fakes.play import DOWN, Play, answers, grant, tokens

EXPIRED = grant(1, tokens(left=-1))


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
        (Refusal("temporarily_unavailable", "later"), "token_unavailable", 1),
        (Refusal("invalid_client"), "misconfigured", MISCONFIGURED_PAUSE),
        (Refusal("unauthorized_client", "not yours"), "misconfigured", MISCONFIGURED_PAUSE),
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
    assert told.denial is not None
    assert told.denial.code == code
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
    [write] = play.on(Answered(Refusal("invalid_grant", "gone")))
    assert isinstance(write, WriteGrant)
    assert write.grant.generation == 1
    assert write.grant.tokens == EXPIRED.tokens
    [told] = answers(play.on(Written()))

    assert told.denial is not None
    assert told.denial.code == "reauthorization_required"
    assert "invalid_grant: gone" in told.denial.detail
    assert play.reports == ["grant.refused"]
    assert play.later(3600) == [ReadStore()]
    assert play.on(Read(play.state.grant)) == []  # no token request ever again


def test_a_verdict_tells_of_an_earlier_attempt_whose_answer_was_lost() -> None:
    play = Play().holding(EXPIRED)
    suspicious = Grant(1, "acme", "app", EXPIRED.tokens, intent=Intent(0.0, "x", "other/17"))
    play.locked(suspicious)
    play.on(Written())
    [write] = play.on(Answered(Refusal("invalid_grant")))

    assert isinstance(write, WriteGrant)
    assert write.grant.verdict is not None
    assert "1970-01-01 00:00:00 UTC by other/17" in write.grant.verdict.reason


def test_a_verdict_that_meets_a_newer_generation_is_dropped() -> None:
    play = Play().spending(EXPIRED)
    play.on(Answered(Refusal("invalid_grant")))

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
