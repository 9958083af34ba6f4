"""The keys that encrypt the grant, and the grant on its way from one machine to another."""

import asyncio
import stat
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from krebit_proxy.cli import main
from krebit_proxy.cli.envelope import Receiver, seal
from krebit_proxy.config import load
from krebit_proxy.core.grant import Grant, Tokens, Verdict
from krebit_proxy.core.secret import Secret
from krebit_proxy.errors import SettingsError, StoreError
from krebit_proxy.stores import open_store
from krebit_proxy.stores.encryption import new_key
from tests.fakes.authorization_server import AuthorizationServer
from tests.fakes.command import Command, run, running, write_settings

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="file modes")
NOW = 1_800_000_000.0
GRANT = Grant(3, "acme", "app", Tokens(Secret("access-3"), Secret("refresh-1"), NOW, NOW + 3600), authorized_at=NOW)


async def read(config: Path) -> Grant | None:
    store = open_store(load(config, {}))
    try:
        return await store.read()
    finally:
        await store.close()


async def store(config: Path, grant: Grant, *, expected: int = 0) -> None:
    found = open_store(load(config, {}))
    await found.write(expected, grant)
    await found.close()


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


def test_without_a_key_file_there_is_nothing_to_rotate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["key", "rotate", "--config", str(write_settings(tmp_path))]) == 2
    assert "krebit-proxy key new FILE" in capsys.readouterr().err


# krebit-proxy grant


def test_an_envelope_opens_for_its_receiver_only() -> None:
    receiver, other = Receiver(), Receiver()
    envelope = seal(GRANT, receiver.address)

    assert receiver.open(envelope) == GRANT
    assert receiver.open("\n".join((envelope[:99], envelope[99:], ""))) == GRANT
    for opener, text in [
        (other, envelope),
        (receiver, envelope[:-4]),
        (receiver, envelope[:40]),
        (receiver, ""),
        (receiver, "ä"),
        (receiver, envelope + "AAAA"),
    ]:
        with pytest.raises(ValueError, match=r"^this (is not|grant was exported to another)"):
            opener.open(text)
    for address in ("abcd", receiver.address[:-4], "Ag" + 43 * "A", "ä"):
        with pytest.raises(ValueError, match="not an address"):
            seal(GRANT, address)


def test_what_another_version_printed_is_told_to_be_that() -> None:
    receiver = Receiver()
    for text in (receiver.address[1:], "B" + receiver.address[1:]):
        with pytest.raises(ValueError, match="same version of krebit-proxy"):
            seal(GRANT, text)
        with pytest.raises(ValueError, match="same version of krebit-proxy"):
            receiver.open(text)


async def waiting_for_a_grant(command: Command) -> str:
    """The address that an import prints, as soon as it waits."""
    printed = await command.until("press Enter:")
    return printed.split("grant export ")[1].split()[0]


async def test_a_grant_moves_from_one_machine_to_another(tmp_path: Path) -> None:
    laptop, server = tmp_path / "laptop", tmp_path / "server"
    laptop.mkdir()
    server.mkdir()
    await store(write_settings(laptop), GRANT)
    write_settings(server)
    async with running("grant", "import", folder=server, merged=True) as importing:
        exported = await run("grant", "export", await waiting_for_a_grant(importing), folder=laptop)
        importing.type(exported.out)
        imported = await importing.finished()

    assert (exported.status, imported.status) == (0, 0)
    assert "refresh-1" not in exported.out + exported.err + imported.out
    there, here = await read(server / "config.yaml"), await read(laptop / "config.yaml")
    assert there is not None
    assert there.tokens == GRANT.tokens
    assert here is not None
    assert (here.generation, here.tokens) == (4, None)


def test_an_address_does_not_look_like_an_option() -> None:
    assert not [address for address in (Receiver().address for _ in range(500)) if address.startswith("-")]


async def test_what_cannot_be_exported_stays(tmp_path: Path) -> None:
    config = write_settings(tmp_path)
    address = Receiver().address

    assert "no grant here" in (await run("grant", "export", address, folder=tmp_path)).err
    await store(config, GRANT)
    assert (await run("grant", "export", "nonsense", folder=tmp_path)).status == 2
    assert await read(config) == GRANT
    refused = replace(GRANT, verdict=Verdict(NOW, "Refused."))
    await store(config, refused, expected=3)
    assert "no longer accepts" in (await run("grant", "export", address, folder=tmp_path)).err
    assert await read(config) == refused


@pytest.mark.parametrize("what", ["noise", "another app"])
async def test_what_cannot_be_imported_is_said_to_be(tmp_path: Path, what: str) -> None:
    config = write_settings(tmp_path)
    async with running("grant", "import", folder=tmp_path, merged=True) as importing:
        address = await waiting_for_a_grant(importing)
        importing.type(f"{seal(Grant(1, 'acme', 'other', GRANT.tokens), address) if what != 'noise' else 'noise'}\n\n")
        finished = await importing.finished()

    assert finished.status == 1
    assert "what to do:" in finished.out
    assert await read(config) is None


async def test_a_grant_is_not_imported_over_another(tmp_path: Path) -> None:
    config = write_settings(tmp_path)
    await store(config, GRANT)
    finished = await run("grant", "import", folder=tmp_path)

    assert finished.status == 1
    assert "krebit-proxy logout" in finished.err
    assert await read(config) == GRANT


@pytest.fixture
async def authorization_server() -> AsyncIterator[AuthorizationServer]:
    async with AuthorizationServer() as server:
        yield server


async def take_over(folder: Path, token: str) -> tuple[int, str]:
    async with running("grant", "import", "--refresh-token-stdin", folder=folder, merged=True) as importing:
        importing.type(token)
        finished = await importing.finished()
    return finished.status, finished.out


async def test_a_refresh_token_of_another_program_is_tried_once_and_what_comes_back_is_stored(
    tmp_path: Path, authorization_server: AuthorizationServer
) -> None:
    config = write_settings(tmp_path, upstream={"url": authorization_server.url})
    status, printed = await take_over(tmp_path, "refresh-1")
    grant = await read(config)

    assert status == 0
    assert "refresh-1" not in printed
    assert len(authorization_server.requests) == 1
    assert grant is not None
    assert grant.tokens is not None
    assert grant.tokens.refresh_token == Secret("refresh-2")
    assert grant.tokens.expires_at > time.time()


async def test_a_refresh_token_that_is_refused_is_not_kept(
    tmp_path: Path, authorization_server: AuthorizationServer
) -> None:
    config = write_settings(tmp_path, upstream={"url": authorization_server.url})
    status, printed = await take_over(tmp_path, "another")
    grant = await read(config)

    assert status == 1
    assert "invalid_grant" in printed
    assert grant is not None
    assert grant.tokens is None


async def test_a_refresh_token_that_cannot_be_tried_yet_is_kept(tmp_path: Path) -> None:
    config = write_settings(tmp_path, upstream={"url": "http://127.0.0.1:1"})
    status, printed = await take_over(tmp_path, "refresh-1")
    grant = await read(config)

    assert status == 1
    assert "keeps trying" in printed
    assert grant is not None
    assert grant.tokens is not None
    assert grant.tokens.refresh_token == Secret("refresh-1")


async def test_an_empty_refresh_token_is_none(tmp_path: Path) -> None:
    write_settings(tmp_path)

    assert (await take_over(tmp_path, ""))[0] == 1
