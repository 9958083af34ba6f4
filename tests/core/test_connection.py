"""The phases of a caller's connection: every pair of phase and event, and what must hold for each phase."""

from dataclasses import replace
from itertools import product
from typing import Any, get_args

import pytest

from krebit_proxy.core import connection
from krebit_proxy.core.connection import (
    CLOSING,
    FRESH,
    HANDSHAKE,
    TABLE,
    ConnectionPhase,
    Event,
    IllegalStep,
    Pace,
    Timeouts,
    step,
)

PHASES = {name: phase for name, phase in vars(connection).items() if isinstance(phase, ConnectionPhase)}
EVENTS = get_args(Event)
TIMEOUTS = Timeouts(header=30, body=60, keepalive=75, idle=300, connect=10, response=60)

# Where each event leads, in the order of the columns; a dot is an event that cannot happen.
MEANT = """
           stand    begin read    send work    page   block   take    switch next skip     refuse  linger    end
 HANDSHAKE STANDING .     .       .    .       .      .       .       .      .    .        .       .         CLOSING
 FRESH     STANDING HEAD  READING SENT WORKING PAGE   UNREAD  .       .      IDLE SKIPPING REFUSED LINGERING CLOSING
 STANDING  .        .     .       .    .       PROBED .       .       .      .    .        .       LINGERING CLOSING
 PROBED    .        .     .       .    .       .      .       .       .      .    .        .       LINGERING CLOSING
 IDLE      .        HEAD  READING SENT WORKING PAGE   UNREAD  .       .      IDLE SKIPPING REFUSED LINGERING CLOSING
 HEAD      .        .     READING SENT WORKING PAGE   UNREAD  .       .      IDLE SKIPPING REFUSED LINGERING CLOSING
 SENT      .        .     .       .    WORKING .      .       .       .      IDLE .        .       LINGERING CLOSING
 READING   .        .     .       .    .       PAGE   .       .       .      .    .        REFUSED LINGERING CLOSING
 PAGE      .        .     .       .    .       .      .       .       .      IDLE .        REFUSED LINGERING CLOSING
 WORKING   .        .     .       .    .       .      BLOCKED .       TUNNEL IDLE SKIPPING REFUSED LINGERING CLOSING
 BLOCKED   .        .     .       .    .       .      .       WORKING .      .    .        .       .         CLOSING
 UNREAD    .        .     .       .    .       .      .       IDLE    .      .    .        .       .         CLOSING
 SKIPPING  .        .     .       .    .       .      .       .       .      IDLE .        .       LINGERING CLOSING
 REFUSED   .        .     .       .    .       .      .       .       .      IDLE .        .       LINGERING CLOSING
 TUNNEL    .        .     .       .    .       .      TUNNEL  TUNNEL  .      .    .        .       LINGERING CLOSING
 LINGERING .        .     .       .    .       .      .       .       .      .    .        .       .         CLOSING
 CLOSING   .        .     .       .    .       .      .       .       .      .    .        .       .         CLOSING
"""
COLUMNS, *ROWS = [line.split() for line in MEANT.strip().splitlines()]
GRID = {(row[0], event): next_one for row in ROWS for event, next_one in zip(COLUMNS, row[1:], strict=True)}


def test_the_grid_speaks_of_every_phase_and_every_event() -> None:
    assert set(GRID) == set(product(PHASES, EVENTS))
    assert set(TABLE) == set(PHASES.values())
    assert [phase.name for phase in PHASES.values()] == list(PHASES)


@pytest.mark.parametrize(("name", "event"), GRID)
def test_an_event_leads_where_it_should_or_is_an_error_that_names_both(name: str, event: Event) -> None:
    meant = GRID[name, event]
    if meant != ".":
        assert step(PHASES[name], event) is PHASES[meant]
        return
    with pytest.raises(IllegalStep) as illegal:
        step(PHASES[name], event)
    assert name in str(illegal.value)
    assert repr(event) in str(illegal.value)


