"""When to send people a message about the grant, what it says, and what to do if it does not arrive.

`Alarm` looks at the grant repeatedly, and sends these messages:

    problem     Something is wrong. Most problems end without help, so a problem must last for `notify.after` first. The
                exception: if Krebit refuses the refresh token, the message is sent at once, because only a new
                authorization helps.
    reminder    A person is still needed: 1 hour after the problem, 4 hours after that, then once a day.
    expiring    The authorization ends soon, and no renewal extends it. Sent a week before and a day before.
    recovered   All has been well again for a while. Sent only after a problem.

A problem that stops for less than a minute and comes back is one problem. If something is wrong when a process starts,
the process before it has probably sent the message. So that problem must also last for `notify.after`: a proxy that
restarts again and again sends no flood of messages. The same holds for an end of the authorization that the process
has read from the store and has not got from a renewal.

`Outbox` holds what one way of `notify` still has to deliver: at most one message, the newest.
"""

from dataclasses import dataclass, replace
from math import inf
from typing import Final

from krebit_proxy.core.grant_status import GrantStatus
from krebit_proxy.core.notices import WEEK, ending, still_served
from krebit_proxy.core.times import moment
from krebit_proxy.errors import SETUP_CODES

STEADY: Final = 60.0  # seconds without a problem, at most, after which it counts as over
REMINDERS: Final = (3600.0, 4 * 3600.0, 86400.0)  # seconds between the messages; the last number repeats
EXPIRING: Final = (WEEK, 86400.0)  # seconds before a fixed end
SAME_END: Final = 60.0  # seconds; an end that is computed from the time left varies a little
_MUST_ACT: Final = SETUP_CODES | {"misconfigured"}
_AT_ONCE: Final = "reauthorization_required"
# Slack and Mattermost read these as markup, and notify a whole channel for some of it.
_MARKUP: Final = str.maketrans({"<": "\N{SINGLE LEFT-POINTING ANGLE QUOTATION MARK}",
                                ">": "\N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK}",
                                "@": "(at)"})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Message:
    """One message to people. `since`: when its cause began, in seconds since the epoch."""

    event: str  # "problem", "reminder", "expiring", "recovered" or "test"
    code: str | None  # one of errors.CODES when something is wrong
    detail: str
    hint: str
    since: float

    @property
    def needs_setup(self) -> bool:
        """Whether the page /setup is the place to do what the message asks for."""
        return self.code in SETUP_CODES or self.event == "expiring"

    def text(self, organization: str, setup_url: str | None, now: float) -> str:
        """The message as one line for a chat.

        Args:
            organization: The setting; it says which proxy sends the message.
            setup_url: Where a person authorizes again, if that helps.
            now: Seconds since the epoch.
        """
        who, since = f"krebit-proxy at {organization}", moment(self.since, now)
        if self.event == "recovered":
            return f"{who} works again since {since}."
        start = f"{who} still needs you, since {since}" if self.event == "reminder" else who
        hint = f"{self.hint.removesuffix('.')}: {setup_url}" if setup_url else self.hint
        line = f"{start}: {self.detail} {hint}".translate(_MARKUP)
        return " ".join("".join(char if char.isprintable() else " " for char in line).split())


def trial(now: float) -> Message:
    """The message of `krebit-proxy notify test`."""
    return Message("test", None, "This is a test message.", "Nothing is wrong, and there is nothing to do.", now)


class Alarm:
    """Decides at each look whether to send a message. Durations come from a clock that never jumps."""

    def __init__(self, after: float) -> None:
        """`after`: the setting `notify.after`, seconds."""
        self._after = after
        self._steady = min(after, STEADY)
        self._first: float | None = None  # when the first look was
        self._seen_well = False  # by this process
        self._began: float | None = None  # when this problem was first seen
        self._seen = 0.0  # when it was last seen
        self._told: set[str] = set()  # the codes in the messages about this problem
        self._told_at = 0.0  # when the last of these messages was sent
        self._reminders = 0  # reminders since the newest code
        self._end = -inf  # the fixed end that `_warned` is about, by the wall clock
        self._warned = inf  # the shortest of `EXPIRING` that a message was sent for

    def look(self, status: GrantStatus, now: float, wall: float) -> Message | None:
        """The message to send at `now`, or None. `wall` is the same moment in seconds since the epoch."""
        if self._first is None:
            self._first = now
        self._seen_well |= status.code is None
        # Before the first authorization, somebody is setting the proxy up and knows what to do.
        unused = status.code == "setup_required" and status.generation == 0 and not self._told
        if status.code is not None and not unused:
            return self._trouble(status, status.code, now, wall)
        if self._began is not None:
            return self._well(status, now, wall)
        # If this process has only read the end from the store, the process before it has sent the message.
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
        """Whether the grant failed while this process was running. Else the process before it has sent the message."""
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
    """The one message that a way of `notify` still has to deliver, and when to try next.

    A newer message replaces an older one that has not arrived. If certainly no problem has arrived, `recovered` is not
    sent, and `reminder` is sent as `problem`: for its reader it is the first message.
    """

    def __init__(self, pauses: tuple[float, ...]) -> None:
        """`pauses`: seconds between tries. After as many retries, the message is given up."""
        self._pauses = pauses
        self._message: Message | None = None
        self._tries = 0
        self._at = inf
        self._reached = False  # a problem has arrived, or may have
        self._reason = ""  # why the last try failed

    @property
    def at(self) -> float:
        """When the next try is due, by the clock of `put`. Infinite: there is nothing to deliver."""
        return self._at

    def put(self, message: Message, now: float) -> None:
        """Replaces the message, to be delivered from `now` on."""
        self._message, self._tries, self._at = message, 0, now

    def due(self, now: float) -> Message | None:
        """The message to deliver now, or None. Call `tried` before the next call of this."""
        if self._message is None or now < self._at:
            return None
        if not self._reached:
            if self._message.event == "recovered":
                self._close()
            elif self._message.event == "reminder":
                self._message = replace(self._message, event="problem")
        return self._message

    def tried(self, message: Message, reason: str, now: float, *, unclear: bool = False) -> "Tried":
        """Records the result of a try.

        Args:
            message: From `due`. A newer one may have replaced it meanwhile.
            reason: Why the try failed. Empty: the message was accepted.
            now: By the clock of `put`.
            unclear: Whether the message may have arrived although the try failed.
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
    """What the log needs to know about a try."""

    changed: bool  # the result differs from that of the try before
    given_up: bool  # there will be no further try for this message
