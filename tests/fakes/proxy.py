"""The real proxy, with a grant already in its store, in front of a scripted upstream: in this process or in its own."""

import asyncio
import io
import json
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

from krebit_proxy import log
from krebit_proxy.config import Settings
from krebit_proxy.core.grant import Grant, Tokens
from krebit_proxy.core.secret import Secret
from krebit_proxy.program import Proxy
from krebit_proxy.stores import open_store
from tests.fakes.client import Client
from tests.fakes.upstream import Upstream
from tests.fakes.waiting import DEADLINE

CLIENT_SECRET: Final = "marker-client-secret"
ORGANIZATION: Final = "acme"
CLIENT_ID: Final = "tests"


def settings_of(upstream_url: str, folder: Path, **overrides: Any) -> Settings:
    """Settings for one proxy. Each override is a section (a dict) or a plain setting."""
    given: dict[str, Any] = {
        "organization": ORGANIZATION,
        "client_id": CLIENT_ID,
        "client_secret": Secret(CLIENT_SECRET),
        "listen": ("127.0.0.1:0",),
        "store": f"file:{folder / 'grant'}",
        **overrides,
    }
    given["upstream"] = {"url": upstream_url, "connect_timeout": 30, **overrides.get("upstream", {})}
    return Settings.model_validate(given)


async def store_grant(
    settings: Settings,
    *,
    expires_in: float = 3600,
    lifetime: float = 3660,
    token: str = "token-1",
    refresh_token: str = "refresh-1",
) -> None:
    """Puts generation 1 into the store, as a setup a minute ago would have: its token is too old to be unknown."""
    now = time.time()
    tokens = Tokens(
        access_token=Secret(token),
        refresh_token=Secret(refresh_token),
        obtained_at=now + expires_in - lifetime,
        expires_at=now + expires_in,
    )
    store = open_store(settings)
    await store.lock(5)
    await store.write(0, Grant(1, ORGANIZATION, CLIENT_ID, tokens))
    await store.close()


class RunningProxy:
    """A proxy in this process. `output` is everything that it logs, as written."""

    def __init__(self, proxy: Proxy, settings: Settings, output: io.StringIO) -> None:
        self.proxy = proxy
        self.settings = settings
        self.output = output
        self._clients: list[Client] = []

    @property
    def port(self) -> int:
        return int(self.proxy.urls[0].rsplit(":", 1)[1])

    async def connect(self, **options: Any) -> Client:
        client = await Client.connect(self.port, **options)
        self._clients.append(client)
        return client

    def written(self) -> str:
        """The log so far."""
        log.flush()
        return self.output.getvalue()

    def events(self, name: str = "") -> list[dict[str, Any]]:
        """The events in the log, those called `name` if given."""
        events = [json.loads(line) for line in self.written().splitlines()]
        return [event for event in events if not name or event["event"] == name]

    async def stop(self) -> None:
        for client in self._clients:
            client.close()
        await self.proxy.stop()


StartProxy = Callable[..., Awaitable[RunningProxy]]


@asynccontextmanager
async def running_proxy(
    upstream: Upstream | str,
    folder: Path,
    /,
    *,
    grant: dict[str, Any] | None = None,
    observe: Path | None = None,
    **overrides: Any,
) -> AsyncIterator[RunningProxy]:
    """Starts the proxy on a free port. `grant` are arguments of `store_grant`."""
    overrides = {"log": {"level": "debug", "format": "json"}, **overrides}
    url = upstream if isinstance(upstream, str) else upstream.url
    settings = settings_of(url, folder, **overrides)
    await store_grant(settings, **(grant or {}))
    output = io.StringIO()
    log.configure(settings.log, output)
    proxy = Proxy(settings, observe=observe)
    await proxy.start()
    running = RunningProxy(proxy, settings, output)
    try:
        yield running
    finally:
        await running.stop()


@asynccontextmanager
async def started_proxies(folder: Path) -> AsyncIterator[StartProxy]:
    """Starts any number of proxies, and stops them together. Then none may have logged a secret or a traceback."""
    started: list[RunningProxy] = []
    async with AsyncExitStack() as stack:

        async def start(upstream: Upstream | str, /, **options: Any) -> RunningProxy:
            own = folder / f"proxy-{len(started)}"
            own.mkdir()
            started.append(await stack.enter_async_context(running_proxy(upstream, own, **options)))
            return started[-1]

        yield start
    for proxy in started:
        written = proxy.written()
        assert "Traceback" not in written, written
        for secret in ("token-1", "token-2", "refresh-1", "refresh-2", CLIENT_SECRET):
            assert secret not in written, f"{secret} is in the log"


class ProxyProcess:
    """`krebit-proxy run` as a process of its own, for signals and for its memory."""

    def __init__(self, process: asyncio.subprocess.Process, port: int, log_file: Path) -> None:
        self.process = process
        self.port = port
        self.log_file = log_file

    async def connect(self, **options: Any) -> Client:
        return await Client.connect(self.port, **options)

    def memory(self) -> int:
        """Resident bytes now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        match = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert match
        return int(match[1]) * 1024

    async def exited(self) -> int:
        async with asyncio.timeout(DEADLINE):
            return await self.process.wait()


@asynccontextmanager
async def proxy_process(
    upstream: Upstream, folder: Path, /, *, before: Callable[[], None] | None = None, **overrides: Any
) -> AsyncIterator[ProxyProcess]:
    """Starts the command with a config file and waits until it listens. `before` runs in the process before it."""
    await store_grant(settings_of(upstream.url, folder, **overrides))
    config = {
        "organization": ORGANIZATION,
        "client_id": CLIENT_ID,
        "client_secret": CLIENT_SECRET,
        "listen": ["127.0.0.1:0"],
        "store": f"file:{folder / 'grant'}",
        "log": {"format": "json"},
        **overrides,
    }
    config["upstream"] = {"url": upstream.url, **overrides.get("upstream", {})}
    async with running_command(config, folder, before=before) as running:
        yield running


@asynccontextmanager
async def running_command(
    config: dict[str, Any], folder: Path, *, before: Callable[[], None] | None = None
) -> AsyncIterator[ProxyProcess]:
    """`krebit-proxy run` with these settings, as a config file in `folder`, once it listens."""
    file = folder / "config.yaml"
    file.write_text(json.dumps(config))  # JSON is YAML
    file.chmod(0o600)
    log_file = folder / "log"
    with log_file.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "krebit_proxy", "run", "--config", str(file), stdout=output, stderr=output,
            preexec_fn=before,
            env={name: value for name, value in os.environ.items() if not name.startswith("KREBIT_PROXY_")},
        )  # fmt: skip
    try:
        yield ProxyProcess(process, await _announced_port(process, log_file), log_file)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
        await process.wait()


async def _announced_port(process: asyncio.subprocess.Process, log_file: Path) -> int:
    """The port that the process says it listens on."""
    end = time.monotonic() + 30
    while not (match := re.search(r"https?://127\.0\.0\.1:(\d+)", text := log_file.read_text())):
        assert process.returncode is None, text
        assert time.monotonic() < end, f"it does not say where it listens: {text}"
        await asyncio.sleep(0.02)
    return int(match[1])
