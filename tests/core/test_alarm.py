"""When people are told that the grant is in trouble, in which words, and what becomes of a message that fails."""

from itertools import pairwise
from typing import Any

import pytest

from krebit_proxy.core.alarm import Alarm, Message, Outbox, trial
from tests.fakes.statuses import grant_status

AFTER = 600.0
HOUR, DAY = 3600.0, 86400.0
WALL = 1e6  # how far the wall clock is ahead
PERSON = ["setup_required", "reauthorization_required", "misconfigured"]


class Watch:
    """Looks every ten seconds."""

    def __init__(self, after: float = AFTER) -> None:
        self.alarm = Alarm(after)
        self.now = 0.0

    def sees(self, code: str | None, seconds: float = 10, **facts: Any) -> list[Message]:
        seen = grant_status(code, **facts)
        told = []
        for _ in range(int(seconds / 10)):
            told.append(self.alarm.look(seen, self.now, WALL + self.now))
            self.now += 10
        return [message for message in told if message]

    def runs_well(self) -> "Watch":
        """Past the first look, whose findings are older than the process."""
        self.sees(None, AFTER)
        return self


@pytest.mark.parametrize("code", ["setup_required", "misconfigured", "token_unavailable"])
def test_a_trouble_that_lasts_is_told_with_its_beginning(code: str) -> None:
    watch = Watch()

    assert watch.sees(None, 100) == []
    assert watch.sees(code, AFTER) == []
    assert watch.sees(code) == [Message("problem", code, f"It is {code}.", "Do something.", WALL + 100)]
    assert watch.sees(code, HOUR - 10) == []


def test_a_refused_refresh_token_calls_a_person_at_once() -> None:
    watch = Watch().runs_well()

    assert watch.sees("reauthorization_required") == [
        Message("problem", PERSON[1], f"It is {PERSON[1]}.", "Do something.", WALL + AFTER)
    ]


def test_it_is_told_while_the_old_token_still_works_with_the_time_that_is_left() -> None:
    [told] = Watch().runs_well().sees("reauthorization_required", ready=True, expires_at=WALL + AFTER + 1800)

    assert told.detail.startswith("It is reauthorization_required. Calls still work until ")
    assert told.detail.endswith(", in 30 minutes.")


def test_what_a_new_process_finds_is_no_news() -> None:
    """Else a process that is started again and again would tell of it each time."""
    for _ in range(10):
        assert Watch().sees("reauthorization_required", AFTER) == []

    assert [told.event for told in Watch().sees("reauthorization_required", AFTER + 10)] == ["problem"]


@pytest.mark.parametrize(("ready", "told"), [(True, 1), (False, 0)])
def test_a_refusal_right_after_the_start_is_news_while_the_token_is_still_good(ready: bool, told: int) -> None:
    assert len(Watch().sees("reauthorization_required", AFTER, ready=ready, last_refresh_at=WALL)) == told


def test_what_was_over_since_the_first_look_is_news_again() -> None:
    watch = Watch()
    watch.sees("reauthorization_required", 20)
    watch.sees(None, 100)

    assert len(watch.sees("reauthorization_required")) == 1


def times(watch: Watch, code: str, seconds: float) -> list[tuple[str, float]]:
    """Each message with the moment when it came."""
    told = []
    for _ in range(int(seconds / 10)):
        told += [(message.event, watch.now) for message in watch.sees(code)]
    return told


@pytest.mark.parametrize("code", PERSON)
def test_while_a_person_is_needed_it_is_told_again_at_growing_intervals(code: str) -> None:
    told = times(Watch().runs_well(), code, 4 * DAY)

    assert [event for event, _ in told] == ["problem"] + ["reminder"] * 5
    assert [later - earlier for (_, earlier), (_, later) in pairwise(told)] == [HOUR, 4 * HOUR, DAY, DAY, DAY]


def test_a_reminder_says_how_things_stand_now_and_since_when() -> None:
    watch = Watch().runs_well()
    watch.sees("reauthorization_required", HOUR)
    [reminder] = watch.sees("reauthorization_required", detail="The server says no, again.")

    assert (reminder.event, reminder.code) == ("reminder", "reauthorization_required")
    assert (reminder.detail, reminder.since) == ("The server says no, again.", WALL + AFTER)


