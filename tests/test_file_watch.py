"""Files that change: noticed once, and only when they are whole."""

import asyncio
from functools import partial
from pathlib import Path

import pytest

from krebit_proxy.file_watch import FileWatch
from tests.fakes.waiting import eventually


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_text("before")
    return path


def looks(watch: FileWatch, count: int) -> list[bool]:
    return [watch.look() for _ in range(count)]


def test_a_change_is_told_once_when_it_is_the_same_at_two_looks(file: Path) -> None:
    watch = FileWatch(file)
    assert looks(watch, 2) == [False, False]
    file.write_text("after")

    assert looks(watch, 4) == [False, True, False, False]


def test_what_is_still_being_written_is_not_told(file: Path) -> None:
    watch = FileWatch(file)
    for so_far in ("a", "af", "afte", "after"):
        file.write_text(so_far)
        assert not watch.look()

    assert watch.look()


@pytest.mark.parametrize("change", ["removed", "replaced", "mode", "made again"])
def test_whatever_makes_it_another_file_is_a_change(file: Path, tmp_path: Path, change: str) -> None:
    if change == "made again":
        file.unlink()
    watch = FileWatch(file)
    if change == "removed":
        file.unlink()
    elif change == "mode":
        file.chmod(0o400)
    elif change == "made again":
        file.write_text("before")
    else:
        (tmp_path / "new").write_text("before")
        (tmp_path / "new").replace(file)

    assert looks(watch, 3) == [False, True, False]


def test_a_link_that_leads_elsewhere_is_a_change_as_kubernetes_makes_them(file: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(file)
    watch = FileWatch(link)
    (tmp_path / "next").write_text("next")
    link.unlink()
    link.symlink_to(tmp_path / "next")

    assert looks(watch, 3) == [False, True, False]


def test_files_that_belong_together_are_told_together(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    watch = FileWatch(file, other)
    file.write_text("after")
    assert not watch.look()
    other.write_text("after")

    assert looks(watch, 3) == [False, True, False]


async def test_it_follows_without_end(file: Path) -> None:
    told: list[str] = []
    following = asyncio.ensure_future(FileWatch(file).follow(lambda: told.append(file.read_text()), pause=0.01))
    for text in ("one", "two", "three"):
        file.write_text(text)
        await eventually(partial(told.__contains__, text))
    following.cancel()

    assert told == ["one", "two", "three"]
