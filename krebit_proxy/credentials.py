"""The only holder of the grant: drives `core.lifecycle.step`, performs its effects, and hands out bearer tokens."""

from dataclasses import dataclass

from krebit_proxy.config import Settings
from krebit_proxy.core.grant import Tokens
from krebit_proxy.core.outlook import GrantStatus
from krebit_proxy.stores import Store
from krebit_proxy.token_endpoint import TokenEndpoint


@dataclass(frozen=True, slots=True)
class Bearer:
    """A token for one request: the value of its Authorization field, and the generation that a 401 is charged to."""

    generation: int
    field: bytes  # b"Bearer ..."

    def __repr__(self) -> str:
        return f"Bearer(generation={self.generation})"


class Credentials:
    """Hands out the current token, and keeps it current."""

    def __init__(self, settings: Settings, store: Store, token_endpoint: TokenEndpoint) -> None:
        raise NotImplementedError

    async def start(self) -> None:
        """Reads the store for the first time; a store that fails is reported in `status`, and tried again."""

    async def close(self) -> None:
        """Waits for a running refresh and its write, then closes the store."""

    def current(self) -> Bearer | None:
        """The token, if one can be used at once. The hot path: no await, no lock. None: call `bearer`."""

    async def bearer(self, *, rejected: int | None = None, lifetime: float = 0) -> Bearer:
        """Waits for a usable token. Safe to cancel: that never cancels a refresh.

        Args:
            rejected: the generation that the upstream answered with 401, if so; it counts as expired from now on.
            lifetime: seconds that the token should still have (for a long upload); a refresh is awaited if it has less.

        Raises:
            Refused: setup_required, reauthorization_required, misconfigured or token_unavailable (with retry_after).
        """
        raise NotImplementedError

    async def authorized(self, tokens: Tokens) -> None:
        """Stores the tokens of a new authorization as the next generation. Raises StoreError."""

    async def logout(self) -> None:
        """Revokes where a revocation endpoint is set, then forgets the tokens, in the store too."""

    def status(self) -> GrantStatus:
        """The state of the grant as of now."""
        raise NotImplementedError
