"""The state machine of the grant."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GrantStatus:
    """What people and probes may know. Times are seconds since the epoch, None where there is none. No token."""

    ready: bool  # a request would be authenticated now
    code: str | None  # one of errors.CODES when something is wrong, even while still ready
    detail: str  # one sentence: what is the matter
    hint: str  # one sentence: what to do
    generation: int
    obtained_at: float | None
    expires_at: float | None
    scope: str
    last_refresh_at: float | None
    last_refresh: str | None  # outcome of the last refresh: "ok", or a short reason
    next_refresh_at: float | None
    refreshing: bool
    lock_held: bool
    store_error: str | None
