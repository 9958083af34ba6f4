"""Every request of our own says who we are, and no forwarded one does: a real server takes down what it gets."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from krebit_proxy import __version__
from krebit_proxy.core.secret import Secret
from krebit_proxy.token_endpoint import TokenEndpoint
from tests.fakes.command import run, write_settings
from tests.fakes.proxy import running_proxy, settings_of
from tests.fakes.waiting import eventually

OURS = f"krebit-proxy/{__version__}"


class Recorder:
    """Refuses all that it is asked. `agents` holds each request's method and target, and its User-Agent."""

    def __init__(self) -> None:
        self.agents: dict[str, str | None] = {}

    async def play(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            fields = {name.lower(): value for name, _, value in (field.partition(": ") for field in lines)}
            self.agents[line.rpartition(" ")[0]] = fields.get("user-agent")
            await reader.readexactly(int(fields.get("content-length", 0)))
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()


@asynccontextmanager
async def recording() -> AsyncIterator[tuple[Recorder, str]]:
    recorder = Recorder()
    async with await asyncio.start_server(recorder.play, "127.0.0.1", 0) as listener:
        yield recorder, f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"


async def test_requests_for_tokens_and_for_revocation(tmp_path: Path) -> None:
    async with recording() as (recorder, url):
        endpoint = TokenEndpoint(settings_of(url, tmp_path, oauth={"revoke_url": f"{url}/revoke"}))
        await endpoint.refresh(Secret("r"))
        await endpoint.revoke(Secret("r"))

    assert recorder.agents == {"POST /api/oauth/token": OURS, "POST /revoke": OURS}


async def test_messages_to_the_webhook(tmp_path: Path) -> None:
    async with recording() as (recorder, url):
        notify = {"webhook": f"{url}/hook", "after": 0.05}
        # Its token has ended, and there is no new one to be had.
        async with running_proxy(url, tmp_path, grant={"expires_in": -5}, notify=notify):
            await eventually(lambda: "POST /hook" in recorder.agents)

    assert recorder.agents["POST /hook"] == OURS


async def test_what_check_sends_also_through_a_forward_proxy(tmp_path: Path) -> None:
    async def check(url: str, **upstream: Any) -> None:
        write_settings(tmp_path, listen="127.0.0.1:0", upstream={"url": url, **upstream})
        await run("check", folder=tmp_path)

    async with recording() as (recorder, url):
        await check(url)
        await check("https://krebit.example", proxy=url)

    assert recorder.agents == {"HEAD /": OURS, "CONNECT krebit.example:443": OURS}


async def test_tunnels_for_forwarded_requests(tmp_path: Path) -> None:
    async with (
        recording() as (recorder, url),
        running_proxy("https://krebit.example", tmp_path, upstream={"proxy": url}) as proxy,
    ):
        await (await proxy.connect()).ask("GET", "/api/x")

    assert recorder.agents == {"CONNECT krebit.example:443": OURS}


async def test_forwarded_requests_keep_their_callers(tmp_path: Path) -> None:
    async with recording() as (recorder, url), running_proxy(url, tmp_path) as proxy:
        await (await proxy.connect()).ask("GET", "/api/a", b"User-Agent: tool/1")
        await (await proxy.connect()).ask("GET", "/api/b")

    assert recorder.agents == {"GET /api/a": "tool/1", "GET /api/b": None}
