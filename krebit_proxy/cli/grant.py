"""`krebit-proxy grant`."""

import asyncio
import sys
import textwrap
import time
from typing import TYPE_CHECKING

import click

from krebit_proxy.cli import terminal
from krebit_proxy.cli.invocation import Invocation, common_options, pass_invocation
from krebit_proxy.errors import ProxyError

if TYPE_CHECKING:
    from collections.abc import Callable

    from krebit_proxy.config import Settings
    from krebit_proxy.core.grant import Grant, Tokens
    from krebit_proxy.core.secret import Secret


@click.group
@common_options
def grant() -> None:
    """Move the grant to another machine, or import one.

    To set up a server without a browser, run `krebit-proxy grant import` on the server. It prints an address. Run
    `krebit-proxy grant export ADDRESS` on the computer that has the grant. It prints the grant, encrypted for that
    address. Paste it on the server.
    """


@grant.command
@click.argument("address")
@common_options
@pass_invocation
def export(invocation: Invocation, address: str) -> None:
    """Print the grant, encrypted for ADDRESS, and delete it here.

    Only one proxy may use a grant: two of them would spend the same refresh token.

    Shows a fingerprint of ADDRESS. Compare it with the one that the other computer shows. If somebody has replaced the
    address, they differ.
    """
    from krebit_proxy.cli.envelope import fingerprint, seal

    def pack(found: "Grant") -> str:
        if found.verdict is not None:
            raise ProxyError("Krebit no longer accepts this grant", hint="authorize again with: krebit-proxy setup")
        return seal(found, address)

    try:
        terminal.note(f"Fingerprint of the address: {fingerprint(address)}")
        if sys.stdin.isatty():
            click.confirm("Does the other computer show the same fingerprint?", abort=True, err=True)
        envelope = asyncio.run(_take_out(invocation.settings(), pack))
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    terminal.say(f"{textwrap.fill(envelope, 76)}\n")
    terminal.note("The grant is deleted here. Paste all of this into krebit-proxy grant import on the other computer.")


@grant.command("import")
@click.option("--refresh-token-stdin", is_flag=True, help="Read a refresh token from standard input, and try it once.")
@common_options
@pass_invocation
def import_(invocation: Invocation, *, refresh_token_stdin: bool) -> int:
    """Import a grant from another machine or program.

    Asks for the output of `krebit-proxy grant export`. With --refresh-token-stdin, takes the refresh token of another
    program, uses it at once and stores the result. From then on the other program must not use that token.
    """
    from krebit_proxy.core.grant import LONGEST_RECORD, is_refresh_token
    from krebit_proxy.core.secret import Secret

    settings = invocation.settings()
    asyncio.run(_require_room(settings))
    if refresh_token_stdin:
        if sys.stdin.isatty():
            line = click.prompt("Refresh token", hide_input=True, err=True)
        else:
            line = sys.stdin.buffer.readline(LONGEST_RECORD).decode(errors="surrogateescape")
        if not is_refresh_token(token := line.strip()):
            terminal.complain("no refresh token on standard input", hint="pass it as one line, e.g. with: < FILE")
            return 1
        return asyncio.run(_try(settings, Secret(token)))
    return _receive(settings)


def _receive(settings: "Settings") -> int:
    from krebit_proxy.cli.envelope import Receiver, fingerprint

    receiver = Receiver()
    terminal.note(f"On the other computer, run:  krebit-proxy grant export {receiver.address}")
    terminal.note(f"It must show this fingerprint:  {fingerprint(receiver.address)}")
    terminal.note("Then paste its output here, and press Enter:")
    try:
        found = receiver.open(_paste())
    except ValueError as error:
        terminal.complain(str(error), hint="start again with: krebit-proxy grant import")
        return 1
    if (found.organization, found.client_id) != (settings.organization, settings.client_id) or found.tokens is None:
        terminal.complain(
            f"this grant is for {found.organization} and client id {found.client_id}",
            hint="use the same organization and client_id on both computers",
        )
        return 1
    asyncio.run(_put_in(settings, found.tokens))
    terminal.say("The grant is stored here. A running proxy uses it within five seconds.")
    return 0


def _paste() -> str:
    """The lines up to an empty one. A terminal cuts a line at 4096 bytes, so there are several."""
    from krebit_proxy.core.grant import LONGEST_RECORD

    text = ""
    while len(text) <= 2 * LONGEST_RECORD:  # base64 of more than any grant
        line = sys.stdin.buffer.readline(LONGEST_RECORD).decode("ascii", "replace")
        if not line or (text and not line.strip()):
            break
        text += line.strip()
    return text


async def _try(settings: "Settings", refresh_token: "Secret") -> int:
    """Stores the refresh token with an expired access token, so that an ordinary refresh tests it."""
    from krebit_proxy.cli.stored_grant import credentials
    from krebit_proxy.core.grant import Tokens
    from krebit_proxy.core.secret import Secret
    from krebit_proxy.errors import Refused
    from krebit_proxy.token_endpoint import TokenEndpoint

    now = time.time()
    await _put_in(settings, Tokens(Secret("none-yet"), refresh_token, now - 1, now))
    async with credentials(settings, TokenEndpoint(settings)) as held:
        await held.start()
        try:
            await held.bearer()
        except Refused as refused:
            code, detail, hint = refused.code, refused.detail, refused.hint
        else:
            terminal.say("The refresh token works, and the new tokens are stored. Stop the program that it came from.")
            return 0
    if code != "reauthorization_required":
        terminal.complain(detail, hint=f"{hint} The token is stored: krebit-proxy run keeps trying")
        return 1
    await _take_out(settings, lambda _: "")
    terminal.complain(detail, hint="use a newer refresh token, or authorize this proxy with: krebit-proxy setup")
    return 1


async def _require_room(settings: "Settings") -> None:
    from krebit_proxy.cli.stored_grant import stored

    _check_room(await stored(settings))


def _check_room(found: "Grant | None") -> None:
    if found is not None and found.tokens is not None:
        raise ProxyError("there is already a grant here", hint="delete it first with: krebit-proxy logout")


async def _put_in(settings: "Settings", tokens: "Tokens") -> None:
    """Stores the tokens as a new generation."""
    from krebit_proxy.cli.stored_grant import locked_store
    from krebit_proxy.core.grant import Grant

    async with locked_store(settings) as store:
        found = await store.read()
        _check_room(found)
        base = found.generation if found else 0
        new = Grant(base + 1, settings.organization, settings.client_id, tokens, authorized_at=time.time())
        await store.write(base, new)


async def _take_out(settings: "Settings", pack: "Callable[[Grant], str]") -> str:
    """Packs the grant, then deletes it. Returns the package."""
    from krebit_proxy.cli.stored_grant import locked_store
    from krebit_proxy.core.grant import Grant

    async with locked_store(settings) as store:
        found = await store.read()
        if found is None or found.tokens is None:
            raise ProxyError("there is no grant here", hint="authorize first with: krebit-proxy setup")
        packed = pack(found)
        forgotten = Grant(
            found.generation + 1, settings.organization, settings.client_id, None, authorized_at=time.time()
        )
        await store.write(found.generation, forgotten)
        return packed
