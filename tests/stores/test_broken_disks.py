"""A disk that is full, read-only, gone or hangs: an error within a bounded time, and never a lost or a torn grant."""

import asyncio
import errno
import fcntl
import os
import shutil
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from krebit_proxy.errors import StoreConflictError, StoreError
from krebit_proxy.stores import Store
from krebit_proxy.stores.file import FileStore
from tests.fakes.processes import Process, plain
from tests.fakes.programs import leave_a_hanging_disk
from tests.stores.conftest import Place

_FREEZE, _THAW = 0xC0045877, 0xC0045878  # FIFREEZE and FITHAW of Linux


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    found = Place(f"file:{tmp_path / 'grant'}")
    yield found
    for store in found.opened:
        await store.close()


@pytest.fixture
async def grant_file(place: Place, tmp_path: Path) -> Path:
    """The file of a store that holds generation 2, and its copy of generation 1."""
    store = place.open()
    await store.write(0, place.grant(1))
    await store.write(1, place.grant(2))
    (found,) = (tmp_path / "grant").glob("*.json")
    return found


@contextmanager
def mounted(*arguments: str, at: Path) -> Iterator[None]:
    """A mount for the length of a test, which only root can make, and not everywhere."""
    made = subprocess.run(["mount", *arguments, str(at)], check=False, capture_output=True)
    if made.returncode:
        pytest.skip("this user cannot mount")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(at)], check=True)


def names(folder: Path) -> list[str]:
    return sorted(path.name.partition(".")[2] for path in folder.iterdir())


async def failed(attempt: Any) -> StoreError:
    with pytest.raises(StoreError) as error:
        await attempt
    return error.value


def failing(function: Callable[..., Any], number: int, code: int) -> Callable[..., Any]:
    """The function of the system, but that its call of this number, from 1, fails with the error of that code."""
    calls = 0

    def called(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            raise OSError(code, os.strerror(code))
        return function(*arguments, **named)

    return called


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize(
    "step", [("fsync", 1, 2), ("replace", 1, 2), ("fsync", 2, 3)], ids=["content", "name", "folder"]
)
async def test_wherever_a_write_fails_the_store_holds_a_whole_grant_and_no_rest(
    place: Place, grant_file: Path, monkeypatch: pytest.MonkeyPatch, code: int, step: tuple[str, int, int]
) -> None:
    function, call, stored = step
    store = place.open()
    with monkeypatch.context() as broken:
        broken.setattr(os, function, failing(getattr(os, function), call, code))
        error = await failed(store.write(2, place.grant(3)))

    assert error.code == "token_unavailable"
    assert str(grant_file) in error.detail
    assert ("make room" in error.hint) == (code != errno.EIO)
    assert await store.read() == place.grant(stored)
    assert names(grant_file.parent) == ["bak", "json", "lock"]
    await store.write(stored, place.grant(4))
    assert await place.open().read() == place.grant(4)


async def test_a_full_disk_is_told_of_and_holds_the_old_grant(place: Place, tmp_path: Path) -> None:
    folder = tmp_path / "grant"
    folder.mkdir(0o700)
    with mounted("-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", at=folder):
        store = place.open()
        await store.write(0, place.grant(1))
        with pytest.raises(OSError, match="No space left"):
            (folder / "filling").write_bytes(bytes(2 << 20))
        for attempt in (store.write(1, place.grant(2)), store.probe()):
            error = await failed(attempt)
            assert (error.code, "make room" in error.hint) == ("token_unavailable", True)

        assert await store.read() == place.grant(1)
        assert names(folder) == ["", "bak", "json", "lock"]  # and the filling
        await store.lock(1)
        await store.unlock()
        (folder / "filling").unlink()
        await store.write(1, place.grant(2))
        assert await store.read() == place.grant(2)
        await store.close()


async def test_a_disk_that_is_full_before_the_first_grant_takes_no_lock(place: Place, tmp_path: Path) -> None:
    folder = tmp_path / "grant"
    folder.mkdir(0o700)
    with mounted("-t", "tmpfs", "-o", "size=1m,nr_inodes=1,mode=700", "tmpfs", at=folder):
        store = place.open()
        for attempt in (store.lock(1), store.write(0, place.grant(1)), store.probe()):
            assert (await failed(attempt)).code == "token_unavailable"

        assert await store.read() is None
        assert names(folder) == []
        await store.close()


async def test_a_disk_that_becomes_read_only_can_still_be_read(place: Place, grant_file: Path) -> None:
    store, folder = place.open(), str(grant_file.parent)
    await store.lock(1)
    with mounted("--bind", folder, at=grant_file.parent):
        subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)
        for attempt in (store.write(2, place.grant(3)), place.open().lock(1), place.open().probe()):
            error = await failed(attempt)
            assert "read-only" in error.hint
            assert folder in error.detail
        assert await store.read() == place.grant(2)
    await store.write(2, place.grant(3))


