"""What to do after a response: relay it, replay the request, or say why not. And the content to keep for a replay.

RFC 9110, 9.2.2, forbids to repeat a POST in general. After a 401 it is right: the upstream did not execute the request.
Each request is replayed once at most. All other responses go to the caller unchanged.
"""

import re
from collections import OrderedDict, deque
from collections.abc import Sequence
from enum import Enum, auto
from hashlib import sha256
from typing import Final

from krebit_proxy.core.suspicion import PathRecord
from krebit_proxy.core.target import decoded

# RFC 6750 3.1: "insufficient_scope: The request requires higher privileges than provided by the access token."
_INSUFFICIENT_SCOPE: Final = re.compile(rb"\berror\s*=\s*\"?insufficient_scope\b", re.IGNORECASE)
# "invalid_token: The access token provided is expired, revoked, malformed, or invalid for other reasons. The resource
# SHOULD respond with the HTTP 401 (Unauthorized) status code." Some respond with 403.
_INVALID_TOKEN: Final = re.compile(rb"\berror\s*=\s*\"?invalid_token\b", re.IGNORECASE)

_MEMORABLE: Final = 512  # bytes of a target that is worth remembering
_SMALL: Final = 4096  # bytes; smaller pieces are joined, so that a caller that sends single bytes costs little memory


class Decision(Enum):
    """What to do with a response."""

    RELAY = auto()  # pass this response to the caller
    REPLAY = auto()  # renew the token, then send the request again
    NOT_REPLAYED = auto()  # renew the token, then ask the caller to send the request again: its content is gone


def decide(status: int, challenges: Sequence[bytes], *, held: bool, barred: bool) -> Decision:
    """Decides about the first response to a request. The response to a replay is always relayed.

    Args:
        status: Of the response.
        challenges: The values of its WWW-Authenticate fields.
        held: Whether all content that was sent is still in memory.
        barred: Whether the breaker of this path is open.
    """
    refused = status == 401 or (status == 403 and any(map(_INVALID_TOKEN.search, challenges)))
    if not refused or barred:
        return Decision.RELAY
    if any(_INSUFFICIENT_SCOPE.search(challenge) for challenge in challenges):
        return Decision.RELAY  # the request needs more rights; a new token would not help
    return Decision.REPLAY if held else Decision.NOT_REPLAYED


class Breaker:
    """Remembers paths that answer 401 to every token, so that they do not cause one refresh after another.

    A path stays open for 30 seconds at first, then twice as long each time, 15 minutes at most. A 2xx resets the path.
    Times are seconds of a monotonic clock.
    """

    FIRST: Final = 30.0
    LONGEST: Final = 900.0
    PATHS: Final = 256  # the most recent ones, to bound memory

    def __init__(self) -> None:
        self._paths: OrderedDict[bytes, tuple[float, float]] = OrderedDict()  # path -> (open until, for how long)
        self._refused: OrderedDict[bytes, None] = OrderedDict()  # paths that got a 401 with the token of
        self._generation = 0  # this generation
        self._accepted: deque[bytes] = deque(maxlen=self.PATHS)  # targets, the latest last

    def record(self, target: bytes, generation: int) -> PathRecord:
        """What the API has said to the path of `target` lately. Seldom asked: only while no token is at hand."""
        path = _path(target)
        if generation == self._generation and path in self._refused:
            return PathRecord.REFUSED
        return PathRecord.ACCEPTED if any(_path(other) == path for other in self._accepted) else PathRecord.NEW

    def note_accepted(self, target: bytes) -> None:
        """The API has accepted a call. The hot path: nothing is worked out here."""
        if len(target) <= _MEMORABLE:
            self._accepted.append(target)

    def suspect(self, target: bytes, generation: int) -> None:
        """The path of `target` got a 401 that may speak of the token of this generation."""
        if generation != self._generation:
            self._generation = generation
            self._refused.clear()
        self._refused[_path(target)] = None
        if len(self._refused) > self.PATHS:
            self._refused.popitem(last=False)

    def clear(self, generation: int, now: float) -> None:
        """The token of this generation turned out to be good: the 401s spoke of their paths."""
        if generation == self._generation:
            for path in self._refused:
                self._trip(path, now)
            self._refused.clear()

    def is_open(self, target: bytes, now: float) -> bool:
        """Whether a 401 to `target` is relayed without a refresh."""
        path = _path(target)
        return path in self._paths and now < self._paths[path][0]

    def trip(self, target: bytes, now: float) -> None:
        """Opens the breaker after a 401 that another token would not change. Does nothing if it is already open."""
        self._trip(_path(target), now)

    def _trip(self, path: bytes, now: float) -> None:
        until, period = self._paths.get(path, (now, 0.0))
        if now < until:
            return
        period = min(period * 2 or self.FIRST, self.LONGEST)
        self._paths[path] = (now + period, period)
        self._paths.move_to_end(path)
        if len(self._paths) > self.PATHS:
            self._paths.popitem(last=False)

    def reset(self, target: bytes) -> None:
        """Forgets the path of `target`, after a 2xx."""
        if self._paths:  # rarely true, and nearly every request calls this
            self._paths.pop(_path(target), None)


def _path(target: bytes) -> bytes:
    """The path as the upstream may understand it: one path has many percent-encoded spellings. Long ones as a hash."""
    path = decoded(target.partition(b"?")[0])
    return path if len(path) <= _MEMORABLE else sha256(path).digest()


class ReplayBudget:
    """How many bytes all requests together may still keep."""

    def __init__(self, limit: int) -> None:
        self.free = limit


class Kept:
    """The content of one request so far. It holds references to the streamed pieces, not copies.

    If a piece does not fit, all pieces are dropped and `complete` becomes False: part of a request is never replayed.
    """

    __slots__ = ("_budget", "_limit", "_size", "complete", "pieces")

    def __init__(self, limit: int, budget: ReplayBudget) -> None:
        self._limit = limit
        self._budget = budget
        self._size = 0
        self.complete = True
        self.pieces: list[bytes] = []

    def fits(self, size: int) -> bool:
        """Whether there is room for `size` more bytes."""
        return self.complete and self._size + size <= self._limit and size <= self._budget.free

    def add(self, piece: bytes) -> None:
        """Keeps a piece. If it does not fit, drops everything."""
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
        """Drops everything. May be called more than once."""
        self.complete = False
        self._budget.free += self._size
        self._size = 0
        self.pieces = []
