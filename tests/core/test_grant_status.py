"""What callers, people and probes are told."""

import pytest

from krebit_proxy.core.events import Answer, Answered, Demanded, Denial, Failed, Locked, Phase, Read, Woke, Written
from krebit_proxy.core.freshness import Moment
from krebit_proxy.core.grant import Grant, Intent, Verdict
from krebit_proxy.core.grant_status import GrantStatus, denial, status
from krebit_proxy.core.lifecycle import LOOK_EVERY
from krebit_proxy.core.token_response import NotSent, Refusal, RefusalKind
from tests.fakes.play import DOWN, NEW, Play, answers, grant, tokens


def told(play: Play, caller: int = 1) -> Denial | None:
    [answer] = answers(play.on(Demanded(caller)))
    return answer.told if isinstance(answer.told, Denial) else None


def seen(play: Play) -> GrantStatus:
    return status(play.state, Moment(play.now, play.now))


def test_nothing_stored_means_setup() -> None:
    play = Play().holding(None)

    refusal = told(play)
    assert refusal is not None
    assert refusal.code == "setup_required"
    assert "/setup" in refusal.hint
    assert seen(play).code == "setup_required"
    assert not seen(play).ready


def test_a_good_token_is_ready_and_says_when_it_is_renewed() -> None:
    view = seen(Play(ahead=360).holding(grant()))

    assert view.ready
    assert view.code is None
    assert (view.generation, view.expires_at, view.next_refresh_at) == (1, 4000, 3640)
    assert not view.refreshing


def test_before_the_first_look_at_the_store_a_caller_waits() -> None:
    play = Play()
    play.on(Woke())

    assert answers(play.on(Demanded(1))) == []
    assert seen(play).code == "token_unavailable"
    assert answers(play.on(Read(grant()))) == [Answer(1)]


def test_a_store_that_only_a_person_can_mend_is_misconfigured_without_a_time() -> None:
    play = Play()
    play.on(Woke())
    play.on(Failed(Denial("misconfigured", "The grant file is damaged.", "Restore it.")))

    assert told(play) == Denial("misconfigured", "The grant file is damaged.", "Restore it.")


def test_what_is_left_of_the_old_token_is_used_when_nothing_better_comes() -> None:
    held = grant(1, tokens(left=20))
    play = Play().spending(held)
    assert answers(play.on(Demanded(1))) == []
    play.on(Answered(NotSent("no connection")))

    assert answers(play.on(Written())) == [Answer(1)]
    view = seen(play)
    assert view.ready
    assert view.code == "token_unavailable"


def test_a_verdict_is_shown_while_the_old_token_still_works() -> None:
    play = Play().spending(grant(1, tokens(left=200)))
    play.on(Answered(Refusal("invalid_grant", kind=RefusalKind.VERDICT)))
    play.on(Written())

    assert told(play) is None
    view = seen(play)
    assert view.ready
    assert view.code == "reauthorization_required"
    assert view.last_refresh == "invalid_grant"
    assert view.next_refresh_at is None


def test_a_grant_without_a_refresh_token_ends_with_its_access_token() -> None:
    play = Play().holding(grant(1, tokens(left=100, refresh=False)))
    assert told(play) is None
    assert seen(play).code is None
    play.later(200)
    play.on(Read(None))

    refusal = told(play, 2)
    assert refusal is not None
    assert refusal.code == "reauthorization_required"
    assert seen(play).code == "reauthorization_required"


def test_an_answer_that_is_not_stored_is_shown_with_the_lock_that_is_kept() -> None:
    play = Play().spending(grant(1, tokens(left=-1)))
    play.on(Answered(NEW))
    play.on(Failed(DOWN))

    view = seen(play)
    assert view.ready
    assert view.lock_held
    assert (view.lock_holder, view.refresh_began_at) == ("host/1", None)
    assert view.store_error == "The store failed."
    assert view.code == "token_unavailable"


def test_a_refresh_that_is_under_way_is_shown() -> None:
    play = Play().spending(grant(1, tokens(left=200)))

    assert seen(play).refreshing
    assert (seen(play).lock_holder, seen(play).refresh_began_at) == ("host/1", 1000)
    assert play.phase is Phase.SPENDING


def test_who_else_is_at_a_refresh_or_has_broken_one_off_is_shown() -> None:
    play = Play().holding(grant(1, intent=Intent(900.0, "abcdef01", "elsewhere/7")))
    assert not seen(play).lock_held
    assert (seen(play).lock_holder, seen(play).refresh_began_at) == ("elsewhere/7", 900)
    play.later(LOOK_EVERY)
    play.on(Read(grant(1)))

    assert (seen(play).lock_holder, seen(play).refresh_began_at) == (None, None)


def test_an_intent_of_another_tells_nothing_of_when_we_took_the_lock() -> None:
    play = Play().holding(grant(1, tokens(left=-1)))
    play.on(Locked())
    play.on(Read(grant(1, tokens(left=-1), intent=Intent(900.0, "abcdef01", "elsewhere/7"))))

    assert (seen(play).lock_holder, seen(play).refresh_began_at) == ("host/1", None)


@pytest.mark.parametrize(
    ("held", "code"),
    [
        (None, "setup_required"),
        (Grant(3, "acme", "app", None), "setup_required"),
        (grant(1, tokens(left=-1), verdict=Verdict(1, "no")), "reauthorization_required"),
        (grant(1, tokens(left=-1, refresh=False)), "reauthorization_required"),
        (grant(1, tokens(left=-1)), "token_unavailable"),
    ],
)
def test_every_reason_has_its_code(held: Grant | None, code: str) -> None:
    play = Play().holding(held)

    assert denial(play.state, Moment(play.now, play.now)).code == code
