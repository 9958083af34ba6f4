"""When to tell people about the grant, in which words, and what to do when a message does not arrive.

`Alarm` looks at the grant again and again, and says what to tell:

    problem     something is wrong. Most troubles pass by themselves, or somebody is already at work on them. Those must
                last for `notify.after` first. A refresh token that the authorization server refuses is told at once:
                only a person who authorizes again ends that.
    reminder    a person is still needed: 1 hour after the problem, 4 hours after that, then once a day.
    expiring    the authorization will end, whatever is renewed: a week before, and a day before.
    recovered   all has been well for a while again. Told only after a problem.

A trouble that goes for less than a minute and comes back is one trouble. What is wrong from the start of a process was
told by the one before: it must last for `notify.after` too, so that a proxy that is started again and again raises no
storm. The same holds for an end that is known from the store, and not from a renewal.

`Outbox` holds what one way of `notify` still has to deliver: at most one message, the newest.
"""

from dataclasses import dataclass, replace
from math import inf
from typing import Final

from krebit_proxy.core.grant_status import GrantStatus
from krebit_proxy.core.notices import WEEK, ending, still_served
from krebit_proxy.core.times import moment
from krebit_proxy.errors import SETUP_CODES

STEADY: Final = 60.0  # seconds that all must have been well, at most, before a trouble counts as over
REMINDERS: Final = (3600.0, 4 * 3600.0, 86400.0)  # seconds between one message and the next; the last one repeats
EXPIRING: Final = (WEEK, 86400.0)  # seconds before a fixed end
SAME_END: Final = 60.0  # seconds; servers that say how long is left make one end a little different each time
_MUST_ACT: Final = SETUP_CODES | {"misconfigured"}
_AT_ONCE: Final = "reauthorization_required"
# Slack and Mattermost take these for markup, and for a call to all people of a channel.
_MARKUP: Final = str.maketrans({"<": "\N{SINGLE LEFT-POINTING ANGLE QUOTATION MARK}",
                                ">": "\N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK}",
                                "@": "(at)"})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Message:
    """What to tell. `since`: when that began, in seconds since the epoch."""

    event: str  # "problem", "reminder", "expiring", "recovered" or "test"
    code: str | None  # one of errors.CODES when something is wrong
    detail: str
    hint: str
    since: float

    @property
    def needs_setup(self) -> bool:
        """Whether a person can do at /setup what the message asks for."""
        return self.code in SETUP_CODES or self.event == "expiring"

    def text(self, organization: str, setup_url: str | None, now: float) -> str:
        """The message as one line for a chat: what happened, where, and what to do.

        Args:
            organization: whose grant it is.
            setup_url: where a person authorizes again, if that helps.
            now: seconds since the epoch.
        """
        who, since = f"krebit-proxy at {organization}", moment(self.since, now)
        if self.event == "recovered":
            return f"{who} works again since {since}."
        start = f"{who} still needs you, since {since}" if self.event == "reminder" else who
        hint = f"{self.hint.removesuffix('.')}: {setup_url}" if setup_url else self.hint
        line = f"{start}: {self.detail} {hint}".translate(_MARKUP)
        return " ".join("".join(char if char.isprintable() else " " for char in line).split())


def trial(now: float) -> Message:
    """The message that tries out whether alarms arrive."""
    return Message("test", None, "This is a test message.", "Nothing is wrong, and there is nothing to do.", now)


