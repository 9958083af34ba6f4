"""`krebit-proxy demo`: sandbox and proxy together, to be tried by a person or walked through by itself."""

import asyncio
import errno
import secrets
import socket
import tempfile
from contextlib import AsyncExitStack, ExitStack, suppress
from pathlib import Path
from typing import Final

import click
from aiohttp import ClientError, ClientSession

from krebit_proxy import log
from krebit_proxy.cli import terminal
from krebit_proxy.cli.invocation import Seconds, common_options
from krebit_proxy.cli.run import stop_signal
from krebit_proxy.cli.sandbox import DEFAULT_PORT as SANDBOX_PORT
from krebit_proxy.cli.sandbox import tell
from krebit_proxy.cli.walkthrough import Walkthrough
from krebit_proxy.config import Log, Settings, Upstream
from krebit_proxy.core.secret import Secret
from krebit_proxy.program import Proxy
from krebit_proxy.sandbox import Options, Sandbox
from krebit_proxy.tasks import spawn

_PROXY_PORT: Final = 8321
_LOOPBACKS: Final = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))
_BETWEEN: Final = 0.25  # seconds between two looks whether the grant has arrived

_INTRODUCTION: Final = """\
Krebit's stand-in   {sandbox}   (invented data; faults on demand)
krebit-proxy        {proxy}

{first}
2. Call it, without any authentication:
     curl {proxy}/api/me
     curl {proxy}/api/customers
3. Watch below: an access token lives {lifetime:g} s here, and is renewed in time. Or revoke it, and call again:
     curl -d revoke=access {sandbox}/sandbox/faults

Ctrl-C stops both.
"""
_TO_SET_UP: Final = "1. Open this in a browser, and press Allow:\n     {proxy}/setup"
_SET_UP: Final = "1. Setup was done the last time; the grant is still there."


@click.command
@click.option("--once", is_flag=True, help="Walk through the whole flow without a browser, and tell what held.")
@click.option("--token-lifetime", type=Seconds(1, 86400), metavar="SECONDS", default=30, show_default=True,
              help="Of an access token, in seconds.")  # fmt: skip
@click.option("--state", type=click.Path(file_okay=False, path_type=Path), metavar="FOLDER",
              help="Keeps the grant for the next time; else it is forgotten.")  # fmt: skip
@click.option("--verbose", "-v", is_flag=True, help="Show the proxy's log.")
@common_options
def demo(*, once: bool, token_lifetime: float, state: Path | None, verbose: bool) -> int:
    """Try it out: sandbox and proxy together, nothing to configure.

    Both listen on this machine only, on ports 8321 and 8322, or on free ones where these are taken. Nothing is opened
    by itself: it prints what to open, what to type and what to watch. Needs no network and no account.

    With --once an HTTP client plays the browser. Exit status 0 only if every step held.
    """
    log.configure(Log(level="info" if verbose else "error"))
    with ExitStack() as stack:
        folder = state or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="krebit-proxy-demo-")))
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return asyncio.run(_walk(folder) if once else _show(folder, token_lifetime, keep=state is not None))


async def _walk(folder: Path) -> int:
    port = free_port(0)
    # So short that a token expires while the person still looks.
    options = Options(redirect_uri=f"http://localhost:{port}/setup/callback", token_lifetime=1)
    async with AsyncExitStack() as stack:
        sandbox = Sandbox(options)
        await sandbox.start()
        stack.push_async_callback(sandbox.stop)
        walkthrough = Walkthrough(sandbox, settings_for(sandbox, port, folder))
        stack.push_async_callback(walkthrough.close)
        return 0 if await walkthrough.run() else 1


async def _show(folder: Path, lifetime: float, *, keep: bool) -> int:
    port = free_port(_PROXY_PORT)
    options = Options(
        port=free_port(SANDBOX_PORT),
        redirect_uri=f"http://localhost:{port}/setup/callback",
        token_lifetime=lifetime,
        state=folder / "sandbox.json" if keep else None,
    )
    stopped = stop_signal()
    async with AsyncExitStack() as stack:
        sandbox = Sandbox(options, tell)
        await sandbox.start()
        stack.push_async_callback(sandbox.stop)
        proxy = Proxy(settings_for(sandbox, port, folder))
        await proxy.start()
        stack.push_async_callback(proxy.stop)
        origin = f"http://localhost:{port}"
        ready = await _ready(origin)
        first = _SET_UP if ready else _TO_SET_UP.format(proxy=origin)
        terminal.say(_INTRODUCTION.format(sandbox=sandbox.url, proxy=origin, first=first, lifetime=lifetime))
        if not ready:
            stack.callback(spawn(_announce_grant(origin), name="demo: watch for the grant").cancel)
        await stopped.wait()
    terminal.say("\nStopped.")
    return 0


async def _announce_grant(origin: str) -> None:
    while not await _ready(origin):  # told by HTTP, as any other program would be
        await asyncio.sleep(_BETWEEN)
    tell("Setup is done: the proxy has its grant. Now type the curl line.")


async def _ready(origin: str) -> bool:
    with suppress(ClientError, TimeoutError):
        async with ClientSession() as session, session.get(f"{origin}/readyz") as response:
            return response.status == 200
    return False


def settings_for(sandbox: Sandbox, port: int, folder: Path) -> Settings:
    """The settings of a proxy that listens on `port` of localhost, and works against `sandbox`."""
    return Settings(
        organization=sandbox.options.organization,
        client_id=sandbox.client_id,
        client_secret=Secret(sandbox.client_secret),
        redirect_uri=sandbox.options.redirect_uri,
        listen=(f"localhost:{port}",),
        store=f"file:{folder.absolute() / 'grant'}",
        upstream=Upstream(url=sandbox.url),
    )


def free_port(preferred: int) -> int:
    """`preferred` if it is free on both loopback addresses, else a port that is."""
    port = preferred or _any_port()
    while not all(_is_free(family, host, port) for family, host in _LOOPBACKS):
        port = _any_port()
    return port


def _any_port() -> int:
    # Port 0 would give one of those that systems hand out to every program's connections, and it may be taken again
    # before it is used. The range below them is left alone (they begin at 32768 on Linux, at 49152 elsewhere).
    return secrets.choice(range(20_000, 32_768))


def _is_free(family: socket.AddressFamily, host: str, port: int) -> bool:
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        # A machine without IPv6 has no ::1 that anybody could take.
        return family == socket.AF_INET6 and error.errno != errno.EADDRINUSE
    return True
