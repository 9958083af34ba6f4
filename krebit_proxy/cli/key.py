"""`krebit-proxy key`."""

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from krebit_proxy.cli import terminal
from krebit_proxy.cli.invocation import Invocation, common_options, pass_invocation
from krebit_proxy.cli.private import create

if TYPE_CHECKING:
    from krebit_proxy.config import Settings


@click.group
@common_options
def key() -> None:
    """Make and change the keys that encrypt the stored grant.

    The setting encryption_key_file names a file with one key a line. The first one encrypts, each may decrypt. A
    running proxy reads the file anew each time, so that a change needs no restart.
    """


@key.command
@click.argument("file", required=False, type=click.Path(path_type=Path))
@common_options
def new(file: Path | None) -> None:
    """Make a key.

    It is printed, or written to a new FILE that only you can read.

    Give a copy of FILE to each machine that shares the grant, and keep one in a safe place: without it nobody can read
    the grant again. Losing it costs no more than a new authorization.
    """
    from krebit_proxy.stores.encryption import new_key

    made = new_key()
    if file is None:
        terminal.say(made)
        return
    create(file, f"{made}\n")
    terminal.say(f"A new key is in {file}. Set encryption_key_file to it.")


@key.command
@click.option("--only-seal", is_flag=True, help="Make no key: seal the grant with the first one that is there.")
@click.option("--drop-old", is_flag=True, help="Then remove all keys but the first from the file.")
@common_options
@pass_invocation
def rotate(invocation: Invocation, *, only_seal: bool, drop_old: bool) -> None:
    """Put a new key first, and seal the grant with it.

    The old keys stay below it in encryption_key_file.

    Where machines share the grant, all must know the new key before one uses it. So write it as the last line into the
    file of each machine (`krebit-proxy key new >> FILE`, once, then copy that line), then move it to the top in each
    file, and run `krebit-proxy key rotate --only-seal` on one of them.
    """
    from krebit_proxy.errors import SettingsError
    from krebit_proxy.stores.encryption import new_key, read_keys

    settings = invocation.settings()
    file = settings.encryption_key_file
    if file is None and not (only_seal and settings.encryption_key):
        raise SettingsError(
            ["encryption_key_file: is not set, so there is no file to put a new key into"],
            hint="make one with: krebit-proxy key new FILE",
        )
    if file is not None and not only_seal:
        _replace(file, f"{new_key()}\n{file.read_text()}")
    sealed = asyncio.run(_seal_again(settings))
    terminal.say("The grant is sealed with the first key." if sealed else "There is no grant yet to be sealed.")
    if file is not None and drop_old:
        _replace(file, f"{read_keys(file)[0]}\n")
        terminal.say(f"The old keys are gone from {file}.")


async def _seal_again(settings: "Settings") -> bool:
    """Writes the grant as it is, which seals it with the first key. Whether there is one."""
    from krebit_proxy.core.lifecycle import LOCK_TIMEOUT
    from krebit_proxy.stores import open_store

    store = open_store(settings)
    try:
        await store.lock(LOCK_TIMEOUT)
        grant = await store.read()
        if grant is not None:
            await store.write(grant.generation, grant)
        return grant is not None
    finally:
        await store.close()


def _replace(file: Path, text: str) -> None:
    """Replaces a file as a whole, and leaves its owner and mode as they are."""
    file, found = file.resolve(), file.stat()
    temporary = file.with_name(f".{file.name}.new")
    temporary.unlink(missing_ok=True)
    create(temporary, text, mode=found.st_mode & 0o777)
    if hasattr(os, "chown"):
        os.chown(temporary, found.st_uid, found.st_gid)
    temporary.replace(file)
