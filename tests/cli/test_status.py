"""`krebit-proxy status`."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from krebit_proxy.config import load
from krebit_proxy.core.grant import Intent
from krebit_proxy.stores import open_store
from tests.cli.site import proxy, set_up_by_pasting
from tests.fakes.command import run


async def test_status_tells_who_is_at_a_refresh_or_has_broken_one_off(folder: Path) -> None:
    await set_up_by_pasting(folder)
    settings = load(folder / "config.yaml", {})
    store = open_store(settings)
    held = await store.read()
    assert held is not None
    began = datetime.now(UTC) - timedelta(seconds=170)
    await store.write(1, replace(held, intent=Intent(began.timestamp(), "abcdef01", "elsewhere/7")))
    await store.close()
    alone = json.loads((await run("status", "--json", folder=folder)).out)
    async with proxy(folder):
        served = json.loads((await run("status", "--json", folder=folder)).out)
        lines = (await run("status", folder=folder)).out.splitlines()

    for status in (alone, served):
        assert status["lock_holder"] == "elsewhere/7"
        assert status["refresh_began_at"] == began.isoformat(timespec="seconds")
    assert served["lock_held"] is False
    assert "lock         elsewhere/7 began a refresh 3 min ago, and has not finished" in lines
