"""A running proxy whose grant is in a state that the test chooses."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from krebit_proxy.core.grant_status import GrantStatus
from krebit_proxy.credentials import Credentials
from tests.fakes.command import write_settings
from tests.fakes.proxy import CLIENT_ID, RunningProxy, running_proxy
from tests.fakes.upstream import Upstream

ProxyShows = Callable[..., Awaitable[RunningProxy]]


@asynccontextmanager
async def shown_proxy(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ProxyShows]:
    """Gives a function that starts a proxy in a state, and writes the settings with which commands find it."""
    async with AsyncExitStack() as stack:

        async def start(status: GrantStatus, **settings: Any) -> RunningProxy:
            monkeypatch.setattr(Credentials, "status", lambda _: status)
            upstream = await stack.enter_async_context(Upstream())
            proxy = await stack.enter_async_context(running_proxy(upstream, folder, **settings))
            write_settings(
                folder,
                listen=f"127.0.0.1:{proxy.port}",
                client_id=CLIENT_ID,
                redirect_uri="https://elsewhere.example/",
                upstream={"url": upstream.url},
                **settings,
            )
            return proxy

        yield start
