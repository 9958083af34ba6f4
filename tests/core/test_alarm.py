"""When people are told that the grant is in trouble."""

import pytest

from krebit_proxy.core.alarm import Alarm, Message
from krebit_proxy.core.grant_status import GrantStatus

AFTER = 600.0
PERSON = ["setup_required", "reauthorization_required", "misconfigured"]


def status(code: str | None, *, ready: bool = False, generation: int = 1) -> GrantStatus:
    detail, hint = (f"It is {code}.", "Do something.") if code else ("Authorized.", "")
    return GrantStatus(
        ready=ready or code is None,
        code=code,
        detail=detail,
        hint=hint,
        generation=generation,
        obtained_at=None,
        expires_at=None,
        scope="",
        last_refresh_at=None,
        last_refresh=None,
        next_refresh_at=None,
        refreshing=False,
        lock_held=False,
        lock_holder=None,
        refresh_began_at=None,
        store_error=None,
    )


class Watch:
    """Looks every ten seconds; the wall clock is a million ahead."""

    def __init__(self, after: float = AFTER) -> None:
        self.alarm = Alarm(after)
        self.now = 0.0

    def sees(self, code: str | None, seconds: float = 10, *, ready: bool = False, generation: int = 1) -> list[Message]:
        seen = status(code, ready=ready, generation=generation)
        told = []
        for _ in range(int(seconds / 10)):
            told.append(self.alarm.look(seen, self.now, 1e6 + self.now))
            self.now += 10
        return [message for message in told if message]


@pytest.mark.parametrize("code", [*PERSON, "token_unavailable"])
def test_a_trouble_that_lasts_is_told_once_with_its_beginning(code: str) -> None:
    watch = Watch()

    assert watch.sees(None, 100) == []
    assert watch.sees(code, AFTER) == []
    assert watch.sees(code) == [Message("problem", code, f"It is {code}.", "Do something.", 1e6 + 100)]
    assert watch.sees(code, 10 * AFTER) == []


def test_a_verdict_is_told_while_the_old_token_still_works() -> None:
    assert [told.code for told in Watch().sees("reauthorization_required", 2 * AFTER, ready=True)] == [PERSON[1]]


def test_the_end_of_a_trouble_is_told_once_when_it_has_been_well_for_a_minute() -> None:
    watch = Watch()
    watch.sees("token_unavailable", 2 * AFTER)

    assert watch.sees(None, 50) == []
    assert watch.sees(None) == [Message("recovered", None, "Authorized.", "", 1e6 + 2 * AFTER - 10)]
    assert watch.sees(None, AFTER) == []


def test_a_trouble_that_was_not_told_has_no_end_to_tell() -> None:
    watch = Watch()

    assert watch.sees("token_unavailable", AFTER - 10) == []
    assert watch.sees(None, 10 * AFTER) == []


def test_troubles_far_apart_do_not_add_up() -> None:
    watch = Watch()

    for _ in range(10):
        assert watch.sees("token_unavailable", AFTER - 10) == []
        assert watch.sees(None, 60) == []


def test_a_trouble_that_comes_and_goes_is_one() -> None:
    watch = Watch()
    told = [message.event for _ in range(100) for message in watch.sees("token_unavailable") + watch.sees(None, 50)]

    assert told == ["problem"]


def test_each_trouble_is_told_anew() -> None:
    watch = Watch()
    told = [
        message.event for _ in range(2) for message in watch.sees("misconfigured", 2 * AFTER) + watch.sees(None, 100)
    ]

    assert told == ["problem", "recovered"] * 2


@pytest.mark.parametrize("code", PERSON)
def test_what_becomes_a_matter_for_a_person_is_told_too_but_only_once(code: str) -> None:
    watch = Watch()
    watch.sees("token_unavailable", 2 * AFTER)

    assert [message.code for message in watch.sees(code)] == [code]
    assert watch.sees("token_unavailable", 100) + watch.sees(code, 100) == []


def test_what_changes_before_it_is_told_counts_from_its_beginning() -> None:
    watch = Watch()
    watch.sees("token_unavailable", AFTER - 10)
    watch.sees("misconfigured")

    assert [(message.code, message.since) for message in watch.sees("misconfigured")] == [("misconfigured", 1e6)]


def test_who_never_authorized_is_not_alarmed() -> None:
    assert Watch().sees("setup_required", 10 * AFTER, generation=0) == []


def test_a_store_that_comes_back_empty_after_an_alarm_has_not_recovered() -> None:
    watch = Watch()
    watch.sees("misconfigured", 2 * AFTER, generation=0)

    assert [(told.event, told.code) for told in watch.sees("setup_required", AFTER, generation=0)] == [
        ("problem", "setup_required")
    ]


def test_with_little_patience_it_is_also_soon_well_again() -> None:
    watch = Watch(after=20)
    told = watch.sees("token_unavailable", 30) + watch.sees(None, 20)

    assert [message.event for message in told] == ["problem", "recovered"]
