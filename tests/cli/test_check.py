"""`krebit-proxy check` in surroundings that are not as they should be."""

import asyncio
import email.utils
import json
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from krebit_proxy.config import load
from krebit_proxy.core.grant import Grant, Tokens, Verdict
from krebit_proxy.core.secret import Secret
from krebit_proxy.stores import open_store
from tests.fakes.certificates import Authority
from tests.fakes.command import Finished, run, write_settings

pytestmark = pytest.mark.slow

TICK, CROSS = "\N{CHECK MARK}", "\N{BALLOT X}"


@asynccontextmanager
async def krebit(*, skew: float = 0, date: str | None = None, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Something that answers every request, by a clock of its own. Gives its port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            now = date if date is not None else email.utils.formatdate(time.time() - skew, usegmt=True)
            writer.write(f"HTTP/1.1 404 Not Found\r\nDate: {now}\r\nContent-Length: 0\r\n\r\n".encode())
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=tls) as server:
        yield server.sockets[0].getsockname()[1]


async def check(folder: Path, url: str, **more: Any) -> Finished:
    given = {"listen": "127.0.0.1:0", "redirect_uri": "https://elsewhere.example/cb", **more}
    write_settings(folder, **given | {"upstream": {"url": url, **more.get("upstream", {})}})
    return await run("check", folder=folder)


def crosses(finished: Finished) -> list[str]:
    """What does not hold, each with what to do."""
    lines = finished.out.splitlines()
    return [
        f"{line[2:]} | {advice.strip()}"
        for line, advice in zip(lines, [*lines[1:], ""], strict=True)
        if line.startswith(CROSS)
    ]


async def test_all_is_well(tmp_path: Path) -> None:
    async with krebit() as port:
        finished = await check(tmp_path, f"http://localhost:{port}")

    assert finished.status == 0
    assert finished.out.splitlines() == [
        f"{TICK} settings: all of them can work",
        f"{TICK} name: localhost is 127.0.0.1",
        f"{TICK} connection: localhost:{port} answers",
        f"{TICK} clock: agrees with Krebit's",
        f"{TICK} listen: 127.0.0.1:0 is free; the proxy is not running",
        f"{TICK} redirect URI: https://elsewhere.example/cb leads elsewhere, which is fine",
        "    register it with the app at Krebit, exactly as it is, and use: krebit-proxy setup --no-browser",
        f"{TICK} store: the file store can be read, written and locked",
        f"{TICK} grant: none yet",
        "    with the proxy running: krebit-proxy setup",
    ]


async def test_a_look_leaves_no_trace(tmp_path: Path) -> None:
    await check(tmp_path, "http://127.0.0.1:1", store="file:deep/down/grant")

    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize("setting", [{"tls_cert_file": "config.yaml"}, {"access": {"client_keys_file": "config.yaml"}}])
async def test_files_that_do_not_hold_what_they_should(tmp_path: Path, setting: dict[str, Any]) -> None:
    finished = await check(tmp_path, "http://127.0.0.1:1", **setting)

    assert (finished.status, finished.out) == (2, "")
    assert "config.yaml" in finished.err


async def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    finished = await check(tmp_path, "http://127.0.0.1:1", store="file:/proc/krebit/grant")

    assert crosses(finished)[-1].startswith("store: Cannot use /proc/krebit/grant: ")


async def test_a_name_that_is_not_known(tmp_path: Path) -> None:
    finished = await check(tmp_path, "https://{organization}.invalid")

    assert finished.status == 1
    assert crosses(finished) == [
        "name: acme.invalid is not known | check organization, upstream.url and oauth, and the DNS of this computer",
    ]


async def test_nobody_answers(tmp_path: Path) -> None:
    finished = await check(tmp_path, "http://127.0.0.1:1")

    (cross,) = crosses(finished)
    assert cross.startswith("connection: 127.0.0.1:1 cannot be reached: ")
    assert cross.endswith("or a corporate proxy that belongs into upstream.proxy?")


async def test_a_corporate_proxy_that_does_not_answer_is_named(tmp_path: Path) -> None:
    finished = await check(tmp_path, "https://krebit.example", upstream={"proxy": "http://me:s3cret@127.0.0.1:1"})

    (cross,) = crosses(finished)
    assert cross.startswith("connection: krebit.example:443 cannot be reached through 127.0.0.1:1: ")
    assert "s3cret" not in finished.out


async def test_a_name_of_a_corporate_proxy_that_is_not_known(tmp_path: Path) -> None:
    finished = await check(tmp_path, "https://krebit.example", upstream={"proxy": "http://proxy.invalid:3128"})

    (cross,) = crosses(finished)
    assert cross.startswith("name: proxy.invalid is not known | check upstream.proxy, ")


