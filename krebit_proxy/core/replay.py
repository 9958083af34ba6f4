"""What to do after a response: relay it, replay the request, or say why not. And what is kept so that we can.

A 401 says that the request was not executed, so sending even a POST again is right here, although RFC 9110, 9.2.2
forbids it in general. It is done once for each request; everything else goes to the caller as it came.
"""

import re
from collections import OrderedDict
from collections.abc import Sequence
from enum import Enum, auto
from typing import Final

from krebit_proxy.core.target import decoded

# RFC 6750 3.1: "insufficient_scope: The request requires higher privileges than provided by the access token."
_INSUFFICIENT_SCOPE: Final = re.compile(rb"\berror\s*=\s*\"?insufficient_scope\b", re.IGNORECASE)
# "invalid_token: The access token provided is expired, revoked, malformed, or invalid for other reasons. The resource
# SHOULD respond with the HTTP 401 (Unauthorized) status code." Some respond with 403.
_INVALID_TOKEN: Final = re.compile(rb"\berror\s*=\s*\"?invalid_token\b", re.IGNORECASE)

_SMALL: Final = 4096  # bytes; pieces below it are joined, so that a slow caller's single bytes stay cheap to keep


class Decision(Enum):
    """What happens after a response head."""

    RELAY = auto()  # the caller gets this response
    REPLAY = auto()  # renew the token, then send the request again
    NOT_REPLAYED = auto()  # renew the token, then tell the caller to send it again: its content is gone


def decide(status: int, challenges: Sequence[bytes], *, held: bool, barred: bool) -> Decision:
    """Judges the first response to a request; the response to a replay is always relayed.

    Args:
        status: of the response.
        challenges: the values of its WWW-Authenticate fields.
        held: whether all content that was sent is still at hand.
        barred: whether the breaker of this path is open.
    """
    refused = status == 401 or (status == 403 and any(map(_INVALID_TOKEN.search, challenges)))
    if not refused or barred:
        return Decision.RELAY
    if any(_INSUFFICIENT_SCOPE.search(challenge) for challenge in challenges):
        return Decision.RELAY  # it speaks of the request, not of the token: a new token would change nothing
    return Decision.REPLAY if held else Decision.NOT_REPLAYED


class Breaker:
    """Remembers the paths that answer 401 whatever the token is, so that they do not cause refresh after refresh.

    Open for 30 seconds at first, twice as long each time it opens again, 15 minutes at most. A 2xx on the path
    forgets it all. Times are seconds of any clock that does not run backwards.
    """

    FIRST: Final = 30.0
    LONGEST: Final = 900.0
    PATHS: Final = 256  # the last ones; an upstream with more such paths is not worth more memory

    def __init__(self) -> None:
        self._paths: OrderedDict[bytes, tuple[float, float]] = OrderedDict()  # path -> (open until, for how long)

    def is_open(self, target: bytes, now: float) -> bool:
        """Whether a 401 to `target` is to be relayed as it is."""
        path = _path(target)
        return path in self._paths and now < self._paths[path][0]

    def trip(self, target: bytes, now: float) -> None:
        """Another token would not have changed a 401. While it is open already, late ones change nothing."""
        path = _path(target)
        until, period = self._paths.get(path, (now, 0.0))
        if now < until:
            return
        period = min(period * 2 or self.FIRST, self.LONGEST)
        self._paths[path] = (now + period, period)
        self._paths.move_to_end(path)
        if len(self._paths) > self.PATHS:
            self._paths.popitem(last=False)

    def reset(self, target: bytes) -> None:
        """The path of `target` answered with a 2xx."""
        if self._paths:  # seldom; and this is called for nearly every request
            self._paths.pop(_path(target), None)


def _path(target: bytes) -> bytes:
    """The path as the upstream may understand it: one path has many percent-encoded spellings."""
    return decoded(target.partition(b"?")[0])


class ReplayBudget:
    """What all requests together may keep, in bytes."""

    def __init__(self, limit: int) -> None:
        self.free = limit


class Kept:
    """The content of one request that was sent so far: references to the pieces that are streamed, not a copy.

    Once a piece does not fit, all are let go and `complete` is False: half a request is never replayed.
    """

    __slots__ = ("_budget", "_limit", "_size", "complete", "pieces")

    def __init__(self, limit: int, budget: ReplayBudget) -> None:
        self._limit = limit
        self._budget = budget
        self._size = 0
        self.complete = True
        self.pieces: list[bytes] = []

    def fits(self, size: int) -> bool:
        """Whether `size` more bytes can be kept."""
        return self.complete and self._size + size <= self._limit and size <= self._budget.free

    def add(self, piece: bytes) -> None:
        """Keeps a piece that is being sent; where it does not fit, lets everything go."""
        if not self.fits(len(piece)):
            self.release()
            return
        self._size += len(piece)
        self._budget.free -= len(piece)
        if self.pieces and len(self.pieces[-1]) < _SMALL:
            self.pieces[-1] += piece
        else:
            self.pieces.append(piece)

    def release(self) -> None:
        """Lets everything go for good. May be called more than once."""
        self.complete = False
        self._budget.free += self._size
        self._size = 0
        self.pieces = []
