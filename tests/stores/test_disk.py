"""A disk that hangs: whoever waits is told in time, and what is done late is done under its lock."""

import asyncio
import fcntl
import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from krebit_proxy.errors import StoreError
from krebit_proxy.stores import Store
from krebit_proxy.stores.file import FileStore
from tests.fakes.processes import Process, plain
from tests.fakes.programs import leave_a_hanging_disk
from tests.stores.conftest import Place, failed, file_place
from tests.stores.mounts import mounted

_FREEZE, _THAW = 0xC0045877, 0xC0045878  # FIFREEZE and FITHAW of Linux


place = file_place


class Hanging:
    """A call to the system that does not come back until it is let go."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._let_go = threading.Event()

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self._let_go.wait(60)
        return self._function(*arguments, **named)

    def let_go(self) -> None:
        self._let_go.set()


def hasty(store: Store) -> FileStore:
    """A store with little patience."""
    assert isinstance(store, FileStore)
    store._disk.patience = 0.2
    return store


async def test_a_write_that_hangs_keeps_the_lock_until_it_is_done_and_nobody_waits_for_it(
    place: Place, grant_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = hasty(place.open()), place.open()
    hanging = Hanging(os.replace)
    await store.lock(1)
    with monkeypatch.context() as broken:
        broken.setattr(os, "replace", hanging)
        error = await failed(store.write(2, place.grant(3)))
        assert (error.code, "does not respond" in error.detail) == ("token_unavailable", True)
        store._disk.patience = 3600  # whoever comes now is told at once
        for attempt in (store.read(), store.confirm_lock(), store.probe()):
            assert "does not respond" in (await failed(attempt)).detail
        await store.unlock()
        await store.close()

        assert await other.read() == place.grant(2)
        with pytest.raises(StoreError, match="held the lock"):
            await other.lock(0.2)
        hanging.let_go()
        await other.lock(30)
    assert await other.read() == place.grant(3)
    assert await store.read() == place.grant(3)


async def test_a_lock_that_was_given_up_on_while_the_disk_hung_is_not_kept(
    place: Place, grant_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, hanging = hasty(place.open()), Hanging(os.open)
    with monkeypatch.context() as broken:
        broken.setattr(os, "open", hanging)
        assert "does not respond" in (await failed(store.lock(5))).detail
        hanging.let_go()
        await place.open().lock(30)

    assert (await failed(store.confirm_lock())).code == "token_unavailable"


async def test_a_disk_that_hangs_while_many_wait_is_used_again_when_it_comes_back(
    place: Place, grant_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, hanging = hasty(place.open()), Hanging(os.open)
    with monkeypatch.context() as broken:
        broken.setattr(os, "open", hanging)
        results = await asyncio.gather(*(store.read() for _ in range(20)), return_exceptions=True)
        assert {type(result) for result in results} == {StoreError}
        assert sum(thread.name == "grant store" for thread in threading.enumerate()) == 1
        hanging.let_go()
    store._disk.patience = 30
    while True:
        try:
            assert await store.read() == place.grant(2)
            break
        except StoreError:
            await asyncio.sleep(0.01)


async def test_a_process_ends_though_the_disk_hangs(place: Place) -> None:
    process = Process(leave_a_hanging_disk, plain(place.settings()))

    assert await process.heard() == "token_unavailable"
    assert await process.ended() == 0


async def test_a_file_system_that_is_frozen_stops_nobody(place: Place, tmp_path: Path) -> None:
    folder, image = tmp_path / "grant", tmp_path / "image"
    folder.mkdir(0o700)
    image.write_bytes(bytes(4 << 20))
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("this machine makes no file systems")
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    with mounted("-o", "loop", str(image), at=folder):
        folder.chmod(0o700)
        store = hasty(place.open())
        await store.write(0, place.grant(1))
        await store.lock(1)
        disk = os.open(folder, os.O_RDONLY)
        fcntl.ioctl(disk, _FREEZE, 0)
        try:
            assert "does not respond" in (await failed(store.write(1, place.grant(2)))).detail
            await store.unlock()
            assert await place.open().read() == place.grant(1)
        finally:
            fcntl.ioctl(disk, _THAW, 0)
            os.close(disk)
        other = place.open()
        await other.lock(30)
        assert await other.read() == place.grant(2)  # it was done after all, under its lock
        await other.close()
