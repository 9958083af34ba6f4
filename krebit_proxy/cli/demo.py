"""`krebit-proxy demo`: sandbox and proxy together, for a person to try or as an automatic walkthrough."""

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

from krebit_proxy import USER_AGENT, log
from krebit_proxy.cli import terminal
from krebit_proxy.cli.fault_options import fault_options
from krebit_proxy.cli.invocation import Seconds, common_options
from krebit_proxy.cli.run import stop_signal
from krebit_proxy.cli.sandbox import DEFAULT_PORT as SANDBOX_PORT
from krebit_proxy.cli.sandbox import tell
from krebit_proxy.cli.walkthrough import Walkthrough
from krebit_proxy.config import Log, Settings, UpstreamSettings
from krebit_proxy.core.secret import Secret
from krebit_proxy.program import Proxy
from krebit_proxy.sandbox import Options, Order, Sandbox
from krebit_proxy.tasks import spawn

_PROXY_PORT: Final = 8321
_LOOPBACKS: Final = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))
_BETWEEN: Final = 0.25  # seconds between two looks whether the grant has arrived

_INTRODUCTION: Final = """\
Stand-in for Krebit   {sandbox}   (made-up data, faults on demand)
krebit-proxy          {proxy}

{first}
2. Call the API, without authentication:
     curl {proxy}/api/me
     curl {proxy}/api/customers
3. Watch the lines below. Each access token lasts {lifetime:g} s, and the proxy renews it in time.
   To revoke the token, run this. Then call again:
     curl -d revoke=access {sandbox}/sandbox/faults
   More faults: {sandbox}/sandbox/faults

Ctrl-C stops both.
"""
_TO_SET_UP: Final = "1. Open this in a browser and press Allow:\n     {proxy}/setup"
_SET_UP: Final = "1. Setup is already done: the grant is still there."


@click.command
@click.option("--once", is_flag=True, help="Run the whole flow without a browser, and print each step.")
@click.option("--token-lifetime", type=Seconds(1, 86400), metavar="SECONDS", default=30, show_default=True,
              help="Lifetime of an access token.")  # fmt: skip
@click.option("--state", type=click.Path(file_okay=False, path_type=Path), metavar="FOLDER",
              help="Keep the grant in FOLDER for the next demo.")  # fmt: skip
@click.option("--verbose", "-v", is_flag=True, help="Show the proxy's log.")
@fault_options
@common_options
def demo(*, once: bool, token_lifetime: float, state: Path | None, verbose: bool, order: Order | None) -> int:
    """Try the proxy with a stand-in for Krebit, without any settings.

    The demo prints what to open, what to type and what to watch. It needs no network and no account. The proxy
    and the stand-in listen on this computer only, on ports 8321 and 8322, or on free ports if those are taken.

    With --once, the demo needs no browser and exits with status 0 only if every step works. The flags from
    --replication-lag on make the sandbox misbehave. You cannot use them with --once.
    """
    if once and order is not None:
        raise click.UsageError("--once sets its own faults. Remove either --once or the fault flags.")
    log.configure(Log(level="info" if verbose else "error"))
    log.install_hooks()
    with ExitStack() as stack:
        folder = state or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="krebit-proxy-demo-")))
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return asyncio.run(_walk(folder) if once else _show(folder, token_lifetime, order, keep=state is not None))


async def _walk(folder: Path) -> int:
    port = free_port(0)
    # So short that a token expires during the walkthrough.
    options = Options(redirect_uri=f"http://localhost:{port}/setup/callback", token_lifetime=1)
    async with AsyncExitStack() as stack:
        sandbox = Sandbox(options)
        await sandbox.start()
        stack.push_async_callback(sandbox.stop)
        walkthrough = Walkthrough(sandbox, settings_for(sandbox, port, folder))
        stack.push_async_callback(walkthrough.close)
        return 0 if await walkthrough.run() else 1


async def _show(folder: Path, lifetime: float, order: Order | None, *, keep: bool) -> int:
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
        if order is not None:
            sandbox.order(order)
        await sandbox.start()
        stack.push_async_callback(sandbox.stop)
        proxy = Proxy(settings_for(sandbox, port, folder))
        await proxy.start()
        stack.push_async_callback(proxy.stop)
        origin = f"http://localhost:{port}"
        ready = await _ready(origin)
        first = _SET_UP if ready else _TO_SET_UP.format(proxy=origin)
        terminal.tell(_INTRODUCTION.format(sandbox=sandbox.url, proxy=origin, first=first, lifetime=lifetime))
        if not ready:
            stack.callback(spawn(_announce_grant(origin), name="demo: watch for the grant").cancel)
        await stopped.wait()
    terminal.tell("\nStopped.")
    return 0


async def _announce_grant(origin: str) -> None:
    ready = False
    while not ready:
        await asyncio.sleep(_BETWEEN)
        ready = await _ready(origin)
    tell("Setup is done. The proxy has its grant. Now run the curl command.")


async def _ready(origin: str) -> bool:
    with suppress(ClientError, TimeoutError):
        async with (
            ClientSession(headers={"User-Agent": USER_AGENT}) as session,
            session.get(f"{origin}/readyz") as response,
        ):
            return response.status == 200
    return False


def settings_for(sandbox: Sandbox, port: int, folder: Path) -> Settings:
    """Settings of a proxy that listens on `port` of localhost and forwards to `sandbox`."""
    return Settings(
        organization=sandbox.options.organization,
        client_id=sandbox.client_id,
        client_secret=Secret(sandbox.client_secret),
        redirect_uri=sandbox.options.redirect_uri,
        listen=(f"localhost:{port}",),
        store=f"file:{folder.absolute() / 'grant'}",
        upstream=UpstreamSettings(url=sandbox.url),
    )


def free_port(preferred: int) -> int:
    """`preferred` if it is free on both loopback addresses. Otherwise another port that is free on both."""
    port = preferred or _any_port()
    while not all(_is_free(family, host, port) for family, host in _LOOPBACKS):
        port = _any_port()
    return port


def _any_port() -> int:
    # Port 0 gives an ephemeral port, and another program's connection could take it before we do. The ports below are
    # safer: ephemeral ports begin at 32768 on Linux, and at 49152 elsewhere.
    return secrets.choice(range(20_000, 32_768))


def _is_free(family: socket.AddressFamily, host: str, port: int) -> bool:
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        # Without IPv6 there is no ::1, so nothing can use the port there.
        return family == socket.AF_INET6 and error.errno != errno.EADDRINUSE
    return True
