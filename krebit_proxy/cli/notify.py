"""`krebit-proxy notify`."""

import asyncio
import tempfile
from typing import IO, TYPE_CHECKING

import click

from krebit_proxy.cli import terminal
from krebit_proxy.cli.invocation import Invocation, common_options, pass_invocation
from krebit_proxy.errors import SettingsError

if TYPE_CHECKING:
    from krebit_proxy.config import Settings


@click.group
@common_options
def notify() -> None:
    """Send a test message.

    The running proxy sends alarms with `notify.webhook` and `notify.command`.
    """


@notify.command
@common_options
@pass_invocation
def test(invocation: Invocation) -> int:
    """Send a test message, and print the response.

    Uses `notify.webhook` and `notify.command`, whichever are set. People will see the message. The proxy does not need
    to run.

    Exit status: 0 if the message was accepted everywhere, 1 if not, 2 if neither is set.
    """
    settings = invocation.settings()
    if not (settings.notify.webhook or settings.notify.command):
        raise SettingsError(
            ["neither notify.webhook nor notify.command is set"],
            hint="set notify.webhook to a URL, notify.command to a program, or both",
        )
    with tempfile.TemporaryFile() as output:
        return 0 if asyncio.run(_all_accept(settings, output)) else 1


async def _all_accept(settings: "Settings", output: IO[bytes]) -> bool:
    """Tries webhook and command in turn. `output` receives what the command prints."""
    from krebit_proxy.web.notify import send_trial, ways

    accepted = True
    for way in ways(settings, output=output):
        receipt = await send_trial(settings, way)
        accepted = accepted and receipt.accepted
        said = f"{receipt.said}: {receipt.words}" if receipt.words else receipt.said
        result = "accepted" if receipt.accepted else "not accepted"
        hint = "" if receipt.accepted else f"check notify.{way.name}, then try again"
        terminal.tick(f"{way.name} {way.place}: {result}, {said}", held=receipt.accepted, hint=hint)
    return accepted
