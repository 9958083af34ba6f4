"""The keys that encrypt the grant: where they come from, and `krebit-proxy key`."""

import asyncio
import stat
import sys
from pathlib import Path

import pytest

from krebit_proxy.cli import main
from krebit_proxy.config import load
from krebit_proxy.errors import SettingsError, StoreError
from krebit_proxy.stores.encryption import new_key
from tests.cli.site import GRANT, read, store
from tests.fakes.command import write_settings

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="file modes")


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.touch(0o600)
    path.write_text(f"# the old one\n{new_key()}\n")
    return path


# Where keys come from


def test_the_environment_has_keys_where_there_are_no_files(tmp_path: Path) -> None:
    settings = load(write_settings(tmp_path), {"KREBIT_PROXY_ENCRYPTION_KEY": f"{new_key()} {new_key()}"})

    assert settings.encryption_key is not None
    assert settings.encryption_key_file is None


def test_a_key_that_systemd_passes_is_found(tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "krebit-proxy-key").touch(0o400)
    settings = load(write_settings(tmp_path), {"CREDENTIALS_DIRECTORY": str(credentials)})

    assert settings.encryption_key_file == credentials / "krebit-proxy-key"


def test_a_setting_wins_over_what_systemd_passes(tmp_path: Path, keys: Path) -> None:
    (tmp_path / "krebit-proxy-key").touch(0o400)
    settings = load(write_settings(tmp_path, encryption_key_file="keys"), {"CREDENTIALS_DIRECTORY": str(tmp_path)})

    assert settings.encryption_key_file == keys


def test_a_key_file_that_others_can_read_is_refused(tmp_path: Path, keys: Path) -> None:
    keys.chmod(0o644)
    with pytest.raises(SettingsError, match="can be read by every user"):
        load(write_settings(tmp_path, encryption_key_file="keys"), {})


def test_keys_given_twice_are_refused(tmp_path: Path, keys: Path) -> None:
    with pytest.raises(SettingsError, match="keep one of them"):
        load(write_settings(tmp_path, encryption_key_file="keys"), {"KREBIT_PROXY_ENCRYPTION_KEY": new_key()})


def test_a_key_in_settings_that_others_can_read_is_refused(tmp_path: Path) -> None:
    config = write_settings(tmp_path, encryption_key=new_key())
    assert load(config, {}).encryption_key is not None
    config.chmod(0o644)
    with pytest.raises(SettingsError, match="encryption_key: is in a file that is not private"):
        load(config, {})


# krebit-proxy key


def test_a_new_key_is_printed_or_written_where_nobody_else_can_read_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["key", "new"]) == 0
    printed = capsys.readouterr().out
    assert main(["key", "new", str(tmp_path / "made")]) == 0

    assert len(printed) == len((tmp_path / "made").read_text()) == 45
    assert stat.S_IMODE((tmp_path / "made").stat().st_mode) == 0o600
    assert printed not in capsys.readouterr().out


def test_a_key_that_cannot_be_written_whole_is_not_left_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))  # as good as a full disk
    try:
        assert main(["key", "new", str(tmp_path / "full")]) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert f"{tmp_path / 'full'}: File too large" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_a_new_key_never_replaces_a_file(keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = keys.read_text()

    assert main(["key", "new", str(keys)]) == 1
    assert "File exists" in capsys.readouterr().err
    assert keys.read_text() == before


def test_a_rotation_seals_the_grant_with_a_new_key_and_keeps_the_old_one_below(tmp_path: Path, keys: Path) -> None:
    config = write_settings(tmp_path, encryption_key_file="keys")
    asyncio.run(store(config, GRANT))
    old = keys.read_text()
    assert main(["key", "rotate", "--config", str(config)]) == 0

    new, _, below = keys.read_text().partition("\n")
    assert below == old
    assert stat.S_IMODE(keys.stat().st_mode) == 0o600
    assert asyncio.run(read(config)) == GRANT
    keys.write_text(new)
    assert asyncio.run(read(config)) == GRANT
    keys.write_text(old)
    with pytest.raises(StoreError):
        asyncio.run(read(config))


def test_old_keys_are_dropped_on_demand(tmp_path: Path, keys: Path) -> None:
    config = write_settings(tmp_path, encryption_key_file="keys")
    asyncio.run(store(config, GRANT))
    assert main(["key", "rotate", "--drop-old", "--config", str(config)]) == 0

    assert len(keys.read_text().splitlines()) == 1
    assert asyncio.run(read(config)) == GRANT


def test_a_key_that_was_put_first_by_hand_is_used_without_making_another(tmp_path: Path, keys: Path) -> None:
    config = write_settings(tmp_path, encryption_key_file="keys")
    asyncio.run(store(config, GRANT))
    keys.write_text(f"{new_key()}\n{keys.read_text()}")
    before = keys.read_text()
    assert main(["key", "rotate", "--only-seal", "--config", str(config)]) == 0

    assert keys.read_text() == before
    keys.write_text(before.splitlines()[0])
    assert asyncio.run(read(config)) == GRANT


def test_a_rotation_before_the_first_grant_is_fine(
    tmp_path: Path, keys: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_settings(tmp_path, encryption_key_file="keys")

    assert main(["key", "rotate", "--config", str(config)]) == 0
    assert capsys.readouterr().out == "There is no grant yet.\n"


def test_a_grant_from_before_the_first_key_is_sealed_by_a_person_and_by_nothing_else(
    tmp_path: Path, keys: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asyncio.run(store(write_settings(tmp_path), GRANT))
    config = write_settings(tmp_path, encryption_key_file="keys")
    for command in (["key", "rotate"], ["key", "rotate", "--only-seal"], ["logout"]):
        assert main([*command, "--config", str(config)]) == 1
        assert "run: krebit-proxy key seal" in capsys.readouterr().err
    assert main(["key", "seal", "--config", str(config)]) == 0

    assert capsys.readouterr().out == "The grant is encrypted.\n"
    assert asyncio.run(read(config)) == GRANT
    assert "refresh-1" not in "".join(path.read_text() for path in (tmp_path / "grant").iterdir())
    assert main(["key", "seal", "--config", str(config)]) == 0


def test_without_a_key_or_a_grant_there_is_nothing_to_seal(
    tmp_path: Path, keys: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["key", "seal", "--config", str(write_settings(tmp_path))]) == 2
    assert "krebit-proxy key new FILE" in capsys.readouterr().err
    assert main(["key", "seal", "--config", str(write_settings(tmp_path, encryption_key_file="keys"))]) == 0
    assert capsys.readouterr().out == "There is no grant yet.\n"


def test_without_a_key_file_there_is_nothing_to_rotate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["key", "rotate", "--config", str(write_settings(tmp_path))]) == 2
    assert "krebit-proxy key new FILE" in capsys.readouterr().err
