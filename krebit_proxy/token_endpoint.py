"""One POST to the token endpoint; foreign errors become ours."""

from krebit_proxy.config import Settings
from krebit_proxy.core.grant import Outcome
from krebit_proxy.core.secret import Secret


class TokenEndpoint:
    """Speaks to the token endpoint and, where one is set, the revocation endpoint. Never raises for what they do."""

    def __init__(self, settings: Settings) -> None:
        raise NotImplementedError

    async def exchange(self, code: Secret, verifier: Secret | None) -> Outcome:
        """Exchanges an authorization code, once (RFC 6749, 4.1.3)."""
        raise NotImplementedError

    async def refresh(self, refresh_token: Secret) -> Outcome:
        """Spends a refresh token (RFC 6749, 6)."""
        raise NotImplementedError

    async def revoke(self, token: Secret) -> bool:
        """Revokes a token (RFC 7009); best effort. Returns whether the server said so."""
        raise NotImplementedError
