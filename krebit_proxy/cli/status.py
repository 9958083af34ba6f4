"""`krebit-proxy status`."""

import asyncio
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from krebit_proxy.cli import terminal
from krebit_proxy.cli.invocation import Invocation, common_options, pass_invocation
from krebit_proxy.errors import SETUP_CODES

if TYPE_CHECKING:
    from krebit_proxy.config import Settings


@click.command
@click.option("--json", "as_json", is_flag=True, help="Print the state as JSON.")
@common_options
@pass_invocation
def status(invocation: Invocation, *, as_json: bool) -> None:
    """Show the state of the grant.

    Asks the running proxy. Without one it shows what is stored. No token is ever shown.
    """
    from krebit_proxy.cli.running_proxy import NotRunningError, ask

    settings = invocation.settings()
    try:
        document = {"running": True} | ask(settings, "/").document
    except NotRunningError as error:
        document = {"running": False} | asyncio.run(_from_store(settings, error.detail))
    if as_json:
        terminal.say(json.dumps(document, indent=2))
        return
    for name, text in _lines(document):
        terminal.say(f"{name:13}{text}")


async def _from_store(settings: "Settings", detail: str) -> dict[str, Any]:
    """What the store alone can tell, by the names that the proxy uses."""
    from krebit_proxy.cli.stored_grant import stored

    grant = await stored(settings)
    tokens = grant.tokens if grant else None
    verdict = grant.verdict if grant else None
    code, hint = None, "start it with: krebit-proxy run"
    if tokens is None:
        code, hint = "setup_required", "run `krebit-proxy run`, then `krebit-proxy setup`"
    elif verdict:
        code, hint = "reauthorization_required", "run `krebit-proxy run`, then `krebit-proxy setup`"
        detail = verdict.reason
    return {
        "ready": False,
        "code": code,
        "detail": detail,
        "hint": hint,
        "organization": settings.organization,
        "client_id": settings.client_id,
        "redirect_uri": settings.redirect_uri,
        "generation": grant.generation if grant else 0,
        "obtained_at": _iso(tokens.obtained_at) if tokens else None,
        "expires_at": _iso(tokens.expires_at) if tokens else None,
        "scope": tokens.scope if tokens else "",
        "lock_holder": grant.intent.holder if grant and grant.intent else None,
        "refresh_began_at": _iso(grant.intent.at) if grant and grant.intent else None,
    }


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


def _lines(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The same for people: a name and a text a line, without what is not known."""
    state = "ready" if document.get("ready") else "not ready" if document["running"] else "not running"
    yield "state", state
    for name in ("detail", "hint", "store_error"):
        if document.get(name):
            yield {"hint": "what to do", "store_error": "store"}.get(name, "why"), str(document[name])
    yield "organization", str(document["organization"])
    yield "app", str(document["client_id"])
    yield "redirect URI", str(document["redirect_uri"])
    if document.get("expires_at"):
        obtained, expires = document["obtained_at"], document["expires_at"]
        yield "token", f"number {document['generation']}, obtained {_distance(obtained)}, expires {_distance(expires)}"
    if document.get("scope"):
        yield "scope", str(document["scope"])
    if document.get("last_refresh"):
        yield "last refresh", f"{document['last_refresh']}, {_distance(document['last_refresh_at'])}"
    if document.get("next_refresh_at"):
        yield "next refresh", _distance(document["next_refresh_at"])
    if document.get("lock_held"):
        yield "lock", "held by this proxy"
    elif document.get("lock_holder"):
        began = _distance(document["refresh_began_at"])
        yield "lock", f"{document['lock_holder']} began a refresh {began}, and has not finished"
    if document["running"] and document["code"] in SETUP_CODES:
        yield "setup", document["setup_url"] or "krebit-proxy setup --no-browser"


def _distance(at: str | None) -> str:
    """How far a time is from now, e.g. `5 min ago`."""
    if at is None:
        return "at no known time"
    seconds = datetime.fromisoformat(at).timestamp() - time.time()
    amount = abs(seconds)
    number, unit = (amount, "s") if amount < 90 else (amount / 60, "min") if amount < 5400 else (amount / 3600, "h")
    return f"in {number:.0f} {unit}" if seconds > 0 else f"{number:.0f} {unit} ago"
