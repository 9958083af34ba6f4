"""The grant for commands that do not need a running proxy. They use the same store, lock and rules."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from krebit_proxy import log
from krebit_proxy.config import Log, Settings
from krebit_proxy.core.grant import Grant
from krebit_proxy.core.lifecycle import LOCK_TIMEOUT
from krebit_proxy.credentials import Credentials
from krebit_proxy.stores import Store, open_store
from krebit_proxy.token_endpoint import TokenEndpoint


def store_of(settings: Settings, *, takes_plain: bool = False) -> Store:
    """The store that the settings name. Its warnings go to standard error. `takes_plain`: see `open_store`."""
    log.configure(Log(level="warning", format="console"))
    return open_store(settings, takes_plain=takes_plain)


async def stored(settings: Settings) -> Grant | None:
    store = store_of(settings)
    try:
        return await store.read()
    finally:
        await store.close()


@asynccontextmanager
async def locked_store(settings: Settings, *, takes_plain: bool = False) -> AsyncIterator[Store]:
    """The store with its lock held, so that no other process spends the refresh token."""
    store = store_of(settings, takes_plain=takes_plain)
    try:
        await store.lock(LOCK_TIMEOUT)
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def credentials(settings: Settings, token_endpoint: TokenEndpoint) -> AsyncIterator[Credentials]:
    """The grant, for a command that changes it. A running proxy sees the change in the store."""
    store = store_of(settings)
    log.configure(Log(level="error", format="console"))
    found = Credentials(settings, store, token_endpoint)
    try:
        yield found
    finally:
        await found.close()
