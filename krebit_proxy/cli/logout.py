"""`krebit-proxy logout`."""

import asyncio

import click

from krebit_proxy.cli import terminal
from krebit_proxy.cli.invocation import Invocation, common_options, pass_invocation


@click.command
@common_options
@pass_invocation
def logout(invocation: Invocation) -> None:
    """Forget the grant.

    Revokes the tokens where oauth.revoke_url is set, and deletes them from the store in any case. Until the next setup
    the proxy answers API requests with 503. To take the permission back at Krebit too, remove the app's access there.
    """
    from krebit_proxy.cli.stored_grant import credentials, stored
    from krebit_proxy.token_endpoint import TokenEndpoint

    settings = invocation.settings()

    async def forget() -> bool:
        """Does it. Returns whether there was anything to forget."""
        grant = await stored(settings)
        if grant is None or grant.tokens is None:
            return False
        async with credentials(settings, TokenEndpoint(settings)) as held:
            await held.logout()
        return True

    had = asyncio.run(forget())
    terminal.say("The grant is forgotten." if had else "There was no grant to forget.")
