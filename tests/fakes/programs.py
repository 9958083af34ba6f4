"""What the processes of `tests.fakes.processes` do."""

import asyncio
import os
import signal
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from itertools import cycle
from multiprocessing.connection import Connection
from typing import Any, TypeVar

import aiohttp
from structlog.testing import capture_logs

from krebit_proxy.core.grant import Grant, Tokens
from krebit_proxy.core.secret import Secret
from krebit_proxy.core.token_response import Outcome
from krebit_proxy.credentials import Bearer, Credentials
from krebit_proxy.errors import Refused, StoreError
from krebit_proxy.stores import Store, open_store
from krebit_proxy.token_endpoint import TokenEndpoint
from tests.fakes.processes import settings_of

T = TypeVar("T")


async def hold_the_lock(pipe: Connection, settings: dict[str, Any]) -> None:
    """Takes the lock and sits on it."""
    store = open_store(settings_of(settings))
    await store.lock(5)
    pipe.send("locked")
    await asyncio.Event().wait()


class Steps:
    """The steps of a process by their names, in order. At the one that it is told it kills itself."""

    def __init__(self, last: str | None) -> None:
        self.reached: list[str] = []
        self._last = last

    def reach(self, name: str) -> None:
        self.reached.append(name)
        if name == self._last:
            os.kill(os.getpid(), signal.SIGKILL)

    async def around(self, name: str, effect: Awaitable[T]) -> T:
        """A step before the effect, and one after it."""
        self.reach(f"before {name}")
        result = await effect
        self.reach(f"after {name}")
        return result

    def inside(self, name: str) -> None:
        """A step in the middle of the effect that is under way."""
        self.reach(f"{self.reached[-1].split(': ')[0].removeprefix('before ')}: {name}")

    def call(self, function: Callable[..., T], *names: str) -> Callable[..., T]:
        """The function of the system, with a step right after each call; the names take turns."""
        turns = cycle(names)

        def called(*arguments: Any, **named: Any) -> T:
            result = function(*arguments, **named)
            self.inside(next(turns))
            return result

        return called


class SteppingStore:
    """A store whose every effect is a step."""

    def __init__(self, store: Store, steps: Steps) -> None:
        self._store = store
        self._steps = steps
        self._locked = False
        self.intent_grace = store.intent_grace

    async def read(self) -> Grant | None:
        return await self._steps.around("read under lock" if self._locked else "read", self._store.read())

    async def lock(self, timeout: float) -> None:
        await self._steps.around("lock", self._store.lock(timeout))
        self._locked = True

    async def confirm_lock(self) -> None:
        await self._steps.around("confirm lock", self._store.confirm_lock())

    async def unlock(self) -> None:
        await self._steps.around("unlock", self._store.unlock())
        self._locked = False

    async def write(self, expected: int, grant: Grant) -> None:
        name = "write intent" if grant.intent else "write tokens"
        await self._steps.around(name, self._store.write(expected, grant))

    async def probe(self) -> None:
        await self._store.probe()

    async def describe(self) -> str:
        return await self._store.describe()

    async def close(self) -> None:
        await self._store.close()


class SteppingEndpoint(TokenEndpoint):
    """A token endpoint whose every request is a step."""

    steps: Steps

    async def refresh(self, refresh_token: Secret) -> Outcome:
        return await self.steps.around("spend", super().refresh(refresh_token))


async def refresh_once(pipe: Connection, plain: dict[str, Any], last: str | None) -> None:
    """Refreshes a grant whose token has expired, and says which steps that took, unless it kills itself at `last`."""
    settings, steps = settings_of(plain), Steps(last)
    if settings.store.startswith("file:"):
        os.link = steps.call(os.link, "link backup")
        os.fsync = steps.call(os.fsync, "fsync file", "fsync folder")
        os.replace = steps.call(os.replace, "replace")
    else:
        _step_after_updates(steps)
    endpoint = SteppingEndpoint(settings)
    endpoint.steps = steps
    credentials = Credentials(settings, SteppingStore(open_store(settings), steps), endpoint)
    await credentials.start()
    await credentials.bearer()
    await credentials.close()
    pipe.send(steps.reached)


def _step_after_updates(steps: Steps) -> None:
    from krebit_proxy.stores.session import Session

    real = Session.run

    async def run(session: Session, statement: str, *values: object) -> list[tuple[Any, ...]]:
        rows = await real(session, statement, *values)
        if statement.startswith("UPDATE"):
            steps.inside("update")
        return rows

    Session.run = run  # type: ignore[method-assign,assignment]


async def call_all_the_time(pipe: Connection, plain: dict[str, Any], url: str, grace: float) -> None:
    """Calls the API until it is told to stop, like a proxy: after a 401 once more. Then says what came of it."""
    settings = settings_of(plain)
    store = open_store(settings)
    store.intent_grace = min(grace, store.intent_grace)
    credentials = Credentials(settings, store, TokenEndpoint(settings))
    await credentials.start()
    results: Counter[str] = Counter()
    pipe.send("started")
    async with aiohttp.ClientSession() as session:
        while not pipe.poll():
            results[await _call(session, url, credentials)] += 1
            await asyncio.sleep(0.01)
    await credentials.close()
    pipe.send(dict(results))


async def _call(session: aiohttp.ClientSession, url: str, credentials: Credentials) -> str:
    met: Bearer | None = None
    for _ in range(2):
        try:
            if met is None:
                bearer = credentials.current() or await credentials.bearer()
            elif (other := await credentials.after_401(met)) is not None:
                bearer = other
        except Refused as refused:
            return refused.code
        async with session.get(f"{url}/api/me", headers={"Authorization": bearer.field.decode()}) as response:
            if response.status != 401:
                credentials.accepted(bearer)
                break
        met = bearer
    return str(response.status)


async def keep_a_grant_as(pipe: Connection, plain: dict[str, Any], uid: int, gid: int) -> None:
    """As another user, in one group more: tries out the store, stores the next generation, and says what came of it."""
    settings = settings_of(plain)
    store = open_store(settings)
    os.setgroups([gid])
    os.setgid(uid)
    os.setuid(uid)
    with capture_logs() as events:
        try:
            await store.probe()
            found = await store.read()
            base = found.generation if found else 0
            tokens = Tokens(Secret(f"access-{base + 1}"), Secret("refresh"), 1000.0, 4600.0)
            await store.write(base, Grant(base + 1, settings.organization, settings.client_id, tokens))
            read = await store.read()
            outcome = f"found {base}, stored {read.generation if read else 0}"
        except StoreError as error:
            outcome = f"{error.code}: {error.detail} {error.hint}"
        await store.close()
    pipe.send((outcome, [event["event"] for event in events]))


async def leave_a_hanging_disk(pipe: Connection, plain: dict[str, Any]) -> None:
    """Writes to a disk that never answers, and ends."""
    store = open_store(settings_of(plain))
    store._disk.patience = 0.1  # type: ignore[attr-defined]
    os.fsync = lambda _: threading.Event().wait()  # type: ignore[assignment]
    try:
        await store.write(0, Grant(1, plain["organization"], plain["client_id"], None))
    except StoreError as error:
        pipe.send(error.code)
    await store.close()
