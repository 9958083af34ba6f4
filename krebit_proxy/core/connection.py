"""The phases of a caller's connection: what leads from one to the next, how long each may last, and who makes room.

A connection is always in exactly one `ConnectionPhase`. Whatever happens to it is an `Event`, and `step` says which
phase comes next, by one table. A pair that is not in the table is a fault of the program: `step` raises `IllegalStep`,
and nothing has changed. A usual connection goes FRESH, SENT, IDLE, SENT, IDLE, ... and at last CLOSING:

    FRESH, IDLE, HEAD   wait for a request: none came yet, none since the last answer, or a part of a head
    SENT, WORKING       a request is being answered: sent upstream and nothing else to do, or in a task of its own
    READING, PAGE       the same for one of our own pages: its content is still to come, or the page answers
    BLOCKED, UNREAD     the caller does not take what was written to it, during an answer or between two
    SKIPPING, REFUSED   answered early, by the upstream or by us: what is left of the content is thrown away
    TUNNEL              raw bytes go both ways after a 101
    LINGERING, CLOSING  over: the caller may still send what nobody reads, or is still to take the last answer
    HANDSHAKE           TLS is not set up yet

Every phase has a deadline, so no connection can stay for ever, and says how it ends then. Some also make room: when
`limits.connections` is reached, a connection in one of them ends in the same way for the sake of a new caller.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

ANY: Final = 0.0  # bytes a second: any progress
_GOOD: Final = 1e6  # bytes a second: who sends that quickly may finish sending, and then reads our answer
_AFTER_THE_LAST: Final = 2.0  # seconds for a caller to see an answer that came before its request was read
_SPARED: Final = 1.0  # seconds without progress after which a caller counts as a slow reader


@dataclass(frozen=True)
class Timeouts:
    """The settings that deadlines are made of, in seconds."""

    header: float
    body: float
    keepalive: float
    idle: float
    connect: float
    response: float


# How a connection ends whose deadline has passed, or that makes room:
#   close    in an orderly way
#   linger   as an answer ends that came before its request was read
#   408      with an answer: the request came too slowly
#   504      with an answer: there was no other in time
#   reset    so that the caller sees that something was cut
#   drop     without anything more, for the last answer may still be on its way
Ending = Literal["close", "linger", "408", "504", "reset", "drop"]


@dataclass(frozen=True, slots=True, eq=False)
class ConnectionPhase:
    """One phase.

    Attributes:
        name: For errors and logs.
        deadline: How many seconds it may last.
        ending: What happens then.
        progress: Bytes a second, either way, with which the deadline begins anew; None: it never does.
        turn: When the connection ends in the same way to make room for another: lower ones first, and among equals the
            one that is longest in its phase. 0: never.
        spared: Seconds in this phase before it makes room.
        ready: Whether the next request can be answered.
        over: Whether no request will be answered any more. Such a connection does not count against the limit.
    """

    name: str
    deadline: Callable[[Timeouts], float]
    ending: Ending
    progress: float | None = None
    turn: int = 0
    spared: float = 0.0
    ready: bool = False
    over: bool = False

    def __repr__(self) -> str:
        return self.name


HANDSHAKE: Final = ConnectionPhase("HANDSHAKE", lambda t: t.header, "close", turn=3)
FRESH: Final = ConnectionPhase("FRESH", lambda t: min(t.keepalive, t.header), "close", turn=2, ready=True)
IDLE: Final = ConnectionPhase("IDLE", lambda t: t.keepalive, "close", turn=2, ready=True)
HEAD: Final = ConnectionPhase("HEAD", lambda t: t.header, "408", turn=3, ready=True)
# The parts of an exchange have deadlines of their own, with a better answer each. These are for what has none.
SENT: Final = ConnectionPhase("SENT", lambda t: 60 + t.connect + t.response, "504")
WORKING: Final = ConnectionPhase("WORKING", lambda t: 60 + t.connect + t.response + t.idle, "504", progress=ANY)
READING: Final = ConnectionPhase("READING", lambda t: t.body, "408", turn=4)
PAGE: Final = ConnectionPhase("PAGE", lambda t: 60 + t.connect + t.response, "reset", turn=5)
BLOCKED: Final = ConnectionPhase("BLOCKED", lambda t: t.idle, "reset", progress=ANY, turn=4, spared=_SPARED)
UNREAD: Final = ConnectionPhase("UNREAD", lambda t: t.idle, "reset", progress=ANY, turn=4)
SKIPPING: Final = ConnectionPhase("SKIPPING", lambda t: t.body, "linger", turn=4)
REFUSED: Final = ConnectionPhase("REFUSED", lambda _: _AFTER_THE_LAST, "linger", progress=_GOOD, turn=1)
TUNNEL: Final = ConnectionPhase("TUNNEL", lambda t: t.idle, "reset", progress=ANY)
LINGERING: Final = ConnectionPhase("LINGERING", lambda _: _AFTER_THE_LAST, "drop", progress=_GOOD, over=True)
CLOSING: Final = ConnectionPhase("CLOSING", lambda t: t.idle, "drop", progress=ANY, over=True)


# What happens to a connection:
#   begin    the first bytes of a head arrived
#   read     a request for a page waits for its content
#   send     a request was sent upstream
#   work     a task took a request up; page: so did a page
#   block    the caller does not take what is written; take: it does again
#   switch   a 101 made it a tunnel
#   next     answered; the next request may come
#   skip     answered; content is left. refuse: the same, and the answer was an error of our own
#   linger   answered for the last time; the caller may still be sending
#   end      closed or broken off, by either side
Event = Literal[
    "begin", "read", "send", "work", "page", "block", "take", "switch", "next", "skip", "refuse", "linger", "end"
]  # fmt: skip


class IllegalStep(Exception):
    """An event that cannot happen in this phase."""


_END: Final[dict[Event, ConnectionPhase]] = {"end": CLOSING}
_LAST: Final[dict[Event, ConnectionPhase]] = {**_END, "linger": LINGERING}
_ANSWERED: Final[dict[Event, ConnectionPhase]] = {**_LAST, "next": IDLE, "skip": SKIPPING, "refuse": REFUSED}
_BEGUN: Final[dict[Event, ConnectionPhase]] = {
    "read": READING,
    "send": SENT,
    "work": WORKING,
    "page": PAGE,
    "block": UNREAD,
}

TABLE: Final[Mapping[ConnectionPhase, Mapping[Event, ConnectionPhase]]] = {
    HANDSHAKE: _END,
    FRESH: {**_ANSWERED, **_BEGUN, "begin": HEAD},
    IDLE: {**_ANSWERED, **_BEGUN, "begin": HEAD},
    HEAD: {**_ANSWERED, **_BEGUN},
    SENT: {**_END, "next": IDLE, "work": WORKING},
    READING: {**_LAST, "refuse": REFUSED, "page": PAGE},
    PAGE: {**_LAST, "next": IDLE},
    WORKING: {**_ANSWERED, "block": BLOCKED, "switch": TUNNEL},
    BLOCKED: {**_END, "take": WORKING},
    UNREAD: {**_END, "take": IDLE},
    SKIPPING: {**_LAST, "next": IDLE},
    REFUSED: {**_LAST, "next": IDLE},
    TUNNEL: {**_LAST, "block": TUNNEL, "take": TUNNEL},
    LINGERING: _END,
    CLOSING: _END,
}


def step(phase: ConnectionPhase, event: Event) -> ConnectionPhase:
    """The phase that comes after `event`. Raises IllegalStep."""
    try:
        return TABLE[phase][event]
    except KeyError:
        raise IllegalStep(f"{event!r} cannot happen in the phase {phase}") from None
