"""`krebit-proxy setup`."""

import asyncio
import os
import secrets
import sys
import time
from typing import TYPE_CHECKING, Any, Final

import click

from krebit_proxy.cli import terminal
from krebit_proxy.cli.invocation import Invocation, common_options, pass_invocation
from krebit_proxy.errors import ProxyError, Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from krebit_proxy.config import Settings
    from krebit_proxy.core.authorization import SetupAttempt
    from krebit_proxy.core.secret import Secret
    from krebit_proxy.core.token_response import Refusal

_PATIENCE: Final = 20.0  # seconds in which the browser should start and open the link
_PAUSE: Final = 0.2  # seconds between two looks whether it has
_NO_BROWSER: Final = "krebit-proxy setup --no-browser"


@click.command
@click.option("--no-browser", is_flag=True, help="Print a link to open anywhere, and ask for the final address.")
@common_options
@pass_invocation
def setup(invocation: Invocation, *, no_browser: bool) -> None:
    """Authorize the proxy once, in a browser.

    Opens the browser with a one-time link to the running proxy. The link works for 15 minutes, even if setup is closed.
    The browser gets it through a private file, so that other users of this computer do not see it.

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
        running = ask(settings, "/healthz").document
    except NotRunningError as error:
        raise ProxyError(error.detail, hint=f"{error.hint}, or use: {_NO_BROWSER}") from None
    origin = browser_origin(settings)
    if origin is None:
        raise ProxyError("no browser can reach the address that the proxy listens on", hint=f"use: {_NO_BROWSER}")
    key = mint_key(settings.client_secret, term=running["run"], now=time.time(), nonce=secrets.token_bytes(16))
    link = f"{origin}/setup?key={key}"
    if not _has_browser():
        _show(link, settings, "Open this one-time link in a browser within 15 minutes:")
        return
    _show(link, settings, "Continue in the browser, at")
    if not _open(link, lambda: _has_begun(settings, running)):
        terminal.note("No browser could be opened. Open the link yourself within 15 minutes.")


def _show(link: str, settings: "Settings", what_to_do: str) -> None:
    terminal.say(what_to_do)
    terminal.say(f"    {link}")
    terminal.say("Your app at Krebit must have exactly this redirect URI:")
    terminal.say(f"    {settings.redirect_uri}")


def _has_browser() -> bool:
    """Whether there may be a graphical browser. A text browser would take over this terminal."""
    if "WSL_DISTRO_NAME" in os.environ:
        return False  # the browser of Windows cannot read our file
    return sys.platform in {"win32", "darwin"} or bool({"DISPLAY", "WAYLAND_DISPLAY", "BROWSER"} & os.environ.keys())


def _has_begun(settings: "Settings", before: dict[str, Any]) -> bool:
    """Whether a browser has begun setup since then, or the proxy has ended."""
    from krebit_proxy.cli.running_proxy import ask

    try:
        now = ask(settings, "/healthz").document
    except ProxyError:
        return True
    return any(now.get(fact) != before.get(fact) for fact in ("run", "setups"))


def _open(link: str, used: "Callable[[], bool]") -> bool:
    """Opens the link in a browser, by a private file that exists until the link is `used`, or the browser is too slow.

    Returns False if that is not possible.
    """
    import webbrowser

    from krebit_proxy.cli.link_file import leading_to
    from krebit_proxy.environment import shed

    shed()
    if sys.platform == "win32":
        # Other users of Windows cannot read the arguments, and the file might be opened by another program.
        return webbrowser.open(link)
    try:
        with leading_to(link) as page:
            opened = webbrowser.open(page.as_uri())
            if opened:
                terminal.note(
                    "The browser opens a private file that leads to this link. If it cannot, open the link yourself."
                )
                end = time.monotonic() + _PATIENCE
                while not used() and time.monotonic() < end:
                    time.sleep(_PAUSE)
            return opened
    except OSError:
        return False


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
