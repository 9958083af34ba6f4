"""What a person does with the commands: writes settings, starts the proxy, goes through setup by pasting."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from krebit_proxy.config import load
from krebit_proxy.core.grant import Grant, Tokens
from krebit_proxy.core.secret import Secret
from krebit_proxy.sandbox import Sandbox
from krebit_proxy.sandbox.visitor import Visitor
from krebit_proxy.stores import open_store
from tests.fakes.command import Command, running, write_settings

NOW = 1_800_000_000.0
GRANT = Grant(3, "acme", "app", Tokens(Secret("access-3"), Secret("refresh-1"), NOW, NOW + 3600), authorized_at=NOW)


def write(folder: Path, sandbox: Sandbox, port: int, **more: Any) -> None:
    of_sandbox = {
        "organization": sandbox.options.organization,
        "client_id": sandbox.client_id,
        "client_secret": sandbox.client_secret,
        "redirect_uri": sandbox.options.redirect_uri,
        "listen": f"localhost:{port}",
        "upstream": {"url": sandbox.url},
        "log": {"format": "json"},
    }
    write_settings(folder, **of_sandbox | more)


@asynccontextmanager
async def proxy(folder: Path) -> AsyncIterator[Command]:
    async with running("run", folder=folder, merged=True) as command:
        await command.until("proxy.started")
        yield command


def link_in(text: str) -> str:
    """The one line that is a link."""
    (link,) = {line.strip() for line in text.splitlines() if line.strip().startswith("http") and "?" in line}
    return link


async def set_up_by_pasting(folder: Path, *, decision: Any = "allow", first: str = "") -> Command:
    async with running("setup", "--no-browser", folder=folder) as command, Visitor() as visitor:
        link = link_in(await command.until("Address: "))
        if first:
            command.type(first)
        command.type(await visitor.consent(link, decision))
        finished = await command.finished()
        command.printed = finished.out + finished.err
        return command


async def read(config: Path) -> Grant | None:
    store = open_store(load(config, {}))
    try:
        return await store.read()
    finally:
        await store.close()


async def store(config: Path, grant: Grant, *, expected: int = 0) -> None:
    found = open_store(load(config, {}))
    await found.write(expected, grant)
    await found.close()
