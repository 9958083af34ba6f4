"""A disk that is full when the token expires: callers learn of it in ten seconds, and each further one at once."""

import asyncio
import io
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from krebit_proxy import log
from krebit_proxy.config import Log
from krebit_proxy.program import Proxy
from tests.fakes.door import ask
from tests.fakes.proxy import RunningProxy, settings_of, store_grant
from tests.fakes.resource_server import ResourceServer
from tests.fakes.upstream import Upstream
from tests.grant.conftest import readiness

PROMISE = 10.0  # seconds in which a caller is told
GRACE = 2.0  # more for a slow machine
AT_ONCE = 1.0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one MiB, which only root can make."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", str(folder)]
    if subprocess.run(["mount", *options], check=False, capture_output=True).returncode:
        pytest.skip("this user cannot mount")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Takes all the room that is left."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    return filler


@pytest.fixture
async def proxy(small_disk: Path, upstream: Upstream, api: ResourceServer) -> AsyncIterator[RunningProxy]:
    """A proxy whose token has expired, and whose disk is full."""
    settings = settings_of(upstream.url, small_disk)
    await store_grant(settings, expires_in=-5)
    fill(small_disk)
    output = io.StringIO()
    log.configure(Log(format="json"), output)
    running = RunningProxy(Proxy(settings), settings, output)
    await running.proxy.start()
    yield running
    (small_disk / "filler").unlink(missing_ok=True)
    await running.stop()
    assert "Traceback" not in running.written()


@pytest.mark.slow
async def test_a_caller_is_told_within_ten_seconds_and_each_further_call_at_once(
    proxy: RunningProxy, upstream: Upstream
) -> None:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    got = await ask(proxy, "GET", "/api/invoices/1")
    assert (got.status, got.code) == (503, "token_unavailable")
    assert loop.time() - begun <= PROMISE + GRACE
    for number in range(10):
        begun = loop.time()
        assert (await ask(proxy, "GET", f"/api/invoices/{number}")).code == "token_unavailable"
        assert loop.time() - begun <= AT_ONCE
        await asyncio.sleep(0.2)
    status, document = await readiness(proxy)
    assert (status, document["code"]) == (503, "token_unavailable")
    assert upstream.tokens.requests == []  # nothing is spent that could not be stored


@pytest.mark.slow
async def test_room_on_the_disk_is_all_it_needs(proxy: RunningProxy, upstream: Upstream, small_disk: Path) -> None:
    await ask(proxy, "GET", "/api/invoices/1")
    (small_disk / "filler").unlink()
    loop = asyncio.get_running_loop()
    end = loop.time() + 60
    while (got := await ask(proxy, "GET", "/api/invoices/1")).status != 200:
        assert got.code == "token_unavailable"
        assert loop.time() < end, "it never comes back"
        await asyncio.sleep(0.2)
    assert upstream.tokens.presented == ["refresh-1"]
