"""`krebit-proxy check` in surroundings that are not as they should be."""

import asyncio
import email.utils
import json
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from krebit_proxy.config import load
from krebit_proxy.core.grant import Grant, Tokens, Verdict
from krebit_proxy.core.secret import Secret
from krebit_proxy.stores import open_store
from krebit_proxy.stores.encryption import new_key
from tests.fakes.certificates import Authority
from tests.fakes.chat import Chat
from tests.fakes.command import Finished, run, write_settings
from tests.fakes.shown import ProxyShows, shown_proxy
from tests.fakes.statuses import grant_status
from tests.fakes.waiting import eventually

pytestmark = pytest.mark.slow

TICK, CROSS = "\N{CHECK MARK}", "\N{BALLOT X}"


@asynccontextmanager
async def answering(
    head: Callable[[], str], seen: list[str] | None = None, *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """Answers every request with the status and fields of `head`. Gives its port; `seen` gets methods and targets."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await reader.readuntil(b"\r\n\r\n")
            if seen is not None:
                seen.append(request.decode().partition(" HTTP/")[0])
            writer.write(f"HTTP/1.1 {head()}\r\nContent-Length: 0\r\n\r\n".encode())
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=tls) as server:
        yield server.sockets[0].getsockname()[1]


@asynccontextmanager
async def krebit(*, skew: float = 0, date: str | None = None, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Something that answers every request, by a clock of its own. Gives its port."""

    def head() -> str:
        now = date if date is not None else email.utils.formatdate(time.time() - skew, usegmt=True)
        return f"404 Not Found\r\nDate: {now}"

    async with answering(head, tls=tls) as port:
        yield port


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
        f"{TICK} settings: valid",
        f"{TICK} DNS: localhost is 127.0.0.1",
        f"{TICK} connection: localhost:{port} responds",
        f"{TICK} clock: matches Krebit's",
        f"{TICK} listen: 127.0.0.1:0 is free, the proxy is not running",
        f"{TICK} redirect URI: https://elsewhere.example/cb does not lead to this proxy, which is allowed",
        "    register exactly this URI in your app at Krebit, then run: krebit-proxy setup --no-browser",
        f"{TICK} store: the file store can be read, written and locked",
        f"{TICK} grant: none yet",
        "    start the proxy, then run: krebit-proxy setup",
    ]


async def test_a_look_leaves_no_trace(tmp_path: Path) -> None:
    await check(tmp_path, "http://127.0.0.1:1", store="file:deep/down/grant")

    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize("setting", [{"tls_cert_file": "config.yaml"}, {"access": {"client_keys_file": "config.yaml"}}])
async def test_files_that_do_not_hold_what_they_should(tmp_path: Path, setting: dict[str, Any]) -> None:
    finished = await check(tmp_path, "http://127.0.0.1:1", **setting)

    assert (finished.status, finished.out) == (2, "")
    assert "config.yaml" in finished.err


