"""`krebit-proxy key`."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import click

from krebit_proxy.cli import terminal
from krebit_proxy.cli.invocation import Invocation, common_options, pass_invocation
from krebit_proxy.files import create, replace

if TYPE_CHECKING:
    from krebit_proxy.config import Settings


@click.group
@common_options
def key() -> None:
    """Create and rotate the keys that encrypt the grant.

    Set encryption_key_file to a file with one key on each line. The first key encrypts, all keys decrypt. A running
    proxy reads the file each time it needs a key, so you can change it without a restart.
    """


@key.command
@click.argument("file", required=False, type=click.Path(path_type=Path))
@common_options
def new(file: Path | None) -> None:
    """Create a key.

    Prints the key, or writes it to a new FILE that only you can read.

    Copy FILE to each machine that shares the grant, and keep a copy in a safe place. Without the key, nobody can read
    the grant: you then have to authorize the proxy again.
    """
    from krebit_proxy.stores.encryption import new_key

    made = new_key()
    if file is None:
        terminal.say(made)
        return
    create(file, f"{made}\n")
    terminal.say(f"Wrote a new key to {file}. Set encryption_key_file to this path.")
    terminal.say("If there is a grant already, then run: krebit-proxy key seal")


@key.command
@common_options
@pass_invocation
def seal(invocation: Invocation) -> None:
    """Encrypt a grant that was stored without a key.

    Run this once, when you have set the first key. From then on, the proxy refuses a grant that is not encrypted,
    because anybody who can write to the store could have put it there.
    """
    from krebit_proxy.errors import SettingsError

    settings = invocation.settings()
    if not (settings.encryption_key_file or settings.encryption_key):
        raise SettingsError(["encryption_key_file: is not set"], hint="create one with: krebit-proxy key new FILE")
    sealed = asyncio.run(_seal_again(settings, takes_plain=True))
    terminal.say("The grant is encrypted." if sealed else "There is no grant yet.")


@key.command
@click.option("--only-seal", is_flag=True, help="Create no key. Encrypt the grant with the first key in the file.")
@click.option("--drop-old", is_flag=True, help="Afterwards, remove all keys except the first from the file.")
@common_options
@pass_invocation
def rotate(invocation: Invocation, *, only_seal: bool, drop_old: bool) -> None:
    """Add a new key and encrypt the grant with it.

    The new key becomes the first line of encryption_key_file. The old keys stay below it.

    If several machines share the grant, all of them need the new key before one of them uses it. Run `krebit-proxy
    key new >> FILE` on one machine, and add that last line to the file of each other machine. Then move the line to
    the top in each file, and run `krebit-proxy key rotate --only-seal` on one machine.
    """
    from krebit_proxy.errors import SettingsError
    from krebit_proxy.stores.encryption import new_key, read_encryption_keys

    settings = invocation.settings()
    file = settings.encryption_key_file
    if file is None and not (only_seal and settings.encryption_key):
        raise SettingsError(
            ["encryption_key_file: is not set, so there is no file for the new key"],
            hint="create one with: krebit-proxy key new FILE",
        )
    if file is not None and not only_seal:
        replace(file.resolve(), f"{new_key()}\n{file.read_text()}")
    sealed = asyncio.run(_seal_again(settings))
    terminal.say("The grant is encrypted with the first key." if sealed else "There is no grant yet.")
    if file is not None and drop_old:
        replace(file.resolve(), f"{read_encryption_keys(file)[0]}\n")
        terminal.say(f"Removed the old keys from {file}.")


async def _seal_again(settings: "Settings", *, takes_plain: bool = False) -> bool:
    """Writes the grant again, which encrypts it with the first key. Returns False if there is no grant."""
    from krebit_proxy.cli.stored_grant import locked_store

    async with locked_store(settings, takes_plain=takes_plain) as store:
        grant = await store.read()
        if grant is not None:
            await store.write(grant.generation, grant)
    return grant is not None
