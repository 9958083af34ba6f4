"""`krebit-proxy setup`."""

import asyncio
import os
import secrets
import sys
import time
from typing import TYPE_CHECKING, Final

import click

from krebit_proxy.cli import terminal
from krebit_proxy.cli.invocation import Invocation, common_options, pass_invocation
from krebit_proxy.errors import ProxyError, Refused

if TYPE_CHECKING:
    from krebit_proxy.config import Settings
    from krebit_proxy.core.authorization import SetupAttempt
    from krebit_proxy.core.secret import Secret
    from krebit_proxy.core.token_response import Refusal

_NO_BROWSER: Final = "krebit-proxy setup --no-browser"


@click.command
@click.option("--no-browser", is_flag=True, help="Print a link to open anywhere, and ask for the final address.")
@common_options
@pass_invocation
def setup(invocation: Invocation, *, no_browser: bool) -> None:
    """Authorize the proxy once, in a browser.

    Opens the browser with a one-time link to the running proxy. The link works for 15 minutes, even if setup is closed.

    With --no-browser, you need no browser on this computer, no running proxy and no redirect URI that leads here. The
    command prints a link. Open it in any browser, then paste the address that the browser ends on.
    """
    settings = invocation.settings()
    if no_browser:
        _by_pasting(settings)
    else:
        _by_link(settings)


def _by_link(settings: "Settings") -> None:
    from krebit_proxy.cli.running_proxy import NotRunningError, ask, browser_origin
    from krebit_proxy.core.setup_key import mint_key

    try:
        term: str = ask(settings, "/healthz").document["run"]
    except NotRunningError as error:
        raise ProxyError(error.detail, hint=f"{error.hint}, or use: {_NO_BROWSER}") from None
    origin = browser_origin(settings)
    if origin is None:
        raise ProxyError("no browser can reach the address that the proxy listens on", hint=f"use: {_NO_BROWSER}")
    key = mint_key(settings.client_secret, term=term, now=time.time(), nonce=secrets.token_bytes(16))
    link = f"{origin}/setup?key={key}"
    opened = _open(link)
    terminal.say("Continue in the browser, at" if opened else "Open this one-time link in a browser within 15 minutes:")
    terminal.say(f"    {link}")
    terminal.say("Your app at Krebit must have exactly this redirect URI:")
    terminal.say(f"    {settings.redirect_uri}")


def _open(link: str) -> bool:
    """Opens a graphical browser. Returns False if there is none: a text browser would take over this terminal."""
    if sys.platform not in {"win32", "darwin"} and not {"DISPLAY", "WAYLAND_DISPLAY", "BROWSER"} & os.environ.keys():
        return False
    import webbrowser

    return webbrowser.open(link)


def _by_pasting(settings: "Settings") -> None:
    from krebit_proxy.core.authorization import authorization_url, begin, explain
    from krebit_proxy.core.token_response import Refusal

    asyncio.run(_probe_store(settings))
    attempt = begin(secrets.token_bytes, now=time.time(), pkce=settings.oauth.pkce)
    link = authorization_url(
        settings.authorize_url,
        attempt,
        client_id=settings.client_id,
        redirect_uri=settings.redirect_uri,
        scope=settings.oauth.scope,
    )
    terminal.say(f"1. Open this link in any browser and press Allow:\n\n{link}\n")
    terminal.say(f"2. The browser then goes to {settings.redirect_uri}?code=...")
    terminal.say("   It does not matter if no page loads. Paste the whole address here within ten minutes:\n")
    outcome = _pasted(attempt)
    if isinstance(outcome, Refusal):
        raise explain(outcome, redirect_uri=settings.redirect_uri)
    asyncio.run(_exchange(settings, outcome, attempt.verifier))
    terminal.say("Authorized. A running proxy notices within seconds. To start one, run: krebit-proxy run")


async def _probe_store(settings: "Settings") -> None:
    """Fails before the code is exchanged: if the store then failed, the tokens would be lost."""
    from krebit_proxy.cli.stored_grant import store_of

    store = store_of(settings)
    try:
        await store.probe()
    finally:
        await store.close()


def _pasted(attempt: "SetupAttempt") -> "Secret | Refusal":
    """The response in the pasted address. Asks again until the address belongs to this attempt."""
    from krebit_proxy.core.authorization import pasted_query, read_response, verdict

    while True:
        address = click.prompt("Address", prompt_suffix=": ")
        try:
            return verdict(attempt, read_response(pasted_query(address)), now=time.time())
        except Refused as error:
            terminal.complain(error.detail, hint="paste the whole address from the window where you pressed Allow")


async def _exchange(settings: "Settings", code: "Secret", verifier: "Secret | None") -> None:
    from krebit_proxy.cli.stored_grant import credentials
    from krebit_proxy.core.authorization import cautions, explain
    from krebit_proxy.core.token_response import Issued
    from krebit_proxy.token_endpoint import TokenEndpoint

    token_endpoint = TokenEndpoint(settings)
    outcome = await token_endpoint.exchange(code, verifier)
    if not isinstance(outcome, Issued):
        raise explain(outcome, redirect_uri=settings.redirect_uri)
    async with credentials(settings, token_endpoint) as held:
        await held.authorized(outcome.tokens)
    for caution in cautions(outcome, scope=settings.oauth.scope):
        terminal.note(f"note: {caution}")