async def test_a_client_key_that_could_be_guessed(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("billing:guess-me\n")
    file.chmod(0o600)
    finished = await check(tmp_path, "http://127.0.0.1:1", access={"client_keys_file": "keys"})

    assert finished.status == 1
    assert "access.client_keys_file: the client key of billing could be guessed" in finished.out
    assert "guess-me" not in finished.out + finished.err


async def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    finished = await check(tmp_path, "http://127.0.0.1:1", store="file:/proc/krebit/grant")

    assert crosses(finished)[-1].startswith("store: Cannot use /proc/krebit/grant: ")


async def test_a_name_that_is_not_known(tmp_path: Path) -> None:
    finished = await check(tmp_path, "https://{organization}.invalid")

    assert finished.status == 1
    assert crosses(finished) == [
        "DNS: cannot resolve acme.invalid | check organization, upstream.url and oauth, and this computer's DNS",
    ]


async def test_nobody_answers(tmp_path: Path) -> None:
    finished = await check(tmp_path, "http://127.0.0.1:1")

    (cross,) = crosses(finished)
    assert cross.startswith("connection: cannot reach 127.0.0.1:1: ")
    assert cross.endswith("behind a corporate proxy, set upstream.proxy")


async def test_a_corporate_proxy_that_does_not_answer_is_named(tmp_path: Path) -> None:
    finished = await check(tmp_path, "https://krebit.example", upstream={"proxy": "http://me:s3cret@127.0.0.1:1"})

    (cross,) = crosses(finished)
    assert cross.startswith("connection: cannot reach krebit.example:443 through 127.0.0.1:1 (upstream.proxy): ")
    assert "s3cret" not in finished.out


async def test_a_name_of_a_corporate_proxy_that_is_not_known(tmp_path: Path) -> None:
    finished = await check(tmp_path, "https://krebit.example", upstream={"proxy": "http://proxy.invalid:3128"})

    (cross,) = crosses(finished)
    assert cross.startswith("DNS: cannot resolve proxy.invalid | check upstream.proxy, ")


async def test_a_certificate_that_is_not_trusted(tmp_path: Path) -> None:
    async with krebit(tls=Authority(tmp_path).server("localhost")) as port:
        finished = await check(tmp_path, f"https://localhost:{port}")

    (cross,) = crosses(finished)
    assert cross.startswith(f"TLS: the certificate of localhost:{port} is not trusted: ")
    assert cross.endswith("its own certificate authority, set upstream.ca_file")


async def test_a_certificate_that_a_setting_makes_trusted(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with krebit(tls=authority.server("localhost")) as port:
        finished = await check(tmp_path, f"https://localhost:{port}", upstream={"ca_file": str(authority.ca_file)})

    assert finished.status == 0
    assert f"connection: localhost:{port} responds, TLS works" in finished.out


async def test_authorities_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("not a certificate")
    finished = await check(tmp_path, "https://krebit.example", upstream={"ca_file": "ca.pem"})

    assert (finished.status, finished.out) == (2, "")
    assert f"upstream.ca_file: {tmp_path}/ca.pem contains no certificate; it must be a PEM file" in finished.err


@pytest.mark.parametrize(("skew", "direction"), [(90, "ahead of"), (-90, "behind")])
async def test_a_clock_that_is_wrong(tmp_path: Path, skew: float, direction: str) -> None:
    async with krebit(skew=skew) as port:
        finished = await check(tmp_path, f"http://localhost:{port}")

    (cross,) = crosses(finished)
    assert cross.startswith("clock: ")
    assert cross.endswith(f"s {direction} Krebit's | set the clock, for example with: timedatectl set-ntp true")


async def test_a_date_that_says_nothing_is_no_problem(tmp_path: Path) -> None:
    async with krebit(date="today") as port:
        finished = await check(tmp_path, f"http://localhost:{port}")

    assert (finished.status, "clock" in finished.out) == (0, False)


async def test_a_port_that_another_program_has(tmp_path: Path) -> None:
    async with krebit() as port, krebit() as taken:
        finished = await check(tmp_path, f"http://localhost:{port}", listen=f"127.0.0.1:{taken}")

    (cross,) = crosses(finished)
    assert cross.startswith(f"listen: 127.0.0.1:{taken} cannot be used: ")
    assert cross.endswith("stop the program that uses it, or change `listen`")


async def test_a_unix_socket_in_a_folder_that_is_not_there(tmp_path: Path) -> None:
    listen = [f"unix:{tmp_path}/socket", f"unix:{tmp_path}/run/socket?mode=0660"]
    async with krebit() as port:
        finished = await check(tmp_path, f"http://localhost:{port}", listen=listen)

    assert f"{TICK} listen: {listen[0]} is free" in finished.out
    (cross,) = crosses(finished)
    assert cross.startswith(f"listen: {listen[1]} cannot be created: {tmp_path}/run is not writable | create ")


async def test_a_redirect_uri_that_leads_to_no_port_of_ours(tmp_path: Path) -> None:
    async with krebit() as port:
        uri = "http://localhost:1/setup/callback"
        finished = await check(tmp_path, f"http://localhost:{port}", redirect_uri=uri)

    (cross,) = crosses(finished)
    assert cross.startswith(f"redirect URI: {uri} uses port 1, but nothing listens there")


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
    assert crosses(finished) == ["grant: It was taken back. | authorize again with: krebit-proxy setup"]
    status = json.loads((await run("status", "--json", folder=tmp_path)).out)
    assert (status["code"], status["detail"], status["generation"]) == (
        "reauthorization_required",
        "It was taken back.",
        3,
    )


# What the running proxy knows


@pytest.fixture(name="proxy_shows")
async def _proxy_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ProxyShows]:
    async with shown_proxy(tmp_path, monkeypatch) as start:
        yield start


def grants(finished: Finished) -> list[str]:
    """What does not hold about the grant."""
    return [cross for cross in crosses(finished) if cross.startswith("grant: ")]


async def test_a_grant_that_the_server_refuses_in_other_words(proxy_shows: ProxyShows, tmp_path: Path) -> None:
    words = 'Krebit refused the refresh token: "The refresh token is invalid."'
    expires_at = time.time() + 1500
    await proxy_shows(grant_status("reauthorization_required", ready=True, detail=words, expires_at=expires_at))
    finished = await run("check", folder=tmp_path)

    assert finished.status == 1
    refused, served = grants(finished)
    assert refused == f"grant: {words} | Do something."
    assert served.startswith("grant: Calls still work until ")


async def test_a_token_that_is_suspected(proxy_shows: ProxyShows, tmp_path: Path) -> None:
    await proxy_shows(grant_status(suspected=True))
    finished = await run("check", folder=tmp_path)

    assert finished.status == 1
    assert grants(finished)[0].startswith("grant: Krebit refused the access token, and has not accepted it since. ")


async def test_an_authorization_that_ends_within_a_week(proxy_shows: ProxyShows, tmp_path: Path) -> None:
    end = time.time() + 3 * 86400
    await proxy_shows(grant_status(refresh_token_expires_at=end, refresh_token_end_is_fixed=True))

    [cross] = grants(await run("check", folder=tmp_path))
    assert cross.startswith("grant: The authorization ends on ")
    assert "| Run `krebit-proxy setup` where the proxy runs, " in cross


@pytest.mark.parametrize(
    ("tokens", "why"),
    [
        ({"refresh_token": None}, "it has no refresh token"),
        ({"refresh_token": Secret("refresh"), "refresh_expires_at": 1.0}, "its refresh token has expired"),
    ],
)
async def test_a_grant_that_cannot_be_renewed(tmp_path: Path, tokens: dict[str, Any], why: str) -> None:
    async with krebit() as port:
        now = time.time()
        held = Tokens(**{"access_token": Secret("access"), "obtained_at": now, "expires_at": now + 3600, **tokens})
        await open_store(load(write_settings(tmp_path), {})).write(0, Grant(3, "acme", "app", held))
        finished = await check(tmp_path, f"http://localhost:{port}")

    [cross] = grants(finished)
    assert cross.startswith(f"grant: the proxy cannot renew it, because {why}; its access token expires ")


# The ways of `notify`


@asynccontextmanager
async def webhook(status: int, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple[str, list[str]]]:
    """A webhook that answers all requests with this status. Gives its URL, and the methods that it saw."""
    seen: list[str] = []
    async with answering(lambda: f"{status} X\r\nConnection: close", seen, tls=tls) as port:
        yield f"http{'s' if tls else ''}://127.0.0.1:{port}/secret?key=s3cret-key", seen


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (200, f"{TICK} webhook: http://127.0.0.1 responds with status 200"),
        (405, f"{TICK} webhook: http://127.0.0.1 responds with status 405"),
        (501, f"{TICK} webhook: http://127.0.0.1 responds with status 501"),
        (404, f"{CROSS} webhook: http://127.0.0.1 refuses with status 404"),
        (410, f"{CROSS} webhook: http://127.0.0.1 refuses with status 410"),
        (503, f"{CROSS} webhook: http://127.0.0.1 refuses with status 503"),
    ],
)
async def test_a_webhook_is_asked_without_a_message(tmp_path: Path, status: int, line: str) -> None:
    async with krebit() as port, webhook(status) as (url, seen):
        finished = await check(tmp_path, f"http://localhost:{port}", notify={"webhook": url})

    assert finished.out.splitlines()[-2:] == [
        line,
        "    to see whether messages arrive, send one with: krebit-proxy notify test",
    ]
    assert finished.status == (1 if line.startswith(CROSS) else 0)
    assert seen == ["OPTIONS /secret?key=s3cret-key"]
    assert "secret" not in finished.out + finished.err


