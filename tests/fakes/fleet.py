"""Several `krebit-proxy run` that share one store, behind callers that act like a load balancer."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp

from krebit_proxy.config import Settings
from tests.fakes.proxy import ProxyProcess, running_command
from tests.fakes.waiting import DEADLINE

_LONGEST_CALL: Final = 60.0  # seconds; nothing is measured by it


class Member:
    """One of the proxies. It can be killed and started again, on another port each time."""

    def __init__(self, config: dict[str, Any], folder: Path) -> None:
        self.running: ProxyProcess | None = None
        self._config = config
        self._folder = folder
        self._stack = AsyncExitStack()

    async def start(self) -> None:
        self.running = await self._stack.enter_async_context(running_command(self._config, self._folder))

    async def kill(self) -> None:
        """SIGKILL: it gets no chance to finish anything."""
        self.running = None
        await self._stack.aclose()

    @property
    def url(self) -> str:
        assert self.running is not None
        return f"http://127.0.0.1:{self.running.port}"


class Fleet:
    """The members, and what came of all calls: `results` counts statuses, `broken` connections that gave no answer."""

    def __init__(self, members: list[Member], session: aiohttp.ClientSession) -> None:
        self.members = members
        self.results: Counter[int] = Counter()
        self.broken = 0
        self._session = session

    async def get(self, member: Member, path: str) -> tuple[int, Any]:
        """One request to one member: the status, and the JSON document."""
        async with self._session.get(f"{member.url}{path}", headers={"Accept": "application/json"}) as response:
            return response.status, await response.json(content_type=None)

    async def call(self, dice: random.Random) -> None:
        """One call that is tried at one member after the other until there is an answer."""
        while True:
            member = dice.choice([member for member in self.members if member.running])
            try:
                status, _ = await self.get(member, "/api/me")
            except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError):
                self.broken += 1
                await asyncio.sleep(0.01)
            else:
                self.results[status] += 1
                return

    @asynccontextmanager
    async def under_load(self, callers: int = 8) -> AsyncIterator[None]:
        """Calls all the time, and ends with the last call of each caller answered."""
        over = asyncio.Event()

        async def caller(number: int) -> None:
            dice = random.Random(number)
            while not over.is_set():
                await self.call(dice)
                await asyncio.sleep(0.01)

        async with asyncio.TaskGroup() as group:
            for number in range(callers):
                group.create_task(caller(number))
            try:
                yield
            finally:
                over.set()

    async def everywhere(self, holds: Callable[[int, Any], bool]) -> None:
        """Returns once every member's /readyz is as it should be, by its status and its document."""
        end = time.monotonic() + DEADLINE
        for member in self.members:
            while not holds(*(told := await self.get(member, "/readyz"))):
                assert time.monotonic() < end, f"{member.url} still says {told}"
                await asyncio.sleep(0.02)


@asynccontextmanager
async def fleet(settings: Settings, folder: Path, count: int) -> AsyncIterator[Fleet]:
    """Starts `count` proxies with these settings, each on a free port."""
    config = settings.model_dump(mode="json", exclude_defaults=True, exclude={"client_secret"}) | {
        "client_secret": settings.client_secret.reveal(),
        "listen": ["127.0.0.1:0"],
        "log": {"format": "json"},
    }
    members = []
    for number in range(count):
        place = folder / f"proxy-{number}"
        place.mkdir()
        members.append(Member(config, place))
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_LONGEST_CALL)) as session:
        try:
            await asyncio.gather(*(member.start() for member in members))
            yield Fleet(members, session)
        finally:
            await asyncio.gather(*(member.kill() for member in members))
