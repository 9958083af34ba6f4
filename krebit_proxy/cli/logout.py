"""`krebit-proxy logout`."""

import asyncio

import click

from krebit_proxy.cli import terminal
from krebit_proxy.cli.invocation import Invocation, common_options, pass_invocation


@click.command
@common_options
@pass_invocation
def logout(invocation: Invocation) -> None:
    """Delete the grant.

    Deletes the tokens from the store. If oauth.revoke_url is set, revokes them first. Until the next setup, the proxy
    answers API requests with 503. To withdraw the permission at Krebit as well, remove the app's access there.
    """
    from krebit_proxy.cli.stored_grant import credentials, stored
    from krebit_proxy.token_endpoint import TokenEndpoint

    settings = invocation.settings()

    async def forget() -> bool:
        """Returns False if there is no grant."""
        grant = await stored(settings)
        if grant is None or grant.tokens is None:
            return False
        async with credentials(settings, TokenEndpoint(settings)) as held:
            await held.logout()
        return True

    had = asyncio.run(forget())
    terminal.say("Deleted the grant." if had else "There is no grant to delete.")
