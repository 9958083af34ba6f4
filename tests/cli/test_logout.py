"""`krebit-proxy logout`."""

import json
from pathlib import Path

from krebit_proxy.sandbox import Sandbox
from tests.cli.site import set_up_by_pasting, write
from tests.fakes.command import run


async def test_logout_revokes_and_forgets(sandbox: Sandbox, folder: Path, port: int) -> None:
    write(folder, sandbox, port, oauth={"revoke_url": f"{sandbox.url}/oauth/revoke"})
    await set_up_by_pasting(folder)

    assert (await run("logout", folder=folder)).out == "Deleted the grant.\n"
    assert sandbox.counters["revocations"] > 0
    assert json.loads((await run("status", "--json", folder=folder)).out)["code"] == "setup_required"
    assert (await run("logout", folder=folder)).out == "There is no grant to delete.\n"
