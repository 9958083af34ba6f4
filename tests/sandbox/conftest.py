from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import ClientSession, ClientTimeout

from krebit_proxy.sandbox import Options, Sandbox

StartSandbox = Callable[..., Awaitable[Sandbox]]


@pytest.fixture
async def start() -> AsyncIterator[StartSandbox]:
    """Starts sandboxes with the options given, and stops them after the test."""
    running: list[Sandbox] = []

    async def start_one(**options: object) -> Sandbox:
        sandbox = Sandbox(Options(**options))  # type: ignore[arg-type]
        running.append(sandbox)
        await sandbox.start()
        return sandbox

    yield start_one
    for sandbox in running:
        await sandbox.stop()


@pytest.fixture
async def http() -> AsyncIterator[ClientSession]:
    async with ClientSession(timeout=ClientTimeout(total=10)) as session:
        yield session
