"""What only a file can do wrong."""

import asyncio
import os
import random
import resource
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from krebit_proxy.core.grant import Grant
from krebit_proxy.errors import StoreBusyError, StoreError
from krebit_proxy.stores import Store, open_store
from krebit_proxy.stores.encryption import new_key
from tests.stores.conftest import Place, failed, file_place

ROOT = os.geteuid() == 0


place = file_place


@pytest.fixture
async def grant_file(place: Place, tmp_path: Path) -> Path:
    """The file of a store that holds generation 1."""
    await place.open().write(0, place.grant(1))
    (found,) = (tmp_path / "grant").glob("*.json")
    return found


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file of this process grows beyond `size` bytes: the write fails half way, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def opened(descriptor: int) -> Path:
    return Path(f"/proc/self/fd/{descriptor}").readlink()


async def refused(store: Store) -> StoreError:
    """The error of a read; it must never look like a store that holds nothing."""
    with pytest.raises(StoreError) as error:
        await store.read()
    return error.value


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
async def test_nobody_else_can_read_or_write_whatever_the_umask_is(place: Place, tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        store = place.open()
        await store.write(0, place.grant(1))
        await store.write(1, place.grant(2))
    finally:
        os.umask(before)

    folder = tmp_path / "grant"
    assert mode(folder) == 0o700
    assert {path.suffix: mode(path) for path in folder.iterdir()} == {".json": 0o600, ".bak": 0o600, ".lock": 0o600}


@pytest.mark.parametrize("bits", [0o702, 0o707, 0o777])
async def test_a_folder_that_everybody_can_write_is_refused(place: Place, grant_file: Path, bits: int) -> None:
    grant_file.parent.chmod(bits)
    error = await refused(place.open())

    assert f"mode {bits:04o}" in error.detail
    assert error.hint == f"Run: chmod 700 {grant_file.parent}"
    with pytest.raises(StoreError):
        await place.open().lock(1)
    assert mode(grant_file.parent) == bits


@pytest.mark.parametrize("suffix", [".json", ".lock"])
async def test_a_file_that_everybody_can_write_is_refused(place: Place, grant_file: Path, suffix: str) -> None:
    grant_file.with_suffix(suffix).chmod(0o602)
    with pytest.raises(StoreError) as error:
        await place.open().probe()

    assert error.value.hint == f"Run: chmod 600 {grant_file.with_suffix(suffix)}"
    assert mode(grant_file.with_suffix(suffix)) == 0o602


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o620, 0o660])
@pytest.mark.parametrize("suffix", [".json", ".lock", ".bak"])
async def test_a_file_that_others_could_use_is_tightened(
    place: Place, grant_file: Path, bits: int, suffix: str
) -> None:
    await place.open().write(1, place.grant(2))
    files = [grant_file.with_suffix(name) for name in (".json", ".lock")]
    loose = grant_file.with_suffix(suffix)
    for path in {loose, *(files if suffix == ".bak" else [])}:  # a copy is never opened, so never alone a reason
        path.chmod(bits)
    with capture_logs() as events:
        await place.open().probe()

    assert mode(loose) == 0o600
    [event] = events
    assert (event["event"], event["log_level"]) == ("store.tightened", "warning")
    assert str(loose) in event["paths"]


async def test_a_folder_that_is_only_listed_by_others_stays_as_it_is(place: Place, grant_file: Path) -> None:
    grant_file.parent.chmod(0o755)
    assert await place.open().read() == place.grant(1)

    assert mode(grant_file.parent) == 0o755