async def test_a_webhook_that_is_not_there(tmp_path: Path) -> None:
    async with krebit() as port:
        notify = {"webhook": "http://127.0.0.1:1/secret"}
        [cross] = crosses(await check(tmp_path, f"http://localhost:{port}", notify=notify))

    assert cross == (
        "webhook: cannot reach http://127.0.0.1: Connection refused | check notify.webhook and upstream.proxy"
    )


async def test_a_webhook_with_a_certificate_that_is_not_trusted(tmp_path: Path) -> None:
    tls = Authority(tmp_path).server("127.0.0.1")
    async with krebit() as port, webhook(200, tls=tls) as (url, _):
        [cross] = crosses(await check(tmp_path, f"http://localhost:{port}", notify={"webhook": url}))

    assert cross.startswith("webhook: the certificate of https://127.0.0.1 is not trusted: ")


async def test_a_command_that_is_there_or_not(tmp_path: Path) -> None:
    async with krebit() as port:
        there = await check(tmp_path, f"http://localhost:{port}", notify={"command": "true secret-argument"})
        missing = await check(tmp_path, f"http://localhost:{port}", notify={"command": "no-such-program secret"})

    assert f"{TICK} command: true is installed" in there.out
    assert crosses(missing) == ["command: cannot find the program no-such-program | correct notify.command"]
    assert "secret" not in there.out + missing.out


