"""Files are written whole or not at all, whatever goes wrong."""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from krebit_proxy.files import create, make_folder, replace, sweep


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The name of a file, in a folder that has nothing else."""
    folder = tmp_path / "folder"
    folder.mkdir()
    return folder / "file"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def broken(function: Callable[..., Any], number: int) -> Callable[..., Any]:
    """The function of the system, but that its call of this number, from 1, fails."""
    calls = 0

    def called(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            raise OSError(errno.EIO, os.strerror(errno.EIO), "some other name")
        return function(*arguments, **named)

    return called


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_a_new_file_has_its_mode_whatever_the_umask_is(file: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        create(file, "new å")
        replace(file.with_name("other"), b"new")
    finally:
        os.umask(before)

    assert file.read_text("utf-8") == "new å"
    assert (mode(file), mode(file.with_name("other"))) == (0o600, 0o600)


def test_nothing_is_written_before_the_mode_is_right(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    real = Path.chmod

    def chmod(path: Path, bits: int) -> None:
        seen.append((mode(path), path.stat().st_size))
        real(path, bits)

    monkeypatch.setattr(Path, "chmod", chmod)
    replace(file, "new", mode=0o640)

    assert seen == [(0o600, 0)]
    assert mode(file) == 0o640


def test_a_file_that_is_there_is_never_created_again(file: Path) -> None:
    file.write_text("before")
    with pytest.raises(FileExistsError) as error:
        create(file, "new")

    assert error.value.filename == str(file)
    assert file.read_text() == "before"


def test_a_link_that_leads_nowhere_is_not_followed_to_make_a_file(file: Path) -> None:
    file.symlink_to("elsewhere")
    with pytest.raises(FileExistsError):
        create(file, "new")

    assert names(file.parent) == ["file"]


def test_a_file_keeps_its_mode_when_it_is_replaced_unless_another_is_asked_for(file: Path) -> None:
    file.write_text("before")
    file.chmod(0o640)
    replace(file, "new")
    assert (file.read_text(), mode(file)) == ("new", 0o640)
    replace(file, "newer", mode=0o600)

    assert (file.read_text(), mode(file)) == ("newer", 0o600)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_file_keeps_its_owner_when_root_replaces_it(file: Path) -> None:
    file.write_text("before")
    os.chown(file, 41000, 42000)
    replace(file, "new")

    assert (file.stat().st_uid, file.stat().st_gid, file.read_text()) == (41000, 42000, "new")


@pytest.mark.parametrize("step", [("fsync", 1), ("replace", 1), ("fdopen", 1)])
@pytest.mark.parametrize("there", [True, False])
def test_what_fails_leaves_all_as_it_was_and_names_the_file(
    file: Path, monkeypatch: pytest.MonkeyPatch, step: tuple[str, int], there: bool
) -> None:
    if there:
        file.write_text("before")
    with monkeypatch.context() as system:
        system.setattr(os, step[0], broken(getattr(os, step[0]), step[1]))
        with pytest.raises(OSError, match="Input/output error") as error:
            replace(file, "new") if there else create(file, "new")

    assert (error.value.errno, error.value.filename) == (errno.EIO, str(file))
    assert {path.name: path.read_text() for path in file.parent.iterdir()} == ({"file": "before"} if there else {})


def test_content_and_folder_are_on_the_disk_when_it_returns(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[bool, bool]] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append((stat.S_ISDIR(os.fstat(descriptor).st_mode), file.exists()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    replace(file, "new")

    assert synced == [(False, False), (True, True)]


@pytest.mark.parametrize(("code", "fails"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_a_file_system_that_flushes_no_folders_will_do(
    file: Path, monkeypatch: pytest.MonkeyPatch, code: int, fails: bool
) -> None:
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(code, os.strerror(code))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    if fails:
        with pytest.raises(OSError, match="Input/output error"):
            replace(file, "new")
    else:
        replace(file, "new")

    assert names(file.parent) == ["file"]


def test_a_folder_that_is_missing_is_told_by_the_name_of_the_file(file: Path) -> None:
    file.parent.rmdir()
    for attempt in (create, replace):
        with pytest.raises(FileNotFoundError) as error:
            attempt(file, "new")
        assert error.value.filename == str(file)


def test_what_killed_writers_left_of_this_file_is_swept_away_and_nothing_else(file: Path) -> None:
    for name in (".file.k3x.new", ".file.abc.new", ".other.k3x.new", "file.new", ".file.txt", "file"):
        file.with_name(name).touch()
    sweep(file)

    assert names(file.parent) == [".file.txt", ".other.k3x.new", "file", "file.new"]


def test_a_folder_is_made_with_those_above_it_and_each_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    folder = tmp_path / "a" / "b"
    for _ in range(2):
        make_folder(folder)

    assert mode(folder) == 0o700
    assert synced == [(tmp_path / "a").stat().st_ino, tmp_path.stat().st_ino]