async def test_a_certificate_that_is_not_trusted(tmp_path: Path) -> None:
    async with krebit(tls=Authority(tmp_path).server("localhost")) as port:
        finished = await check(tmp_path, f"https://localhost:{port}")

    (cross,) = crosses(finished)
    assert cross.startswith(f"TLS: the certificate of localhost:{port} is not trusted: ")
    assert cross.endswith("name its certificates in upstream.ca_file")


async def test_a_certificate_that_a_setting_makes_trusted(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with krebit(tls=authority.server("localhost")) as port:
        finished = await check(tmp_path, f"https://localhost:{port}", upstream={"ca_file": str(authority.ca_file)})

    assert finished.status == 0
    assert f"connection: localhost:{port} answers, TLS is fine" in finished.out


async def test_authorities_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("not a certificate")
    finished = await check(tmp_path, "https://krebit.example", upstream={"ca_file": "ca.pem"})

    assert (finished.status, finished.out) == (2, "")
    assert f"upstream.ca_file: {tmp_path}/ca.pem holds no certificate; give a PEM file" in finished.err


@pytest.mark.parametrize(("skew", "direction"), [(90, "ahead of"), (-90, "behind")])
async def test_a_clock_that_is_wrong(tmp_path: Path, skew: float, direction: str) -> None:
    async with krebit(skew=skew) as port:
        finished = await check(tmp_path, f"http://localhost:{port}")

    (cross,) = crosses(finished)
    assert cross.startswith("clock: this computer's is ")
    assert cross.endswith(f"s {direction} Krebit's | set it, e.g.: timedatectl set-ntp true")


async def test_a_date_that_says_nothing_is_no_problem(tmp_path: Path) -> None:
    async with krebit(date="today") as port:
        finished = await check(tmp_path, f"http://localhost:{port}")

    assert (finished.status, "clock" in finished.out) == (0, False)


async def test_a_port_that_another_program_has(tmp_path: Path) -> None:
    async with krebit() as port, krebit() as taken:
        finished = await check(tmp_path, f"http://localhost:{port}", listen=f"127.0.0.1:{taken}")

    (cross,) = crosses(finished)
    assert cross.startswith(f"listen: 127.0.0.1:{taken} cannot be used: ")
    assert cross.endswith("is another program running there? change the setting `listen`")


async def test_a_unix_socket_in_a_folder_that_is_not_there(tmp_path: Path) -> None:
    listen = [f"unix:{tmp_path}/socket", f"unix:{tmp_path}/run/socket?mode=0660"]
    async with krebit() as port:
        finished = await check(tmp_path, f"http://localhost:{port}", listen=listen)

    assert f"{TICK} listen: {listen[0]} is free" in finished.out
    (cross,) = crosses(finished)
    assert cross.startswith(f"listen: {listen[1]} cannot be made: {tmp_path}/run cannot be written | make that folder")


async def test_a_redirect_uri_that_leads_to_no_port_of_ours(tmp_path: Path) -> None:
    async with krebit() as port:
        uri = "http://localhost:1/setup/callback"
        finished = await check(tmp_path, f"http://localhost:{port}", redirect_uri=uri)

    (cross,) = crosses(finished)
    assert cross.startswith(f"redirect URI: {uri} leads to port 1, where nothing listens")


async def test_a_redirect_uri_that_another_port_hands_on(tmp_path: Path) -> None:
    """Say, a port that a container or an SSH tunnel forwards."""
    with socket.create_server(("127.0.0.1", 0)) as forwarded:
        uri = f"http://127.0.0.1:{forwarded.getsockname()[1]}/setup/callback"
        async with krebit() as port:
            finished = await check(tmp_path, f"http://localhost:{port}", redirect_uri=uri)

    assert finished.status == 0
    assert f"{TICK} redirect URI: {uri}" in finished.out


async def test_a_store_that_cannot_be_used(tmp_path: Path) -> None:
    async with krebit() as port:
        finished = await check(tmp_path, f"http://localhost:{port}", store="file:config.yaml")

    (cross,) = crosses(finished)
    assert cross.startswith("store: ")
    assert "config.yaml" in cross
    assert not cross.endswith("| ")


async def test_a_grant_that_krebit_took_back(tmp_path: Path) -> None:
    async with krebit() as port:
        tokens = Tokens(Secret("access"), Secret("refresh"), time.time(), time.time() + 3600)
        taken_back = Grant(3, "acme", "app", tokens, verdict=Verdict(1.0, "It was taken back."))
        await open_store(load(write_settings(tmp_path), {})).write(0, taken_back)
        finished = await check(tmp_path, f"http://localhost:{port}")

    assert finished.status == 1
    assert crosses(finished) == ["grant: It was taken back. | authorize again: krebit-proxy setup"]
    status = json.loads((await run("status", "--json", folder=tmp_path)).out)
    assert (status["code"], status["detail"], status["generation"]) == (
        "reauthorization_required",
        "It was taken back.",
        3,
    )