def test_what_is_no_event_at_all_is_illegal_too() -> None:
    unknown: Any = "explode"
    with pytest.raises(IllegalStep, match="explode"):
        step(FRESH, unknown)


def test_a_phase_without_a_deadline_cannot_be_written() -> None:
    with pytest.raises(TypeError, match="deadline"):
        ConnectionPhase("ENDLESS", ending="close")  # type: ignore[call-arg]


def paced(*pieces: tuple[float, int], patience: float = 30) -> bool:
    """Whether content keeps the least rate to the end. Each piece: when it came, and how many bytes."""
    pace, received = Pace(0), 0
    for now, size in pieces:
        received += size
        if not pace.kept(received, now, patience):
            return False
    return True


def test_content_may_be_slow_for_thirty_seconds_but_not_longer() -> None:
    assert TIMEOUTS.pace == 30
    assert paced((29.9, 0))
    assert not paced((30, 0))
    assert not paced(*[(second, 200) for second in range(1, 31)])
    assert paced(*[(second, 250) for second in range(1, 1000)])
    assert paced((20, 0), (29, 240 * 30), (58, 0))
    assert not paced((1, 10**9), *[(second, 1) for second in range(2, 32)])


def test_content_that_may_not_come_is_not_missed() -> None:
    pace = Pace(0)
    pace.pause(0, 100)
    assert pace.kept(0, 129, 30)
    assert not pace.kept(0, 130, 30)


@pytest.mark.parametrize(("body", "pace"), [(1, 1), (30, 30), (60, 30), (600, 300)])
def test_who_sets_the_patience_for_bodies_sets_that_for_their_rate(body: float, pace: float) -> None:
    assert replace(TIMEOUTS, body=body).pace == pace


@pytest.mark.parametrize("phase", TABLE)
def test_every_phase_is_over_after_some_minutes_without_progress(phase: ConnectionPhase) -> None:
    assert 0 < phase.deadline(TIMEOUTS) <= 60 + TIMEOUTS.connect + TIMEOUTS.response + TIMEOUTS.idle


@pytest.mark.parametrize("phase", TABLE)
def test_every_phase_can_end_and_what_is_over_stays_over(phase: ConnectionPhase) -> None:
    assert step(phase, "end") is CLOSING
    if phase.over:
        assert not phase.ready
        assert all(after.over for after in TABLE[phase].values())


def test_every_phase_is_reached_by_somebody() -> None:
    reached, unseen = {HANDSHAKE, FRESH}, [HANDSHAKE, FRESH]
    while unseen:
        new = set(TABLE[unseen.pop()].values()) - reached
        reached |= new
        unseen += new

    assert reached == set(PHASES.values())


def test_room_is_made_by_the_refused_first_and_by_those_who_are_being_answered_never() -> None:
    order = [{phase.name for phase in TABLE if phase.turn == turn} for turn in range(1, 6)]

    assert order == [
        {"REFUSED"},
        {"FRESH", "IDLE"},
        {"HANDSHAKE", "HEAD", "UNREAD"},
        {"READING", "SKIPPING", "BLOCKED"},
        {"PAGE"},
    ]
    assert {phase.name for phase in TABLE if phase.seated and not phase.turn} == {"SENT", "WORKING", "TUNNEL"}
    assert {phase.name for phase in TABLE if not (phase.seated or phase.over)} == {"STANDING", "PROBED"}
    assert {phase.name for phase in TABLE if phase.ending == "408"} == {"HEAD", "READING"}


def test_the_deadline_of_a_tunnel_is_the_idle_timeout_and_of_a_refusal_two_seconds() -> None:
    assert PHASES["TUNNEL"].deadline(TIMEOUTS) == TIMEOUTS.idle
    assert PHASES["REFUSED"].deadline(TIMEOUTS) == PHASES["LINGERING"].deadline(TIMEOUTS) == 2
