"""`krebit-proxy status`."""

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import fields
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from krebit_proxy.cli import terminal
from krebit_proxy.cli.invocation import Invocation, common_options, pass_invocation
from krebit_proxy.core.grant_status import GrantStatus
from krebit_proxy.core.notices import notices, refresh_token_end
from krebit_proxy.core.times import iso, moment
from krebit_proxy.errors import SETUP_CODES, StoreBusyError, StoreError

if TYPE_CHECKING:
    from krebit_proxy.config import Settings


@click.command
@click.option("--json", "as_json", is_flag=True, help="Print the state as JSON.")
@common_options
@pass_invocation
def status(invocation: Invocation, *, as_json: bool) -> None:
    """Show the state of the grant.

    Asks the running proxy, and reads the store for what that does not tell. Never shows a token.
    """
    from krebit_proxy.cli.running_proxy import NotRunningError, ask_state

    settings = invocation.settings()
    try:
        document = {"running": True} | ask_state(settings)
        asyncio.run(_complete(document, settings))
    except NotRunningError as error:
        document = {"running": False} | asyncio.run(_from_store(settings, error.detail))
    document.setdefault("way_out", settings.way_out.described(settings.upstream_origin))
    if as_json:
        terminal.say(json.dumps(document, indent=2))
        return
    for name, text in _lines(document, time.time()):
        terminal.say(f"{name:15}{text}")


def read_status(document: dict[str, Any]) -> GrantStatus:
    """The state of the grant from the JSON of the status page. Missing fields are None."""
    known: dict[str, Any] = {field.name: document.get(field.name) for field in fields(GrantStatus)}
    for name, value in known.items():
        if value and name.endswith("_at"):
            known[name] = datetime.fromisoformat(value).timestamp()
    return GrantStatus(**known)


async def _complete(document: dict[str, Any], settings: "Settings") -> None:
    """Adds what the store knows to what a running proxy has told.

    The proxy names neither the store nor the words of a database, and one with client keys only if it is ready.
    """
    from krebit_proxy.cli.stored_grant import store_of

    reduced = "generation" not in document
    try:
        if reduced:
            facts = await _from_store(settings, document["detail"])
            for name, value in facts.items():
                document.setdefault(name, value)
            if document["code"] == facts["code"]:
                document["detail"] = facts["detail"]
        if document.get("store_error") or (reduced and document["code"] not in SETUP_CODES | {None}):
            store = store_of(settings)
            try:
                await store.probe()
            finally:
                await store.close()
    except StoreBusyError:
        pass  # by the proxy, as long as it cannot store its tokens
    except StoreError as error:
        document["store_error"] = error.detail
        for name, value in _settings_shown(settings).items():
            document.setdefault(name, value)


def _settings_shown(settings: "Settings") -> dict[str, Any]:
    return {
        "organization": settings.organization,
        "client_id": settings.client_id,
        "redirect_uri": settings.redirect_uri,
    }


async def _from_store(settings: "Settings", detail: str) -> dict[str, Any]:
    """The same fields as on the proxy's status page, as far as the store knows them."""
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
    end = tokens.refresh_expires_at if tokens else None
    return {
        "ready": False,
        "code": code,
        "detail": detail,
        "hint": hint,
        **_settings_shown(settings),
        "generation": grant.generation if grant else 0,
        "obtained_at": iso(tokens.obtained_at) if tokens else None,
        "expires_at": iso(tokens.expires_at) if tokens else None,
        "refresh_token_expires_at": iso(end) if end else None,
        "refresh_token_end_is_fixed": tokens.refresh_end_is_fixed if tokens else False,
        "suspected": False,
        "scope": tokens.scope if tokens else "",
        "lock_holder": grant.intent.holder if grant and grant.intent else None,
        "refresh_began_at": iso(grant.intent.at) if grant and grant.intent else None,
    }


def _lines(document: dict[str, Any], now: float) -> Iterator[tuple[str, str]]:
    """The lines for people, each a name and a text. Unknown values have no line."""
    grant = read_status(document)
    beside = notices(grant, now)
    ready = "ready for now" if grant.code or beside else "ready"
    yield "state", ready if grant.ready else "not ready" if document["running"] else "not running"
    yield from _advice("why", grant.detail, grant.hint)
    if grant.store_error and grant.store_error != grant.detail:
        yield "store", grant.store_error
    for notice in beside:
        yield from _advice("note", notice.text, notice.hint)
    yield "organization", str(document["organization"])
    yield "app", str(document["client_id"])
    yield "redirect URI", str(document["redirect_uri"])
    if document["way_out"] != "direct":
        yield "way out", document["way_out"]
    yield from _tokens(grant, now)
    yield from _refreshes(grant, now)
    for way, last in document.get("alarm", {}).items():
        outcome = "delivered" if last["accepted"] else f"not delivered: {last['said']}"
        at = datetime.fromisoformat(last["at"]).timestamp()
        yield "alarm", f"{last['event']} by {way} {outcome}, {moment(at, now)}"
    if document["running"] and grant.code in SETUP_CODES:
        yield "setup", document["setup_url"] or "krebit-proxy setup --no-browser"


def _advice(name: str, text: str, hint: str) -> Iterator[tuple[str, str]]:
    if text:
        yield name, text
    if hint:
        yield "what to do", hint


def _tokens(grant: GrantStatus, now: float) -> Iterator[tuple[str, str]]:
    if grant.expires_at is not None:
        verb = "expires" if grant.expires_at > now else "expired"
        yield "access token", f"number {grant.generation}, {verb} {moment(grant.expires_at, now)}"
    if grant.obtained_at is not None:
        yield "obtained", moment(grant.obtained_at, now)
    if end := refresh_token_end(grant, now):
        yield "refresh token", end
    if grant.scope:
        yield "scope", grant.scope


def _refreshes(grant: GrantStatus, now: float) -> Iterator[tuple[str, str]]:
    if grant.last_refresh and grant.last_refresh_at is not None:
        yield "last refresh", f"{grant.last_refresh}, {moment(grant.last_refresh_at, now)}"
    if grant.next_refresh_at is not None:
        yield "next refresh", moment(grant.next_refresh_at, now)
    if grant.lock_held:
        yield "lock", "held by this proxy"
    elif grant.lock_holder:
        began = f" {moment(grant.refresh_began_at, now)}" if grant.refresh_began_at is not None else ""
        yield "lock", f"{grant.lock_holder} started a refresh{began} and has not finished"
