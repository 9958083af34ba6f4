"""What the processes of `tests.fakes.processes` do."""

import asyncio
import os
import signal
from collections.abc import Awaitable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from krebit_proxy.core.grant import Grant, Outcome
from krebit_proxy.core.secret import Secret
from krebit_proxy.credentials import Credentials
from krebit_proxy.stores import Store, file, open_store
from krebit_proxy.token_endpoint import TokenEndpoint
from tests.fakes.processes import settings_of

T = TypeVar("T")


async def hold_the_lock(pipe: Connection, settings: dict[str, Any]) -> None:
    """Takes the lock and sits on it."""
    store = open_store(settings_of(settings))
    await store.lock(5)
    pipe.send("locked")
    await asyncio.Event().wait()
