"""Who could put another file in the place of one that we trust. Real owners and modes, so most of it needs root."""

import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from krebit_proxy.ownership import open_folder, weaknesses

pytestmark = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="there are no owners")
needs_root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="changes owners")

NOBODY = 65534
DAEMON = 1  # an account of every Unix
STRANGER = 54321  # no account


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A private file in a private folder."""
    folder = tmp_path / "folder"
    folder.mkdir(0o700)
    path = folder / "secret"
    path.touch(0o600)
    return path


def found(path: Path) -> list[tuple[str, bool]]:
    """All weaknesses, with `secret` and `folder` for their paths."""
    texts = [(weak.text.replace(str(path), "SECRET"), weak.certain) for weak in weaknesses(path)]
    return [(text.replace(str(path.parent), "FOLDER"), certain) for text, certain in texts]


def test_a_private_file_has_no_weakness(secret: Path) -> None:
    assert found(secret) == []
    assert open_folder(secret) is None


def test_a_missing_file_has_none(secret: Path) -> None:
    assert found(secret.parent / "missing" / "secret") == []


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o1777, 0o3777, 0o1770, 0o2750])
def test_a_folder_in_which_others_can_replace_nothing_has_none(secret: Path, mode: int) -> None:
    secret.parent.chmod(mode)

    assert found(secret) == []


@pytest.mark.parametrize("mode", [0o777, 0o757, 0o702, 0o2777])
def test_a_folder_that_everybody_may_write_to_is_one(secret: Path, mode: int) -> None:
    secret.parent.chmod(mode)
    remedy = "every user of this computer can write to FOLDER, and so replace SECRET; run: chmod o-w FOLDER"

    assert found(secret) == [(remedy, True)]
    assert open_folder(secret) == secret.parent


def test_every_folder_above_counts(secret: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)

    assert [certain for _, certain in found(secret)] == [True]
    assert open_folder(secret.parent) == tmp_path


@needs_root
@pytest.mark.parametrize(("gid", "doubted"), [(0, False), (NOBODY, True), (STRANGER, True)])
def test_a_group_that_may_write_is_a_doubt_unless_it_is_roots(secret: Path, gid: int, doubted: bool) -> None:
    os.chown(secret.parent, 0, gid)
    secret.parent.chmod(0o770)
    text = "the group of FOLDER can write to it, and so replace SECRET; run: chmod g-w FOLDER"

    assert found(secret) == ([(text, False)] if doubted else [])


@needs_root
def test_the_own_group_of_a_user_is_no_doubt(secret: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.chown(secret.parent, DAEMON, pwd.getpwuid(DAEMON).pw_gid)
    secret.parent.chmod(0o770)
    monkeypatch.setattr(os, "geteuid", lambda: DAEMON)

    assert found(secret) == []


@needs_root
@pytest.mark.parametrize(("uid", "certain"), [(DAEMON, True), (NOBODY, True), (STRANGER, False)])
def test_a_file_of_another_user_is_one_for_certain_if_this_computer_has_that_user(
    secret: Path, uid: int, certain: bool
) -> None:
    os.chown(secret, uid, 0)
    name = pwd.getpwuid(uid).pw_name if certain else uid

    assert found(secret) == [(f"SECRET belongs to user {name}, who can change it; run: chown root SECRET", certain)]


@needs_root
def test_a_folder_of_another_user_is_one(secret: Path) -> None:
    os.chown(secret.parent, DAEMON, 0)

    assert found(secret) == [
        ("FOLDER belongs to user daemon, who can replace SECRET; move it to a folder of your own", True)
    ]
    assert list(weaknesses(secret, mounts=(secret.parent,))) == []


@needs_root
def test_what_is_ours_is_none_whoever_we_are(secret: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.chown(secret, STRANGER, 0)
    monkeypatch.setattr(os, "geteuid", lambda: STRANGER)

    assert found(secret) == []


@needs_root
def test_kubernetes_mounts_are_fine(tmp_path: Path) -> None:
    """A projected volume with fsGroup: a sticky folder, links, and files of root that a group may read."""
    volume = tmp_path / "volume"
    volume.mkdir()
    data = volume / "..2024_11_27"
    data.mkdir()
    (data / "secret").touch()
    (volume / "..data").symlink_to("..2024_11_27")
    (volume / "secret").symlink_to("..data/secret")
    for path, mode in ((volume, 0o3777), (data, 0o2755), (data / "secret", 0o440)):
        os.chown(path, 0, STRANGER)
        path.chmod(mode)

    assert list(weaknesses(volume / "secret")) == []


@needs_root
def test_whoever_can_change_a_link_on_the_way_can_replace_the_file(secret: Path, tmp_path: Path) -> None:
    public = tmp_path / "public"
    public.mkdir()
    link = public / "link"
    link.symlink_to(os.path.relpath(secret, public))
    far = tmp_path / "far"
    far.symlink_to(link)
    assert list(weaknesses(far)) == []

    public.chmod(0o777)
    assert [str(public) in weak.text for weak in weaknesses(far)] == [True]
    public.chmod(0o755)
    os.chown(link, DAEMON, 0, follow_symlinks=False)
    assert list(weaknesses(far)) == []
    public.chmod(0o1777)
    assert [weak.text.partition(" belongs to user daemon")[0] for weak in weaknesses(far)] == [str(link)]


def test_links_in_a_circle_are_none(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")

    assert list(weaknesses(tmp_path / "a")) == []


@needs_root
@pytest.mark.skipif(shutil.which("unshare") is None, reason="makes a user namespace")
def test_a_user_that_the_namespace_does_not_know_counts_as_root(secret: Path) -> None:
    os.chown(secret, STRANGER, 0)
    ask = f"import sys; from krebit_proxy.ownership import *; print(list(weaknesses(Path({str(secret)!r}))))"
    line = ["unshare", "--user", "--map-root-user", sys.executable, "-c", ask]
    finished = subprocess.run(line, capture_output=True, text=True, check=False)
    if "Operation not permitted" in finished.stderr:
        pytest.skip("no user namespaces here")

    assert finished.stdout == "[]\n", finished.stderr
