"""`krebit-proxy wait`."""

import time
from typing import Final

import click

from krebit_proxy.cli import terminal
from krebit_proxy.cli.invocation import Invocation, Seconds, common_options, pass_invocation
from krebit_proxy.errors import ProxyError

_BETWEEN: Final = 0.2  # seconds between two looks


@click.command
@click.option("--for", "seconds", type=Seconds(min=0), default=60, show_default=True, metavar="SECONDS",
              help="How long to wait. 0 checks once.")  # fmt: skip
@common_options
@pass_invocation
def wait(invocation: Invocation, seconds: float) -> int:
    """Wait until the proxy is ready.

    Exits with status 0 as soon as the proxy is running and has a usable token, or with 1 when the time is over. Put it
    in front of a tool that must not start too early:

    krebit-proxy wait --for 60 && nightly-export
    """
    from krebit_proxy.cli.running_proxy import ask_state

    settings = invocation.settings()
    end = time.monotonic() + seconds
    while True:
        try:
            document = ask_state(settings)
            if document["ready"]:
                return 0
            detail, hint, link = (str(document.get(name) or "") for name in ("detail", "hint", "setup_url"))
            why = (detail, f"{hint.removesuffix('.')}: {link}" if link else hint)
        except ProxyError as error:
            why = (error.detail, error.hint)
        if time.monotonic() >= end:
            terminal.complain(why[0], hint=why[1])
            return 1
        time.sleep(_BETWEEN)
