"""The phases of a caller's connection: every pair of phase and event, and what must hold for each phase."""

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
    Timeouts,
    step,
)

PHASES = {name: phase for name, phase in vars(connection).items() if isinstance(phase, ConnectionPhase)}
EVENTS = get_args(Event)
TIMEOUTS = Timeouts(header=30, body=60, keepalive=75, idle=300, connect=10, response=60)

# Where each event leads, in the order of the columns; a dot is an event that cannot happen.
MEANT = """
           begin read    send work    page block   take    switch next skip     refuse  linger    end
 HANDSHAKE .     .       .    .       .    .       .       .      .    .        .       .         CLOSING
 FRESH     HEAD  READING SENT WORKING PAGE UNREAD  .       .      IDLE SKIPPING REFUSED LINGERING CLOSING
 IDLE      HEAD  READING SENT WORKING PAGE UNREAD  .       .      IDLE SKIPPING REFUSED LINGERING CLOSING
 HEAD      .     READING SENT WORKING PAGE UNREAD  .       .      IDLE SKIPPING REFUSED LINGERING CLOSING
 SENT      .     .       .    WORKING .    .       .       .      IDLE .        .       LINGERING CLOSING
 READING   .     .       .    .       PAGE .       .       .      .    .        REFUSED LINGERING CLOSING
 PAGE      .     .       .    .       .    .       .       .      IDLE .        .       LINGERING CLOSING
 WORKING   .     .       .    .       .    BLOCKED .       TUNNEL IDLE SKIPPING REFUSED LINGERING CLOSING
 BLOCKED   .     .       .    .       .    .       WORKING .      .    .        .       .         CLOSING
 UNREAD    .     .       .    .       .    .       IDLE    .      .    .        .       .         CLOSING
 SKIPPING  .     .       .    .       .    .       .       .      IDLE .        .       LINGERING CLOSING
 REFUSED   .     .       .    .       .    .       .       .      IDLE .        .       LINGERING CLOSING
 TUNNEL    .     .       .    .       .    TUNNEL  TUNNEL  .      .    .        .       LINGERING CLOSING
 LINGERING .     .       .    .       .    .       .       .      .    .        .       .         CLOSING
 CLOSING   .     .       .    .       .    .       .       .      .    .        .       .         CLOSING
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
        {"HANDSHAKE", "HEAD"},
        {"READING", "SKIPPING", "BLOCKED", "UNREAD"},
        {"PAGE"},
    ]
    assert {phase.name for phase in TABLE if not (phase.turn or phase.over)} == {"SENT", "WORKING", "TUNNEL"}
    assert {phase.name for phase in TABLE if phase.ending == "408"} == {"HEAD", "READING"}


def test_the_deadline_of_a_tunnel_is_the_idle_timeout_and_of_a_refusal_two_seconds() -> None:
    assert PHASES["TUNNEL"].deadline(TIMEOUTS) == TIMEOUTS.idle
    assert PHASES["REFUSED"].deadline(TIMEOUTS) == PHASES["LINGERING"].deadline(TIMEOUTS) == 2