async def test_a_lock_that_cannot_be_taken_does_not_keep_the_grant_from_being_read(
    place: Place, grant_file: Path
) -> None:
    store, lock = place.open(), grant_file.with_suffix(".lock")
    with mounted("--bind", str(lock), at=lock):
        subprocess.run(["mount", "-o", "remount,ro,bind", str(lock)], check=True)
        for attempt in (store.lock(5), store.write(2, place.grant(3)), store.probe()):
            assert str(lock) in (await failed(attempt)).detail
        assert await store.read() == place.grant(2)
    await store.write(2, place.grant(3))


async def test_a_mount_of_the_single_file_is_refused_with_advice(place: Place, grant_file: Path) -> None:
    store = place.open()
    with mounted("--bind", str(grant_file), at=grant_file):
        for attempt in (store.probe(), store.write(2, place.grant(3))):
            with pytest.raises(StoreError) as error:
                await attempt

            assert "mount its folder instead" in error.value.hint
        assert await store.read() == place.grant(2)


async def test_a_folder_that_was_removed_is_made_anew_and_nothing_is_made_up(place: Place, grant_file: Path) -> None:
    store = place.open()
    await store.lock(1)
    shutil.rmtree(grant_file.parent)

    assert await store.read() is None
    assert (await failed(store.confirm_lock())).code == "token_unavailable"
    with pytest.raises(StoreConflictError):
        await store.write(2, place.grant(3))
    await store.unlock()
    await store.write(0, place.grant(3))
    assert await place.open().read() == place.grant(3)


@pytest.mark.parametrize("step", ["open", "fstat", "fsync", "replace"])
async def test_a_step_that_is_not_allowed_any_more_is_explained(
    place: Place, grant_file: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    store = place.open()
    await store.read()
    with monkeypatch.context() as broken:
        broken.setattr(os, step, failing(getattr(os, step), 1, errno.EACCES))
        error = await failed(store.write(2, place.grant(3)))

    assert error.code == "misconfigured"
    assert "Permission denied" in error.detail
    assert await store.read() == place.grant(2)


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
        assert (error.code, "in time" in error.detail) == ("token_unavailable", True)
        store._disk.patience = 3600  # whoever comes now is told at once
        for attempt in (store.read(), store.confirm_lock(), store.probe()):
            assert "in time" in (await failed(attempt)).detail
        await store.unlock()
        await store.close()

        assert await other.read() == place.grant(2)
        with pytest.raises(StoreError, match="holds the lock"):
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
        assert "in time" in (await failed(store.lock(5))).detail
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
            assert "in time" in (await failed(store.write(1, place.grant(2)))).detail
            await store.unlock()
            assert await place.open().read() == place.grant(1)
        finally:
            fcntl.ioctl(disk, _THAW, 0)
            os.close(disk)
        other = place.open()
        await other.lock(30)
        assert await other.read() == place.grant(2)  # it was done after all, under its lock
        await other.close()
