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
    help="Port to listen on. 0 picks a free port.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Loopback address to listen on.")
@click.option("--organization", default=_DEFAULT.organization, show_default=True, help="Owner of the data.")
@click.option("--client-id", default=_DEFAULT.client_id, show_default=True, help="Client id of the app.")
@click.option("--client-secret", default=_DEFAULT.client_secret, show_default=True, help="Client secret of the app.")
@click.option("--redirect-uri", default=_DEFAULT.redirect_uri, show_default=True, help="Redirect URI of the app.")
@click.option(
    "--token-lifetime",
    type=_SECONDS,
    metavar="SECONDS",
    default=3600,
    show_default=True,
    help="Lifetime of an access token.",
)
@click.option("--rotation", type=click.Choice(get_args(Rotation)), default="strict", show_default=True,
              help="What happens to a used refresh token. strict: it stops working. off: it keeps working. grace: it "
              "returns the same tokens for --grace seconds. family: a second use revokes the grant.")  # fmt: skip
@click.option(
    "--grace", type=_SECONDS, metavar="SECONDS", default=30, show_default=True, help="Period for --rotation grace."
)
@click.option("--latency", type=Seconds(0, 3600), metavar="SECONDS", default=0, show_default=True,
              help="Delay before every response.")  # fmt: skip
@click.option("--state", type=click.Path(dir_okay=False, resolve_path=True, path_type=Path),
              metavar="FILE", help="Keep codes and tokens in FILE over a restart.")  # fmt: skip
@fault_options
@common_options
def sandbox(order: Order | None, **options: Any) -> None:
    """Start only the stand-in for Krebit.

    The sandbox has a consent page, a token endpoint and a small API with made-up data. It can also produce faults:
    use the flags below, or its page /sandbox/faults. It listens on loopback only. Ctrl-C stops it.
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
        terminal.tell(f"The stand-in for Krebit is at {stand_in.url}. Open it in a browser to see what it can do.")
        terminal.tell("Settings for a proxy that uses it:\n")
        terminal.tell(f"    organization: {stand_in.options.organization}")
        terminal.tell(f"    client_id: {stand_in.client_id}")
        terminal.tell(f"    client_secret: {stand_in.client_secret}")
        terminal.tell(f"    redirect_uri: {stand_in.options.redirect_uri}")
        terminal.tell(f"    upstream: {{url: {stand_in.url}}}\n")
        terminal.tell("Ctrl-C stops it.\n")
        await stopped.wait()
    finally:
        await stand_in.stop()


def _explained(error: OSError, port: int) -> Exception:
    if error.errno == errno.EADDRINUSE:
        return ProxyError(f"port {port} is in use", hint="choose another port, or let --port 0 pick one")
    return error


def tell(sentence: str) -> None:
    """Prints a sentence with the time of day."""
    terminal.tell(f"{datetime.now().astimezone():%H:%M:%S}  {sentence}")
