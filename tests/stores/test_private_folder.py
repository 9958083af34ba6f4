"""Volumes as Kubernetes mounts them: with fsGroup a group may use all that was private, and root owns the volume."""

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from krebit_proxy.core.grant import Grant
from tests.fakes.processes import Process, plain
from tests.fakes.programs import keep_a_grant_as
from tests.stores.conftest import Place

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away, and become another user")
US, FS_GROUP, STRANGER = 41000, 42000, 43000


@pytest.fixture
def volume() -> Iterator[Path]:
    """The folder of a volume, where every user can get to."""
    with tempfile.TemporaryDirectory(prefix="krebit-volume-") as made:
        path = Path(made)
        path.chmod(0o755)
        yield path


def mount(volume: Path) -> None:
    """What kubelet does to a volume with fsGroup before each start of a pod."""
    for path in (volume, *volume.rglob("*")):
        path.chmod(path.stat().st_mode | (0o2770 if path.is_dir() else 0o660))
        os.chown(path, -1, FS_GROUP)
        path.chmod(path.stat().st_mode | (0o2770 if path.is_dir() else 0o660))  # chown resets some


async def used(folder: Path, *, user: int = US) -> tuple[str, list[str]]:
    """What a process of that user finds and stores, and the events in its log."""
    process = Process(keep_a_grant_as, plain(Place(f"file:{folder}").settings()), user, FS_GROUP)
    heard: tuple[str, list[str]] = await process.heard()
    assert await process.ended() == 0
    return heard


def private(folder: Path) -> bool:
    """Whether nobody but us may use the folder and what is in it."""
    return all(
        (found.st_uid, found.st_mode & 0o777) == (US, 0o700 if path.is_dir() else 0o600)
        for path in (folder, *folder.iterdir())
        for found in [path.stat()]
    )


async def test_what_fsgroup_opens_to_a_group_is_tightened_with_one_warning(volume: Path) -> None:
    mount(volume)
    folder = volume / "grant"
    assert await used(folder) == ("found 0, stored 1", [])
    assert await used(folder) == ("found 1, stored 2", [])
    mount(volume)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o2770
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o660}

    assert await used(folder) == ("found 2, stored 3", ["store.tightened"])
    assert private(folder)
    assert await used(folder) == ("found 3, stored 4", [])


async def test_a_volume_of_roots_is_taken_as_the_place_for_a_folder_of_ours(volume: Path) -> None:
    mount(volume)
    assert await used(volume) == ("found 0, stored 1", [])
    mount(volume)
    assert await used(volume) == ("found 1, stored 2", ["store.tightened"])

    (inner,) = volume.iterdir()
    assert private(inner)
    assert stat.S_IMODE(volume.stat().st_mode) == 0o2775


async def test_a_grant_that_was_stored_in_the_volume_itself_is_still_found(volume: Path) -> None:
    os.chown(volume, US, -1)
    assert await used(volume) == ("found 0, stored 1", [])
    assert await used(volume) == ("found 1, stored 2", [])
    os.chown(volume, 0, -1)
    mount(volume)

    assert await used(volume) == ("found 2, stored 3", ["store.tightened"])
    assert await used(volume) == ("found 3, stored 4", [])
    inner = volume / "krebit-proxy"
    assert private(inner)
    assert {path.suffix for path in volume.iterdir()} == {"", ".lock"}  # nothing is left with a token in it


@pytest.mark.parametrize("kind", ["grant", "folder", "link"])
async def test_what_somebody_else_put_into_the_volume_is_refused_and_left_alone(volume: Path, kind: str) -> None:
    mount(volume)
    await used(volume)
    inner = volume / "krebit-proxy"
    found = next(inner.glob("*.json"))
    if kind == "grant":
        os.chown(found, STRANGER, -1)
    elif kind == "folder":
        os.chown(inner, STRANGER, -1)
    else:
        inner.rename(volume / "elsewhere")
        inner.symlink_to("elsewhere")
    mount(volume)
    before = {path: (path.lstat().st_uid, path.lstat().st_mode) for path in volume.rglob("*")}
    outcome, _ = await used(volume)

    assert outcome.startswith("misconfigured: ")
    assert ("belongs to user 43000" if kind != "link" else "is not a folder") in outcome
    if kind != "grant":  # a folder of ours is tightened all the same
        assert {path: (path.lstat().st_uid, path.lstat().st_mode) for path in volume.rglob("*")} == before


async def test_a_grant_of_roots_in_the_volume_is_never_taken_for_a_new_store(volume: Path) -> None:
    store = Place(f"file:{volume}").open()
    await store.write(0, Grant(1, "acme", "app", None))
    await store.close()
    mount(volume)
    (found,) = volume.glob("*.json")

    assert "belongs to user 0" in (await used(volume))[0]
    assert stat.S_IMODE(found.stat().st_mode) == 0o660


@pytest.mark.parametrize(("bits", "told"), [(0o777, "to a folder inside it"), (0o755, "belongs to user 0")])
async def test_a_folder_of_roots_that_all_or_only_root_may_write_to_is_refused(
    volume: Path, bits: int, told: str
) -> None:
    volume.chmod(bits)

    assert told in (await used(volume))[0]
    assert list(volume.iterdir()) == []


async def test_a_folder_of_ours_in_one_that_only_root_may_write_to_is_used(volume: Path) -> None:
    (volume / "krebit-proxy").mkdir(0o700)
    os.chown(volume / "krebit-proxy", US, US)

    assert await used(volume) == ("found 0, stored 1", [])
