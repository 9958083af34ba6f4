"""An API that judges bearer tokens as real ones do: it forgets them, learns of new ones late, or answers 401 anyway."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Final
from urllib.parse import unquote_to_bytes

from tests.fakes.upstream import Call, TokenEndpoint, answer

CHALLENGE: Final = b'WWW-Authenticate: Bearer realm="api", error="invalid_token"'
NOT_YOURS: Final = b"this is the API's own 401"


def below(*prefixes: str) -> Callable[[bytes], bool]:
    """Whether a path, percent-decoded, begins with one of `prefixes`."""
    known = tuple(prefix.encode() for prefix in prefixes)
    return lambda path: unquote_to_bytes(path).startswith(known)


class ResourceServer:
    """What an upstream does with each call: `upstream.default = ResourceServer(upstream.tokens)`.

    Attributes:
        lag: seconds until a token that the token endpoint issued is accepted.
        refused: paths that answer 401 whatever the token is.
        shut: whether everything answers 401.
        revoked: tokens that are dead.
        seen: each call in order: its path, its token, whether it was accepted, and when (the loop's clock).
    """

    def __init__(self, tokens: TokenEndpoint) -> None:
        self.lag = 0.0
        self.refused: Callable[[bytes], bool] = lambda _: False
        self.shut = False
        self.revoked: set[bytes] = set()
        self.seen: list[tuple[str, bytes, bool, float]] = []
        self._tokens = tokens

    async def __call__(self, call: Call) -> None:
        path = call.target.partition(b"?")[0]
        accepted = not (self.shut or self.refused(path)) and self.accepts(call.token)
        self.seen.append((path.decode(), call.token, accepted, asyncio.get_running_loop().time()))
        await (ACCEPTED if accepted else REFUSED)(call)

    def accepts(self, token: bytes) -> bool:
        """Whether the token is good now. One that the token endpoint did not issue was issued long ago."""
        issued_at = self._tokens.issued.get(token, 0.0)
        return token not in self.revoked and asyncio.get_running_loop().time() >= issued_at + self.lag

    def tokens_on(self, path: str) -> list[bytes]:
        """The tokens that calls of this path came with, in order."""
        return [token for seen, token, _, _ in self.seen if seen == path]

    def revoke(self, tokens: Iterable[bytes]) -> None:
        self.revoked |= set(tokens)


ACCEPTED: Final = answer(200, b"Content-Type: text/plain", content=b"yours")
REFUSED: Final = answer(401, CHALLENGE, b"X-Of: the-api", content=NOT_YOURS, reason=b"No")
