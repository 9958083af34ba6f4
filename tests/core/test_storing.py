"""Writes that must not be lost, and what is believed of a store that changes under us."""

from krebit_proxy.core.grant import Grant
from krebit_proxy.core.protocol import (
    Answer,
    Answered,
    Authorized,
    Conflicted,
    Demanded,
    Failed,
    FreeLock,
    Phase,
    Read,
    ReadStore,
    Stopping,
    WriteGrant,
    Written,
)
from krebit_proxy.core.storing import LONGEST_UNSTORED, SUPERSEDED
from tests.fakes.play import DOWN, NEW, Play, answers, grant, tokens

EXPIRED = grant(1, tokens(left=-1))
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
