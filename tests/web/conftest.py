"""A proxy in front of a scripted upstream, started as each test asks."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.proxy import RunningProxy, StartProxy, running_proxy
from tests.fakes.upstream import Upstream


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream() as upstream:
        yield upstream


@pytest.fixture
async def start(upstream: Upstream, tmp_path: Path) -> AsyncIterator[StartProxy]:
    async with AsyncExitStack() as stack:

        async def start(**options: Any) -> RunningProxy:
            return await stack.enter_async_context(running_proxy(upstream, tmp_path, **options))

        yield start
