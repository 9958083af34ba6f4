"""A private file that leads a browser to a link."""

import os
import signal
import stat
import sys
import time
from pathlib import Path

import pytest

from krebit_proxy.cli.link_file import leading_to

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="file modes and signals")

LINK = "http://localhost:8321/setup?key=1.a-_b.c"


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of this user's session."""
    folder = tmp_path / "runtime"
    folder.mkdir(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    return folder


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_only_its_user_can_read_it_and_it_is_gone_afterwards(runtime: Path) -> None:
    with leading_to(LINK) as page:
        assert page.parent.parent == runtime
        assert (mode(page), mode(page.parent)) == (0o600, 0o700)
        assert f'content="0; url={LINK}"' in page.read_text()
        assert 'name="referrer" content="no-referrer"' in page.read_text()

    assert not any(runtime.iterdir())


def test_a_browser_from_a_snap_finds_it_in_the_home_folder(runtime: Path, tmp_path: Path) -> None:
    (tmp_path / "snap").mkdir()
    with leading_to(LINK) as page:
        assert page.parent.parent == tmp_path
        assert not page.parent.name.startswith(".")
    assert not any(runtime.iterdir())


@pytest.mark.parametrize("session", ["none", "relative", "missing", "open", "of another"])
def test_a_session_folder_that_is_not_ours_is_not_used(
    runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, session: str
) -> None:
    if session == "open":
        runtime.chmod(0o777)
    elif session == "of another":
        monkeypatch.setattr(os, "geteuid", lambda: runtime.stat().st_uid + 1)
    else:
        monkeypatch.setenv("XDG_RUNTIME_DIR", {"none": "", "relative": "x", "missing": f"{runtime}/x"}[session])
    with leading_to(LINK) as page:
        assert page.parent.parent == tmp_path / "temporary"


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_it_is_gone_when_a_signal_ends_the_program(runtime: Path, number: str) -> None:
    def end_early() -> None:
        with leading_to(LINK):
            os.kill(os.getpid(), getattr(signal, number))
            time.sleep(60)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises((SystemExit, KeyboardInterrupt)):
        end_early()

    assert not any(runtime.iterdir())
    assert signal.getsignal(signal.SIGTERM) is before
