"""Plays one process of the grant's state machine by hand: an event in, the effects out."""

from typing import Final

from krebit_proxy.core.events import (
    Answer,
    Denial,
    Effect,
    Event,
    Locked,
    Phase,
    Policy,
    Read,
    Report,
    State,
    WakeAt,
    Woke,
    Written,
)
from krebit_proxy.core.freshness import Moment
from krebit_proxy.core.grant import Grant, Tokens
from krebit_proxy.core.lifecycle import step
from krebit_proxy.core.secret import Secret
from krebit_proxy.core.token_response import Issued

DOWN: Final = Denial("token_unavailable", "The store failed.", "Wait.")


def tokens(number: int = 1, *, left: float = 3000, refresh: bool = True, at: float = 1000.0) -> Tokens:
    """Tokens with a lifetime of an hour, `left` seconds of it to go at `at`."""
    return Tokens(Secret(f"a{number}"), Secret(f"r{number}") if refresh else None, at + left - 3600, at + left)


def grant(generation: int = 1, held: Tokens | None = None, **notes: object) -> Grant:
    """A grant of the organization that all tests are about."""
    return Grant(generation, "acme", "app", held or tokens(generation), **notes)  # type: ignore[arg-type]


class Play:
    """One process. `now` is moved by the test; `alarm` is when the machine wants to be woken."""

    def __init__(self, **policy: object) -> None:
        self.now = 1000.0
        self.alarm = 0.0
        self.state = State(Policy("acme", "app", "host/1", **policy))  # type: ignore[arg-type]

    @property
    def phase(self) -> Phase:
        """What the process is waiting for."""
        return self.state.phase

    def on(self, event: Event) -> list[Effect]:
        """What follows, but for the alarm and the log."""
        self.state, effects = step(self.state, event, Moment(self.now, self.now, 1.0))
        self.alarm = next(effect.boot for effect in effects if isinstance(effect, WakeAt))
        self.reports = [effect.event for effect in effects if isinstance(effect, Report)]
        return [effect for effect in effects if not isinstance(effect, WakeAt | Report)]

    def holding(self, held: Grant | None) -> "Play":
        """The process has started and found this in the store."""
        self.on(Woke())
        self.on(Read(held))
        return self

    def locked(self, held: Grant | None) -> list[Effect]:
        """The process gets the lock that it waits for, and finds this in the store."""
        self.on(Locked())
        return self.on(Read(held))

    def spending(self, held: Grant) -> "Play":
        """The process has stored its intent, and the token request is under way."""
        self.holding(held)
        self.locked(held)
        self.on(Written())
        assert self.phase is Phase.SPENDING
        return self

    def later(self, seconds: float) -> list[Effect]:
        """Time passes, and the process wakes."""
        self.now += seconds
        return self.on(Woke())


def answers(effects: list[Effect]) -> list[Answer]:
    """What callers were told."""
    return [effect for effect in effects if isinstance(effect, Answer)]


NEW: Final = Issued(tokens(2, left=3600))
