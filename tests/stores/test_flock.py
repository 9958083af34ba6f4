"""The lock that the operating system frees when its holder is gone."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from krebit_proxy.stores.flock import try_lock


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "lock"
    path.touch()
    return path


@pytest.fixture
def descriptors(file: Path) -> Iterator[tuple[int, int]]:
    pair = os.open(file, os.O_RDWR), os.open(file, os.O_RDWR)
    yield pair
    for descriptor in pair:
        os.close(descriptor)


def test_one_open_file_has_it_even_within_one_process(descriptors: tuple[int, int]) -> None:
    ours, other = descriptors

    assert try_lock(ours)
    assert not try_lock(other)
    assert try_lock(ours)  # who has it may take it again


def test_closing_the_file_frees_it(file: Path, descriptors: tuple[int, int]) -> None:
    holder = os.open(file, os.O_RDWR)
    assert try_lock(holder)
    assert not try_lock(descriptors[0])
    os.close(holder)

    assert try_lock(descriptors[0])


def test_a_holder_that_is_killed_frees_it(file: Path, descriptors: tuple[int, int]) -> None:
    script = (
        "import os, sys; from krebit_proxy.stores.flock import try_lock;"
        " print(try_lock(os.open(sys.argv[1], os.O_RDWR)), flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, file], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == "True\n"
        assert not try_lock(descriptors[0])
        holder.kill()
        holder.wait()

    assert try_lock(descriptors[0])