def test_a_trouble_in_which_nobody_can_help_is_told_once() -> None:
    assert len(times(Watch(), "token_unavailable", 2 * DAY)) == 1


def test_another_matter_for_a_person_starts_the_intervals_anew() -> None:
    watch = Watch().runs_well()
    watch.sees("reauthorization_required", 5 * HOUR + 10)
    told = times(watch, "misconfigured", 2 * HOUR)

    assert [event for event, _ in told] == ["problem", "reminder"]
    assert told[1][1] - told[0][1] == HOUR


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


# The end of an authorization


def ending_at(end: float, *, fixed: bool = True) -> dict[str, Any]:
    return {"refresh_token_expires_at": WALL + end, "refresh_token_end_is_fixed": fixed}


def told_before(watch: Watch, end: float, until: float, code: str | None = None) -> list[tuple[str, float]]:
    """Each message until a moment, with the seconds that were left until `end`."""
    told = []
    while watch.now < until:
        told += [(message.event, end - watch.now + 10) for message in watch.sees(code, **ending_at(end))]
    return told


def test_a_fixed_end_is_told_a_week_and_a_day_before() -> None:
    end = 8 * DAY

    assert told_before(Watch(), end, end + HOUR) == [("expiring", 7 * DAY), ("expiring", DAY)]


def test_the_warning_has_the_date_in_words() -> None:
    [message] = Watch().sees(None, AFTER + 10, **ending_at(3 * DAY))

    assert message.code is None
    assert message.detail.startswith("The authorization ends on ")
    assert "January 1970" in message.detail
    assert message.needs_setup


@pytest.mark.parametrize("facts", [{}, ending_at(HOUR, fixed=False)])
def test_without_a_fixed_end_nobody_is_warned(facts: dict[str, Any]) -> None:
    assert Watch().sees(None, HOUR, **facts) == []


def test_who_starts_shortly_before_the_end_is_warned_once() -> None:
    assert len(told_before(Watch(), HOUR, HOUR)) == 1


def test_a_new_process_does_not_warn_again_at_each_start() -> None:
    for _ in range(10):
        assert Watch().sees(None, AFTER, **ending_at(HOUR)) == []


def test_another_authorization_with_an_end_is_warned_of_anew() -> None:
    watch = Watch()
    told = told_before(watch, HOUR, 2000) + told_before(watch, 3 * HOUR, 4000)

    assert [event for event, _ in told] == ["expiring", "expiring"]


def test_an_end_that_wavers_by_seconds_is_one_end() -> None:
    watch = Watch()
    told = [message for number in range(100) for message in watch.sees(None, 20, **ending_at(DAY - number % 7))]

    assert len(told) == 1


def test_who_is_told_to_authorize_now_is_not_told_of_the_end_as_well() -> None:
    watch = Watch().runs_well()

    assert [event for event, _ in told_before(watch, HOUR, 3000, "reauthorization_required")] == ["problem"]


# The line for a chat

LINK = "http://localhost:8321/setup"


@pytest.mark.parametrize(
    ("message", "link", "expected"),
    [
        (
            Message("problem", "reauthorization_required", "It is over.", "Open /setup to authorize again.", 0),
            LINK,
            f"krebit-proxy at acme: It is over. Open /setup to authorize again: {LINK}",
        ),
        (
            Message("problem", "token_unavailable", "It is away.", "Wait.", 0),
            None,
            "krebit-proxy at acme: It is away. Wait.",
        ),
        (
            trial(0),
            None,
            "krebit-proxy at acme: This is a test message. Nothing is wrong, and there is nothing to do.",
        ),
        (
            Message("problem", "misconfigured", "Line 1\nline 2 <!channel>", "@all\x1b", 0),
            None,
            "krebit-proxy at acme: Line 1 line 2 \u2039!channel\u203a (at)all",
        ),
    ],
)
def test_the_line_says_what_happened_where_and_what_to_do(message: Message, link: str | None, expected: str) -> None:
    assert message.text("acme", link, 0) == expected


def test_a_reminder_says_since_when() -> None:
    text = Message("reminder", "misconfigured", "It is wrong.", "Mend it.", 0).text("acme", None, 5 * HOUR)

    assert text.startswith("krebit-proxy at acme still needs you, since ")
    assert text.endswith(", 5 hours ago: It is wrong. Mend it.")


