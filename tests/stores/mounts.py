"""File systems for the length of a test."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


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
