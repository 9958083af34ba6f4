"""`krebit-proxy grant`: a grant on its way from one machine to another, or in from another program."""

import asyncio
import os
import re
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from krebit_proxy.cli import main
from krebit_proxy.cli.envelope import Receiver, seal
from krebit_proxy.core.grant import Grant, Tokens, Verdict
from krebit_proxy.core.secret import Secret
from tests.cli.site import GRANT, NOW, read, store
from tests.fakes.authorization_server import AuthorizationServer
from tests.fakes.command import Command, run, running, write_settings

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="file modes")


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
    shown = re.findall(r"fingerprint:?[^:\n]*: +(\S+)", exported.err + imported.out, re.IGNORECASE)
    assert len(shown) == 2
    assert len(set(shown)) == 1
    assert exported.err.startswith("Fingerprint")  # before anything is done
    assert "refresh-1" not in exported.out + exported.err + imported.out
    there, here = await read(server / "config.yaml"), await read(laptop / "config.yaml")
    assert there is not None
    assert there.tokens == GRANT.tokens
    assert here is not None
    assert (here.generation, here.tokens) == (4, None)


async def test_on_a_terminal_the_fingerprint_is_asked_about_before_the_grant_leaves(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_settings(tmp_path)
    await store(config, GRANT)
    ours, theirs = os.openpty()
    with os.fdopen(theirs) as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        for answer, status in ((b"n\n", 1), (b"y\n", 0)):
            os.write(ours, answer)
            line = ["grant", "export", Receiver().address, "--config", str(config)]
            assert await asyncio.to_thread(main, line) == status
            printed = capfd.readouterr()
            assert "Does the other computer show the same fingerprint?" in printed.err
            assert bool(printed.out) == (status == 0)
            found = await read(config)
            assert found is not None
            assert (found.tokens is None) == (status == 0)
    os.close(ours)


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


@pytest.mark.parametrize("what", ["noise", "octets", "another app", "a header"])
async def test_what_cannot_be_imported_is_said_to_be(tmp_path: Path, what: str) -> None:
    config = write_settings(tmp_path)
    async with running("grant", "import", folder=tmp_path, merged=True) as importing:
        address = await waiting_for_a_grant(importing)
        evil = Grant(1, "acme", "app", Tokens(Secret("t\r\nX-Evil: 1"), None, NOW, NOW + 3600))
        pasted = {
            "noise": "noise",
            "octets": b"\xff\x00".decode("latin-1"),
            "another app": seal(Grant(1, "acme", "other", GRANT.tokens), address),
            "a header": seal(evil, address),
        }
        importing.type(f"{pasted[what]}\n\n")
        finished = await importing.finished()

    assert finished.status == 1
    assert "Evil" not in finished.out
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


@pytest.mark.parametrize("octets", [b"", b" \t", b"r\xff\xfe", b"r\xed\xa0\x80"])
async def test_what_is_no_text_is_no_refresh_token(tmp_path: Path, octets: bytes) -> None:
    write_settings(tmp_path)
    async with running("grant", "import", "--refresh-token-stdin", folder=tmp_path, merged=True) as importing:
        assert importing.process.stdin
        importing.process.stdin.write(octets + b"\n")
        finished = await importing.finished()

    assert finished.status == 1
    assert "no refresh token on standard input" in finished.out
