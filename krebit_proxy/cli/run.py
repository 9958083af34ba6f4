"""`krebit-proxy run`."""

import asyncio
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from krebit_proxy.cli.invocation import Invocation, common_options, pass_invocation

if TYPE_CHECKING:
    from collections.abc import Callable

    from krebit_proxy.config import Settings

_PR_SET_DUMPABLE: Final = 4  # of prctl(2)
_OTHER_FILES: Final = 128  # descriptors for listeners, the store, the token endpoint
_FOR_EACH: Final = 3  # descriptors for each connection: the caller's, the upstream's, and one that is closing


@click.command
@click.option(
    "--observe",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Allow all methods and paths, and record them in FILE for `krebit-proxy policy suggest`.",
)
@common_options
@pass_invocation
def run(invocation: Invocation, observe: Path | None) -> None:
    """Start the proxy in the foreground.

    Logs the address it listens on, and a setup link while it needs one.

    SIGTERM, SIGINT (Ctrl-C) and SIGHUP (the terminal closes) stop the proxy. It stops accepting connections, gives
    running requests limits.drain seconds, and waits for a running token refresh. A second signal stops it at once.
    """
    # structlog imports rich if it is installed. That costs 4 MB and 0.1 s, and we never use it.
    sys.modules.setdefault("rich", None)  # type: ignore[arg-type]  # None: not installed
    from krebit_proxy import log

    _leave_no_core()
    settings = invocation.settings()
    log.configure(settings.log)
    log.install_hooks()
    connections = _have_descriptors_for(settings.limits.connections)
    limits = settings.limits.model_copy(update={"connections": connections})
    settings = settings.model_copy(update={"limits": limits})
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(settings, observe))


def _leave_no_core() -> None:
    """Turns core dumps off: they would contain the tokens."""
    try:
        import resource  # not on Windows
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        import ctypes  # loads slowly

        # The limit does not apply when the system pipes cores to a program. This setting does. It also hides memory
        # and environment from other processes of the same user.
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _have_descriptors_for(connections: int) -> int:
    """Raises the limit of open files to what this process may need. Returns how many connections it is enough for.

    Without a free descriptor, the proxy could not store the grant, and callers would be dropped without an answer.
    """
    import structlog

    from krebit_proxy.web.seats import STANDING_ROOM

    try:
        import resource  # not on Windows
    except ImportError:
        return connections
    others = STANDING_ROOM + _OTHER_FILES
    wanted = _FOR_EACH * connections + others
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        hint = "raise the limit on open files (ulimit -n), or lower limits.connections"
        connections = max(1, (hard - others) // _FOR_EACH)
        structlog.get_logger().warning(
            "limits.few_descriptors", has=hard, wants=wanted, connections=connections, hint=hint
        )
        wanted = hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return connections


def _loop_factory() -> "Callable[[], asyncio.AbstractEventLoop] | None":
    """uvloop's, if it is installed."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def _serve(settings: "Settings", observe: Path | None) -> None:
    import structlog

    from krebit_proxy.program import Proxy

    logger = structlog.get_logger()
    proxy = Proxy(settings, observe=observe)
    stopped = stop_signal()
    for caution in settings.cautions:
        logger.warning("settings.caution", text=caution)
    await proxy.start()
    try:
        way = settings.way_out.described(settings.upstream_origin)
        logger.info("proxy.started", urls=" ".join(proxy.urls), redirect_uri=settings.redirect_uri, way_out=way)
        await stopped.wait()
        logger.info("proxy.stopping", hint="send the signal again to stop at once")
    finally:
        await proxy.stop()
    logger.info("proxy.stopped")


def stop_signal() -> asyncio.Event:
    """Set by the first SIGTERM, SIGINT or SIGHUP. The second one ends the process, as it does by default."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    names = () if sys.platform == "win32" else (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    heard = [name for name in names if signal.getsignal(name) is not signal.SIG_IGN]  # nohup ignores SIGHUP

    def stop() -> None:
        """Restores the default action for the next signal."""
        for name in heard:
            loop.remove_signal_handler(name)
            signal.signal(name, signal.SIG_DFL)
        stopped.set()

    for name in heard:
        loop.add_signal_handler(name, stop)
    return stopped