async def test_the_last_messages_of_the_running_proxy_say_more(proxy_shows: ProxyShows, tmp_path: Path) -> None:
    async with webhook(400) as (url, seen):
        proxy = await proxy_shows(
            grant_status("misconfigured"), notify={"webhook": url, "command": "true", "after": 0.05}
        )
        await eventually(lambda: proxy.events("notify.failed") and proxy.events("notify.sent"))
        finished = await run("check", folder=tmp_path)

    assert set(seen) == {"POST /secret?key=s3cret-key"}  # the proxy may have tried again; the command asks nothing
    [refused] = [cross for cross in crosses(finished) if cross.startswith("webhook: ")]
    assert refused.startswith("webhook: http://127.0.0.1 did not accept the last message, ")
    assert ": status 400 | to see whether messages arrive, " in refused
    assert f"{TICK} command: true accepted the last message, " in finished.out


async def test_a_message_that_was_accepted_outweighs_options_that_are_not(
    proxy_shows: ProxyShows, tmp_path: Path
) -> None:
    async with Chat() as chat:
        proxy = await proxy_shows(grant_status("misconfigured"), notify={"webhook": chat.url, "after": 0.05})
        await eventually(lambda: proxy.events("notify.sent"))
        finished = await run("check", folder=tmp_path)

    assert f"{TICK} webhook: http://127.0.0.1 accepted the last message, " in finished.out


async def test_a_proxy_in_the_environment_is_taken_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://me:s3cret@127.0.0.1:1")
    finished = await check(tmp_path, "https://krebit.example")

    [cross] = [cross for cross in crosses(finished) if cross.startswith("connection: ")]
    assert cross.startswith("connection: cannot reach krebit.example:443 through 127.0.0.1:1 (HTTPS_PROXY): ")
    assert "DNS" not in finished.out  # the forward proxy resolves the name
    assert "s3cret" not in finished.out


async def test_a_database_that_nobody_verifies_is_cautioned(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(new_key())
    (tmp_path / "keys").chmod(0o600)
    store = "postgresql://proxy@127.1:1/grants?sslmode=require"
    finished = await check(tmp_path, "http://127.0.0.1:1", store=store, encryption_key_file="keys")

    assert finished.status == 1
    assert "settings: store: sslmode=require lets another computer pretend to be the database" in finished.out
