"""When to tell people that the grant is in trouble: not of what passes by itself, only once, and when it is over."""

from dataclasses import dataclass
from typing import Final

from krebit_proxy.core.grant_status import GrantStatus
from krebit_proxy.errors import SETUP_CODES

STEADY: Final = 60.0  # seconds that all must have been well, at most, before a trouble counts as over
_MUST_ACT: Final = SETUP_CODES | {"misconfigured"}


@dataclass(frozen=True, slots=True)
class Message:
    """What to tell. `since`: when that began, in seconds since the epoch."""

    event: str  # "problem" or "recovered"
    code: str | None
    detail: str
    hint: str
    since: float


class Alarm:
    """Looks at the grant again and again. A trouble that goes for a moment and comes back is one trouble."""

    def __init__(self, after: float) -> None:
        """`after`: seconds that a trouble must last before anybody is told."""
        self._after = after
        self._steady = min(after, STEADY)
        self._began: float | None = None  # when this trouble was first seen
        self._seen = 0.0  # when it was last seen
        self._told: set[str] = set()  # the codes that people have been told of in this trouble

    def look(self, status: GrantStatus, now: float, wall: float) -> Message | None:
        """What to tell at `now`, if anything. Seconds, by a clock that never jumps and by the wall clock."""
        code = status.code
        # Who never authorized is told so by the setup itself.
        unused = code == "setup_required" and status.generation == 0 and not self._told
        if code is None or unused:
            return self._well(status, now, wall)
        if self._began is None:
            self._began = now
        self._seen = now
        news = code not in self._told and (code in _MUST_ACT or not self._told)
        if not news or now - self._began < self._after:
            return None
        self._told.add(code)
        return Message("problem", code, status.detail, status.hint, wall - (now - self._began))

    def _well(self, status: GrantStatus, now: float, wall: float) -> Message | None:
        if self._began is None or now - self._seen < self._steady:
            return None
        told, self._told, self._began = self._told, set(), None
        return Message("recovered", None, status.detail, status.hint, wall - (now - self._seen)) if told else None
