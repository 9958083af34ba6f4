"""The phases of a caller's connection: how they follow each other, how long each may last, and which make room.

A connection is always in exactly one `ConnectionPhase`. Everything that happens to it is an `Event`, and `step` looks
up the next phase in one table. A pair that is not in the table is a bug: `step` raises `IllegalStep`, and nothing has
changed. The usual connection goes FRESH, SENT, IDLE, SENT, IDLE, ... and finally CLOSING:

    HANDSHAKE   TLS is not set up yet
    FRESH       no request has come yet
    STANDING    the same, and there is no seat: only a probe is answered
    PROBED      a probe without a seat is being answered
    IDLE        no request has come since the last response
    HEAD        a part of a request's head has come
    SENT        the request went upstream; the response is awaited, and no task is needed for that
    WORKING     a task answers the request
    READING     a request for one of our own pages waits for its content
    PAGE        the page answers
    BLOCKED     the caller does not read the response that is being written
    UNREAD      the caller does not read the last response, and nothing is under way
    SKIPPING    the upstream has answered early; the rest of the content is read and dropped, so that callers that read
                only after they have sent all of it get the response
    REFUSED     the same, but we have answered with an error
    TUNNEL      after a 101: raw bytes go both ways
    LINGERING   over; the caller may still be sending, which is dropped
    CLOSING     over; the caller may still have to read the last response

Every phase has a deadline, so no connection stays for ever, and an `Ending` for that moment. Some phases also make
room: if `limits.connections` is reached, a connection in one of them ends in the same way for a new caller.

A body that arrives too slowly ends its request earlier. See `Pace`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

ANY: Final = 0.0  # bytes per second: any progress
LEAST: Final = 240.0  # bytes per second; a slower caller holds a seat for nothing
_GOOD: Final = 1e6  # bytes per second; a caller that sends so fast may finish, and then reads our response
_FAIR: Final = 1e4  # bytes per second; so fast it may finish if the upstream has answered early, as slow lines do
_AFTER_THE_LAST: Final = 2.0  # seconds for the caller to read a response to a request that is still coming
_SPARED: Final = 1.0  # seconds without progress until a caller counts as a slow reader
_YOUNG: Final = 1.0  # seconds in which an honest caller's first request comes
_PROBE: Final = 1.0  # seconds for a caller without a seat to send its probe
_PACED: Final = 30.0  # seconds over which the least rate is measured, unless the settings change it


@dataclass(frozen=True)
class Timeouts:
    """The settings that make up the deadlines, in seconds."""

    header: float
    body: float
    keepalive: float
    idle: float
    connect: float
    response: float

    @property
    def pace(self) -> float:
        """How long a body may stay below the least rate. Less or more patience for bodies changes it, too."""
        return max(min(_PACED, self.body), self.body / 2)

    @property
    def told(self) -> int:
        """Seconds that the caller is told it may be idle, at least a second less than it may really be. 0: not told."""
        return int(self.keepalive)


# How a connection ends when its deadline passes or when it makes room:
#   close    it is closed
#   linger   it goes to LINGERING, so that the caller can read the response before the close
#   408      a response says that the request came too slowly
#   503      a response says that all connections are busy
#   504      a response says that the upstream did not answer in time
#   reset    it breaks off, so that the caller sees that something is missing
#   drop     it is closed at once; nothing more is sent after the last response
Ending = Literal["close", "linger", "408", "503", "504", "reset", "drop"]


@dataclass(frozen=True, slots=True, eq=False)
class ConnectionPhase:
    """One phase. The module lists them.

    Attributes:
        name: For errors and logs.
        deadline: How many seconds it may last.
        ending: How the connection ends when the deadline passes.
        progress: Bytes per second, in either direction, that start the deadline anew. None: nothing does.
        turn: The order in which connections end to make room for another: lower numbers first, and among equals the one
            that has been in its phase longest. 0: never.
        spared: Seconds in this phase until the connection may end to make room.
        young: Seconds in this phase in which it makes room only if no other connection can.
        ready: Whether the next request can be answered.
        paced: Whether a body that is arriving must keep the least rate.
        seated: Whether the connection counts against the limit.
        over: Whether no further request will be answered.
    """

    name: str
    deadline: Callable[[Timeouts], float]
    ending: Ending
    progress: float | None = None
    turn: int = 0
    spared: float = 0.0
    young: float = 0.0
    ready: bool = False
    paced: bool = False
    seated: bool = True
    over: bool = False

    def __repr__(self) -> str:
        return self.name


HANDSHAKE: Final = ConnectionPhase("HANDSHAKE", lambda t: t.header, "close", turn=3, young=_YOUNG)
FRESH: Final = ConnectionPhase("FRESH", lambda t: min(t.keepalive, t.header), "close", turn=2, young=_YOUNG, ready=True)
STANDING: Final = ConnectionPhase("STANDING", lambda _: _PROBE, "503", seated=False)
PROBED: Final = ConnectionPhase("PROBED", lambda _: _AFTER_THE_LAST, "reset", seated=False)
IDLE: Final = ConnectionPhase("IDLE", lambda t: t.keepalive + (t.told > 0), "close", turn=2, ready=True)
HEAD: Final = ConnectionPhase("HEAD", lambda t: t.header, "408", turn=3, young=_YOUNG, ready=True)
# The steps of an exchange have deadlines and errors of their own. These are a safety net for all that has none.
SENT: Final = ConnectionPhase("SENT", lambda t: 60 + t.connect + t.response, "504")
WORKING: Final = ConnectionPhase(
    "WORKING", lambda t: 60 + t.connect + t.response + t.idle, "504", progress=ANY, paced=True
)
READING: Final = ConnectionPhase("READING", lambda t: t.body, "408", turn=4, paced=True)
PAGE: Final = ConnectionPhase("PAGE", lambda t: 60 + t.connect + t.response, "reset", turn=5)
BLOCKED: Final = ConnectionPhase(
    "BLOCKED", lambda t: t.idle, "reset", progress=LEAST, turn=4, spared=_SPARED, paced=True
)
UNREAD: Final = ConnectionPhase("UNREAD", lambda t: t.idle, "reset", progress=LEAST, turn=3)
SKIPPING: Final = ConnectionPhase("SKIPPING", lambda t: t.body, "linger", progress=_FAIR, turn=4)
REFUSED: Final = ConnectionPhase("REFUSED", lambda _: _AFTER_THE_LAST, "linger", progress=_GOOD, turn=1)
TUNNEL: Final = ConnectionPhase("TUNNEL", lambda t: t.idle, "reset", progress=ANY)
LINGERING: Final = ConnectionPhase(
    "LINGERING", lambda _: _AFTER_THE_LAST, "drop", progress=_GOOD, seated=False, over=True
)
CLOSING: Final = ConnectionPhase("CLOSING", lambda t: t.idle, "drop", progress=ANY, seated=False, over=True)


# What happens to a connection:
#   stand    no seat is free
#   begin    the first bytes of a head arrived
#   read     a request for a page waits for its content
#   send     a request was sent upstream
#   work     a task started to answer the request
#   page     a page started to answer the request
#   block    the caller stopped reading
#   take     the caller reads again
#   switch   a 101 made it a tunnel
#   next     the response is complete; the next request may come
#   skip     the response is complete, but the content of the request is not
#   refuse   the same, and the response was an error of our own
#   linger   the last response is complete; the caller may still be sending
#   end      either side closed or reset the connection
Event = Literal[
    "stand", "begin", "read", "send", "work", "page", "block", "take", "switch", "next", "skip", "refuse", "linger",
    "end",
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
    HANDSHAKE: {**_END, "stand": STANDING},
    FRESH: {**_ANSWERED, **_BEGUN, "begin": HEAD, "stand": STANDING},
    STANDING: {**_LAST, "page": PROBED},
    PROBED: _LAST,
    IDLE: {**_ANSWERED, **_BEGUN, "begin": HEAD},
    HEAD: {**_ANSWERED, **_BEGUN},
    SENT: {**_LAST, "next": IDLE, "work": WORKING},
    READING: {**_LAST, "refuse": REFUSED, "page": PAGE},
    PAGE: {**_LAST, "next": IDLE, "refuse": REFUSED},
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
    """The phase after `event`. Raises IllegalStep if the table has none."""
    try:
        return TABLE[phase][event]
    except KeyError:
        raise IllegalStep(f"{event!r} cannot happen in the phase {phase}") from None


class Pace:
    """Tells whether the content of one request arrives at the least rate."""

    __slots__ = ("_mark", "_since")

    def __init__(self, now: float) -> None:
        """`now`: the time in seconds, by any clock that never goes back."""
        self._since = now
        self._mark = 0

    def pause(self, received: int, now: float) -> None:
        """Starts anew: until `now` the caller could or should not send. `received`: bytes so far."""
        self._since, self._mark = now, received

    def kept(self, received: int, now: float, patience: float) -> bool:
        """Whether the average was good enough at some moment in the last `patience` seconds.

        The average starts anew at each such moment. So nobody who was fast once may be slow for ever.
        """
        if received - self._mark > LEAST * (now - self._since):
            self.pause(received, now)
        return now - self._since < patience