class Alarm:
    """Decides at each look whether there is something to tell. Two clocks: one that never jumps, and the wall clock."""

    def __init__(self, after: float) -> None:
        """`after`: the setting `notify.after`, seconds."""
        self._after = after
        self._steady = min(after, STEADY)
        self._first: float | None = None  # when the first look was
        self._seen_well = False  # by this process
        self._began: float | None = None  # when this trouble was first seen
        self._seen = 0.0  # when it was last seen
        self._told: set[str] = set()  # the codes that people have been told of in this trouble
        self._told_at = 0.0  # when they were told last
        self._reminders = 0  # since they were told of the newest code
        self._end = -inf  # the fixed end that `_warned` is about, by the wall clock
        self._warned = inf  # the shortest of `EXPIRING` that people have been told of

    def look(self, status: GrantStatus, now: float, wall: float) -> Message | None:
        """What to tell at `now`, if anything. `wall` is the same moment in seconds since the epoch."""
        if self._first is None:
            self._first = now
        self._seen_well |= status.code is None
        # Who never authorized learns from the setup itself what to do.
        unused = status.code == "setup_required" and status.generation == 0 and not self._told
        if status.code is not None and not unused:
            return self._trouble(status, status.code, now, wall)
        if self._began is not None:
            return self._well(status, now, wall)
        # An end that this process has only read of was told of by the one before.
        seen_here = status.last_refresh_at is not None
        return self._expiring(status, wall) if seen_here or now - self._first >= self._after else None

    def _trouble(self, status: GrantStatus, code: str, now: float, wall: float) -> Message | None:
        if self._began is None:
            self._began = now
        self._seen, lasted = now, now - self._began
        event = "problem"
        if code not in self._told and (code in _MUST_ACT or not self._told):
            if lasted < self._after and not (code == _AT_ONCE and self._is_news(status)):
                return None
            self._told.add(code)
            self._reminders = 0
        elif code in _MUST_ACT and now - self._told_at >= REMINDERS[min(self._reminders, len(REMINDERS) - 1)]:
            event = "reminder"
            self._reminders += 1
        else:
            return None
        self._told_at = now
        detail = f"{status.detail} {still_served(status, wall)}".rstrip()
        return Message(event, code, detail, status.hint, wall - lasted)

    def _is_news(self, status: GrantStatus) -> bool:
        """Whether this process has seen the grant go bad: or else the one before has told of it."""
        refused_us = status.last_refresh_at is not None
        return self._seen_well or (status.ready and refused_us)

    def _well(self, status: GrantStatus, now: float, wall: float) -> Message | None:
        if now - self._seen < self._steady:
            return None
        told, self._told, self._began = self._told, set(), None
        return Message("recovered", None, status.detail, status.hint, wall - (now - self._seen)) if told else None

    def _expiring(self, status: GrantStatus, wall: float) -> Message | None:
        end = status.refresh_token_expires_at
        if end is None or not status.refresh_token_end_is_fixed:
            return None
        if abs(end - self._end) > SAME_END:
            self._end, self._warned = end, inf
        due = min((span for span in EXPIRING if 0 < end - wall <= span), default=inf)
        if due >= self._warned:
            return None
        self._warned = due
        notice = ending(status, wall)
        return Message("expiring", None, notice.text, notice.hint, wall)


class Outbox:
    """The one message that a way of `notify` still has to deliver, when to try, and what the log should hear of it.

    A newer message takes the place of an older one that has not arrived. Where no problem can have arrived, no
    `recovered` is sent, and a `reminder` is sent as the `problem` that it is for whoever gets it.
    """

    def __init__(self, pauses: tuple[float, ...]) -> None:
        """`pauses`: seconds before each further try; after the last of them a message is given up."""
        self._pauses = pauses
        self._message: Message | None = None
        self._tries = 0
        self._at = inf
        self._reached = False  # a problem has arrived, or may have
        self._reason = ""  # why the last try failed

    @property
    def at(self) -> float:
        """When the next try is due, by the clock of `put`; infinite without one."""
        return self._at

    def put(self, message: Message, now: float) -> None:
        """Takes a message that is to be delivered from now on."""
        self._message, self._tries, self._at = message, 0, now

    def due(self, now: float) -> Message | None:
        """What to try to deliver now. `tried` must follow before the next call."""
        if self._message is None or now < self._at:
            return None
        if not self._reached:
            if self._message.event == "recovered":
                self._close()
            elif self._message.event == "reminder":
                self._message = replace(self._message, event="problem")
        return self._message

    def tried(self, message: Message, reason: str, now: float, *, unclear: bool = False) -> "Tried":
        """Takes note of what a try came to.

        Args:
            message: what was sent; a newer one may have come meanwhile.
            reason: why it failed; empty when it was accepted.
            now: by the clock of `put`.
            unclear: it failed, and may have arrived all the same.
        """
        changed, self._reason = reason != self._reason, reason
        if message.event in {"problem", "reminder"} and (not reason or unclear):
            self._reached = True
        if message.event == "recovered" and not reason:
            self._reached = False
        given_up = False
        if self._message is message:
            given_up = bool(reason) and self._tries >= len(self._pauses)
            if not reason or given_up:
                self._close()
            else:
                self._at = now + self._pauses[self._tries]
                self._tries += 1
        return Tried(changed=changed, given_up=given_up)

    def _close(self) -> None:
        self._message, self._at = None, inf


@dataclass(frozen=True, slots=True)
class Tried:
    """What the log should hear of a try."""

    changed: bool  # it came to something else than the one before
    given_up: bool  # the message is not tried again