async def test_a_file_system_that_keeps_no_modes_is_refused(
    place: Place, grant_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grant_file.chmod(0o640)
    monkeypatch.setattr(os, "fchmod", lambda *_: None)

    assert (await refused(place.open())).hint == f"Run: chmod 600 {grant_file}"


@pytest.mark.skipif(not ROOT, reason="only root can give files away")
@pytest.mark.parametrize("given_away", ["file", "folder"])
async def test_what_belongs_to_another_user_is_refused(place: Place, grant_file: Path, given_away: str) -> None:
    os.chown(grant_file if given_away == "file" else grant_file.parent, 65534, -1)
    error = await refused(place.open())

    assert "belongs to user 65534" in error.detail


def as_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def as_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


@pytest.mark.parametrize("suffix", [".json", ".lock"])
@pytest.mark.parametrize("disguise", [as_link, as_folder, as_pipe])
async def test_what_is_no_regular_file_is_refused_at_once(
    place: Place, grant_file: Path, disguise: Callable[[Path], None], suffix: str
) -> None:
    disguise(grant_file.with_suffix(suffix))
    with pytest.raises(StoreError) as error:
        await place.open().probe()

    assert str(grant_file.with_suffix(suffix)) in error.value.detail


async def test_a_file_in_place_of_the_folder_is_refused(place: Place, tmp_path: Path) -> None:
    (tmp_path / "grant").touch(0o600)

    assert "is not a folder" in (await refused(place.open())).detail


async def test_a_file_cut_short_anywhere_is_damaged_and_not_a_new_store(place: Place, grant_file: Path) -> None:
    whole, store = grant_file.read_bytes(), place.open()
    for length in range(len(whole)):
        grant_file.write_bytes(whole[:length])
        error = await refused(store)

        assert str(grant_file) in error.detail
        assert "damaged" in error.detail
        assert "access-1" not in error.detail
        assert grant_file.read_bytes() == whole[:length]


async def test_random_bytes_are_damaged_and_not_a_new_store(place: Place, grant_file: Path) -> None:
    dice, store = random.Random(17), place.open()
    for _ in range(200):
        noise = dice.randbytes(dice.randrange(1, 300))
        grant_file.write_bytes(noise)

        assert str(grant_file) in (await refused(store)).detail
        assert grant_file.read_bytes() == noise


@pytest.mark.parametrize(
    "content",
    [
        "{}",
        "[]",
        "null",
        '{"v": 2}',
        '{"v": 1}',
        "[" * 100_000,
        '{"v": 1, "tokens": 1e999}',
        '{"v": ' + "9" * 400 + "}",
    ],
)
async def test_other_json_is_damaged_and_not_a_new_store(place: Place, grant_file: Path, content: str) -> None:
    grant_file.write_text(content)

    assert str(grant_file) in (await refused(place.open())).detail


async def test_a_number_too_large_for_a_time_is_damage(place: Place, grant_file: Path) -> None:
    grant_file.write_text(grant_file.read_text().replace("4600.0", "9" * 400))

    assert "damaged" in (await refused(place.open())).detail


async def test_the_grant_of_another_organization_is_refused(place: Place, grant_file: Path) -> None:
    grant_file.write_text(grant_file.read_text().replace('"acme"', '"globex"'))

    assert "made for another place" in (await refused(place.open())).detail


async def test_a_write_that_fails_half_way_leaves_the_old_grant_and_no_rest(place: Place, grant_file: Path) -> None:
    store = place.open()
    with largest_file(50), pytest.raises(StoreError):
        await store.write(1, place.grant(2))

    assert await store.read() == place.grant(1)
    assert "access-2" not in "".join(path.read_text() for path in grant_file.parent.iterdir())


async def test_writes_of_one_store_at_one_time_take_turns(place: Place, grant_file: Path) -> None:
    store = place.open()
    writes = [store.write(1, place.grant(2, refresh=f"refresh-{number}")) for number in range(8)]
    results = await asyncio.gather(*writes, return_exceptions=True)

    assert sorted(type(result).__name__ for result in results) == ["NoneType", *["StoreConflictError"] * 7]


async def test_a_task_that_waits_for_the_lock_of_its_own_store_gives_up_in_time(place: Place, grant_file: Path) -> None:
    store = place.open()
    taking = [asyncio.ensure_future(store.lock(timeout)) for timeout in (5, 0)]
    results = await asyncio.gather(*taking, return_exceptions=True)

    assert [type(result) for result in results] == [type(None), StoreBusyError]
    await store.confirm_lock()


async def test_readers_see_the_old_grant_or_the_new_and_never_a_part(place: Place, grant_file: Path) -> None:
    writer, done = place.open(), False

    async def look() -> set[int]:
        store, seen = place.open(), set()
        while not done:
            grant = await store.read()
            assert grant is not None
            seen.add(grant.generation)
        return seen

    looking = [asyncio.ensure_future(look()) for _ in range(3)]
    for generation in range(1, 60):
        await writer.write(generation, place.grant(generation + 1))
    done = True

    assert len(set().union(*await asyncio.gather(*looking))) > 1


async def test_a_write_is_on_the_disk_when_it_returns(
    place: Place, grant_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        name = "a new file" if opened(descriptor).suffix == ".new" else opened(descriptor).name
        synced.append(f"{name} while the grant has {len(grant_file.read_bytes())} bytes")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    before = len(grant_file.read_bytes())
    await place.open().write(1, place.grant(2, refresh="a longer refresh token"))
    after = len(grant_file.read_bytes())

    assert synced == [
        f"a new file while the grant has {before} bytes",
        f"grant while the grant has {after} bytes",
    ]


async def test_the_grant_before_is_kept_for_diagnosis_until_a_logout(place: Place, grant_file: Path) -> None:
    store, backup = place.open(), grant_file.with_suffix(".bak")
    await store.write(1, place.grant(2))
    assert '"access-1"' in backup.read_text()
    await store.write(2, Grant(3, "acme", "app", None))

    assert not backup.exists()


async def test_what_a_killed_writer_left_is_swept_away_by_the_next(place: Place, grant_file: Path) -> None:
    rest = grant_file.with_name(f".{grant_file.name}.x7.new")
    rest.write_text("half a gra")
    await place.open().write(1, Grant(2, "acme", "app", None))

    assert sorted(path.suffix for path in grant_file.parent.iterdir()) == [".json", ".lock"]


async def test_a_file_system_without_hard_links_will_do(
    place: Place, grant_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    store = place.open()
    await store.probe()
    await store.write(1, place.grant(2))

    assert await store.read() == place.grant(2)


async def test_the_lock_file_is_never_removed(place: Place, grant_file: Path) -> None:
    lock = grant_file.with_suffix(".lock")
    before = lock.stat().st_ino
    store = place.open()
    await store.lock(1)
    await store.unlock()
    await store.close()

    assert lock.stat().st_ino == before


async def test_a_lock_file_removed_by_hand_locks_nobody_out_and_lets_nobody_spend(
    place: Place, grant_file: Path
) -> None:
    one, two = place.open(), place.open()
    await one.lock(1)
    grant_file.with_suffix(".lock").unlink()
    await two.lock(1)

    with pytest.raises(StoreError) as error:
        await one.confirm_lock()
    assert error.value.code == "token_unavailable"
    await two.confirm_lock()


async def test_a_lock_file_replaced_while_it_is_opened_is_opened_again(
    place: Place, grant_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, real = grant_file.with_suffix(".lock"), os.fstat
    removed: list[Path] = []

    def fstat(descriptor: int) -> os.stat_result:
        if not removed and opened(descriptor) == lock:
            removed.append(lock)
            lock.unlink()
        return real(descriptor)

    monkeypatch.setattr(os, "fstat", fstat)
    store = place.open()
    await store.lock(5)

    await store.confirm_lock()
    assert removed


async def test_a_sealed_store_takes_no_plain_grant(place: Place, grant_file: Path, tmp_path: Path) -> None:
    key_file, plain = tmp_path / "keys", grant_file.read_bytes()
    key_file.write_text(new_key())
    sealing = open_store(place.settings(encryption_key_file=key_file), takes_plain=True)
    await sealing.write(1, place.grant(1))
    await sealing.close()
    assert "access-" not in "".join(path.read_text() for path in grant_file.parent.iterdir())
    store = place.open(encryption_key_file=key_file)
    assert await store.read() == place.grant(1)

    grant_file.write_bytes(plain)
    for attempt in (store.read(), store.write(1, place.grant(2)), store.probe()):
        error = await failed(attempt)
        assert "is not encrypted, although there is a key" in error.detail
        assert "krebit-proxy key seal" in error.hint
    assert grant_file.read_bytes() == plain


def test_it_says_where_it_is_and_nothing_else(place: Place, tmp_path: Path) -> None:
    assert repr(place.open()).startswith(f"<FileStore {tmp_path}/grant/acme-")