def test_a_recovery_needs_no_more_words() -> None:
    text = Message("recovered", None, "Authorized.", "", 0).text("acme", None, 60)

    assert text.startswith("krebit-proxy at acme works again since ")
    assert text.endswith(", 60 seconds ago.")


# Delivery

PROBLEM = Message("problem", "misconfigured", "It is wrong.", "Mend it.", 0)
REMINDER = Message("reminder", "misconfigured", "It is wrong.", "Mend it.", 0)
RECOVERED = Message("recovered", None, "Authorized.", "", 0)


class Post:
    """A way that says `answers`, one after the other; the clock goes to the next try by itself."""

    def __init__(self, *pauses: float) -> None:
        self.outbox = Outbox(pauses)
        self.now = 0.0
        self.heard: list[tuple[str, bool, bool]] = []  # the answer, and what the log should hear

    def delivers(self, message: Message, *answers: str) -> list[str]:
        """The events that are tried; "?" is an answer that leaves open whether the message arrived."""
        self.outbox.put(message, self.now)
        events = []
        for answer in answers:
            sent = self.outbox.due(self.now)
            assert sent is not None
            events.append(sent.event)
            tried = self.outbox.tried(sent, answer, self.now, unclear=answer == "?")
            self.heard.append((answer, tried.changed, tried.given_up))
            self.now = max(self.now, min(self.outbox.at, self.now + DAY))
        return events


def test_a_message_that_arrives_is_not_sent_again() -> None:
    post = Post(5)

    assert post.delivers(PROBLEM, "") == ["problem"]
    assert post.outbox.due(post.now + DAY) is None
    assert post.outbox.due(post.now) is None


def test_a_message_that_fails_is_tried_again_after_pauses_and_given_up_in_the_end() -> None:
    post = Post(5, 30)
    post.outbox.put(PROBLEM, 0)
    tries = []
    for now in range(100):
        if (sent := post.outbox.due(now)) is not None:
            tries.append(now)
            given_up = post.outbox.tried(sent, "status 404", now).given_up

    assert tries == [0, 5, 35]
    assert given_up
    assert post.outbox.due(DAY) is None


def test_the_log_hears_of_a_failure_once_and_of_each_change() -> None:
    post = Post(5, 5, 5, 5)
    post.delivers(PROBLEM, "status 500", "status 500", "status 404", "status 404", "status 404")
    post.delivers(REMINDER, "status 404", "")

    assert [changed for _, changed, _ in post.heard] == [True, False, True, False, False, False, True]


def test_nobody_hears_of_the_end_of_a_trouble_that_did_not_reach_them() -> None:
    post = Post(5)
    post.delivers(PROBLEM, "status 404", "status 404")

    assert post.delivers(RECOVERED) == []
    assert post.outbox.due(post.now) is None


@pytest.mark.parametrize("answer", ["", "?"])
def test_whoever_may_have_heard_of_a_trouble_hears_of_its_end(answer: str) -> None:
    post = Post(5)
    post.delivers(PROBLEM, answer)

    assert post.delivers(RECOVERED, "status 500", "") == ["recovered", "recovered"]


def test_each_end_is_told_once() -> None:
    post = Post(5)
    post.delivers(PROBLEM, "")
    post.delivers(RECOVERED, "")
    post.delivers(PROBLEM, "status 404")
    post.outbox.put(RECOVERED, post.now)

    assert post.outbox.due(post.now) is None


def test_a_reminder_of_what_never_arrived_is_the_problem_itself() -> None:
    post = Post()
    post.delivers(PROBLEM, "no connection")

    assert post.delivers(REMINDER, "") == ["problem"]
    assert post.delivers(REMINDER, "") == ["reminder"]


def test_a_newer_message_takes_the_place_of_one_that_is_on_its_way() -> None:
    outbox = Outbox((5.0,))
    outbox.put(PROBLEM, 0)
    on_its_way = outbox.due(0)
    assert on_its_way is not None
    outbox.put(RECOVERED, 1)
    outbox.tried(on_its_way, "", 2)

    assert outbox.due(2) == RECOVERED


def test_warnings_are_sent_whatever_arrived_before() -> None:
    assert Post().delivers(Message("expiring", None, "It ends.", "Go on.", 0), "") == ["expiring"]
