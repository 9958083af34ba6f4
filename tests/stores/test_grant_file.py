"""A disk that is full, read-only or gone: an error that says so, and never a lost or a torn grant."""

import errno
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from krebit_proxy.errors import StoreConflictError, StoreError
from tests.stores.conftest import Place, failed, file_place
from tests.stores.mounts import mounted

place = file_place


def names(folder: Path) -> list[str]:
    return sorted(path.name.partition(".")[2] for path in folder.iterdir())


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
    assert ("Free some space" in error.hint) == (code != errno.EIO)
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
            assert (error.code, "Free some space" in error.hint) == ("token_unavailable", True)

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

            assert "Mount its folder instead" in error.value.hint
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
