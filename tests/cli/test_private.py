"""New files that nobody else may read."""

import os
import stat
import sys
from pathlib import Path

import pytest

from krebit_proxy.cli.private import create

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="file modes")


def test_nobody_else_can_read_it_whatever_the_umask_is(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        create(tmp_path / "new", "s3cret å")
    finally:
        os.umask(before)

    assert (tmp_path / "new").read_bytes() == "s3cret å".encode()
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o600


def test_neither_a_file_nor_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("there", "link"):
        with pytest.raises(FileExistsError, match=name):
            create(tmp_path / name, "new")

    assert (tmp_path / "there").read_text() == "precious"
    assert not (tmp_path / "elsewhere").exists()
