"""Grants that a sandbox has issued, in a store of their own."""

import time
from dataclasses import replace
from typing import Any

from krebit_proxy.config import Settings
from krebit_proxy.core.grant import Grant, Tokens
from krebit_proxy.core.secret import Secret
from krebit_proxy.credentials import Credentials
from krebit_proxy.errors import Refused
from krebit_proxy.sandbox import Sandbox
from krebit_proxy.sandbox.grants import Terms
from krebit_proxy.token_endpoint import TokenEndpoint
from tests.fakes.processes import plain
from tests.fakes.refusals import token_after_401
from tests.stores.conftest import Place


async def family(sandbox: Sandbox, *, left: float) -> Tokens:
    """The tokens of a new consent, of which the access token has `left` seconds for us."""
    now = time.time()
    code = sandbox._grants.code(None, None, now)
    pair = sandbox._grants.exchange(code, None, None, terms=Terms(60), now=now)
    assert pair.refresh_token is not None
    return Tokens(Secret(pair.access_token), Secret(pair.refresh_token), now + left - 60, now + left)


class Site:
    """Grants of their own for one test: a store for them, and the sandbox that they come from."""

    def __init__(self, place: Place, sandbox: Sandbox) -> None:
        self.place = replace(place, client_id=sandbox.client_id)
        self.sandbox = sandbox
        self.secret = Secret(sandbox.client_secret)
        self.endpoint = TokenEndpoint(self.settings(self.place))

    async def grant(self, name: str, *, left: float = -5) -> Place:
        """The place of a new grant, for an organization of this name."""
        place = replace(self.place, organization=name)
        tokens = await family(self.sandbox, left=left)
        store = place.open()
        await store.write(0, Grant(1, name, place.client_id, tokens, authorized_at=tokens.obtained_at))
        await store.close()
        return place

    def plain(self, place: Place) -> dict[str, Any]:
        return plain(self.settings(place))

    async def outcome(self, place: Place) -> str:
        """What the next process finds: "kept" with a grant that can be renewed, or why a person must act."""
        store = place.open()
        store.intent_grace = 0  # the holder is dead, and waiting for it is tested elsewhere
        credentials = Credentials(self.settings(place), store, self.endpoint)
        await credentials.start()
        try:
            self.sandbox.faults.token_lifetime = 3600
            found = await credentials.bearer()
            token = (await token_after_401(credentials, found.generation)).field.decode().removeprefix("Bearer ")
            assert self.sandbox._grants.live(token, time.time())
        except Refused as refused:
            return f"{refused.code}: {refused.detail}"
        finally:
            await credentials.close()
        stored = await store.read()
        await store.close()
        assert stored is not None
        assert stored.intent is None
        return "kept"

    def settings(self, place: Place) -> Settings:
        return place.settings(upstream={"url": self.sandbox.url}, client_secret=self.secret)
