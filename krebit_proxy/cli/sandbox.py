"""`krebit-proxy sandbox`."""

import asyncio
import errno
from datetime import datetime
from pathlib import Path
from typing import Any, Final, get_args

import click

from krebit_proxy.cli import terminal
from krebit_proxy.cli.fault_options import fault_options
from krebit_proxy.cli.invocation import Seconds, common_options
from krebit_proxy.cli.run import stop_signal
from krebit_proxy.errors import ProxyError
from krebit_proxy.sandbox import Options, Order, Rotation, Sandbox

DEFAULT_PORT: Final = 8322  # the neighbour of the proxy's

_DEFAULT: Final = Options()
_SECONDS: Final = Seconds(min=0, min_open=True, max=366 * 86400)


@click.command
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    metavar="PORT",
    default=DEFAULT_PORT,
    show_default=True,
    help="0: a free one.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="A loopback address.")
@click.option("--organization", default=_DEFAULT.organization, show_default=True, help="Whom the data belongs to.")
@click.option("--client-id", default=_DEFAULT.client_id, show_default=True, help="Of the registered app.")
@click.option("--client-secret", default=_DEFAULT.client_secret, show_default=True, help="Of the registered app.")
@click.option("--redirect-uri", default=_DEFAULT.redirect_uri, show_default=True, help="Of the registered app.")
@click.option(
    "--token-lifetime",
    type=_SECONDS,
    metavar="SECONDS",
    default=3600,
    show_default=True,
    help="Of an access token, in seconds.",
)
@click.option("--rotation", type=click.Choice(get_args(Rotation)), default="strict", show_default=True,
              help="What becomes of a used refresh token: dead; never replaced; good for the same pair for --grace "
              "seconds; dead, and its second use revokes the whole grant.")  # fmt: skip
@click.option(
    "--grace", type=_SECONDS, metavar="SECONDS", default=30, show_default=True, help="In seconds, for --rotation grace."
)
@click.option("--latency", type=Seconds(0, 3600), metavar="SECONDS", default=0, show_default=True,
              help="Seconds before every answer.")  # fmt: skip
@click.option("--state", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Keeps codes and tokens over a restart.")  # fmt: skip
@fault_options
@common_options
def sandbox(order: Order | None, **options: Any) -> None:
    """Start the stand-in for Krebit alone.

    It has a consent page, a token endpoint and a small API with invented data. It misbehaves on demand: by the flags
    below, and on its page /sandbox/faults while it runs. It listens on loopback only. Ctrl-C stops it.
    """
    stand_in = Sandbox(Options(**options), tell)
    if order is not None:
        stand_in.order(order)
    asyncio.run(_serve(stand_in))


async def _serve(stand_in: Sandbox) -> None:
    stopped = stop_signal()
    try:
        await stand_in.start()
    except OSError as error:
        raise _explained(error, stand_in.options.port) from error
    try:
        terminal.say(f"Krebit's stand-in is at {stand_in.url}; open that in a browser to see what it can do.")
        terminal.say("The settings of a proxy to it:\n")
        terminal.say(f"    organization: {stand_in.options.organization}")
        terminal.say(f"    client_id: {stand_in.client_id}")
        terminal.say(f"    client_secret: {stand_in.client_secret}")
        terminal.say(f"    redirect_uri: {stand_in.options.redirect_uri}")
        terminal.say(f"    upstream: {{url: {stand_in.url}}}\n")
        terminal.say("Ctrl-C stops it.\n")
        await stopped.wait()
    finally:
        await stand_in.stop()


def _explained(error: OSError, port: int) -> Exception:
    if error.errno == errno.EADDRINUSE:
        return ProxyError(f"port {port} is in use", hint="choose another one, or a free one with --port 0")
    return error


def tell(sentence: str) -> None:
    """A line of what just happened, with the time of day."""
    terminal.say(f"{datetime.now().astimezone():%H:%M:%S}  {sentence}")
