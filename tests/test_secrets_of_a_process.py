"""The program as people run it, with marked values for every secret; then all that anybody can see of it is searched.

Seen are: what it and its commands print, every file that it writes, its arguments, and what a program finds that it
starts. The secrets come from the environment, and the stored grant is sealed.
"""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import pytest

from krebit_proxy.cli.demo import free_port
from krebit_proxy.core.secret import Secret
from tests.fakes.client import Client, Ended, Response
from tests.fakes.command import Command, run, running, write_browser
from tests.fakes.proxy import CLIENT_ID, ORGANIZATION, settings_of, store_grant
from tests.fakes.upstream import Upstream, raw, response, unauthorized
from tests.fakes.waiting import eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

MARK: Final = "leaky"  # every secret begins with it, and nothing else does
ENCRYPTION_KEY: Final = f"leaky{'A' * 38}="  # 32 bytes in base64url
JSON: Final = b"Content-Type: application/json"
KEY: Final = b"X-Api-Key: leaky-caller-key"

# Tells what a program that the proxy starts can see: its environment, arguments and input, and its parent's arguments.
TELL: Final = """\
#!/bin/sh
{ env; echo "$@"; cat; tr '\\0' '\\n' < /proc/$PPID/cmdline; } > told.new
mv told.new told
"""

BAD_REQUESTS: Final = [
    b"leaky\r\n\r\n",
    b"GET /api/x?q=leaky HTTP/9.9\r\nHost: localhost\r\n\r\n",
    b"GET /api/x?q=leaky HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer leaky\x01\r\n\r\n",
    b"GET /api/x?q=leaky HTTP/1.1\r\nHost: localhost\r\nX-Api-Key: leaky-wrong\r\n\r\n",
    b"GET /api/../x?q=leaky HTTP/1.1\r\nHost: localhost\r\nX-Api-Key: leaky-caller-key\r\n\r\n",
    b"GET http://leaky:leaky@localhost/api/x?q=leaky HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"TRACE /api/x?q=leaky HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer leaky-caller-key\r\n\r\n",
    b"POST /api/x?q=leaky HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nleaky\r\n",
    b"GET /setup?key=leaky HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n",
    b"GET /setup/callback?code=leaky&state=leaky HTTP/1.1\r\nHost: localhost:8321\r\n\r\n",
]


class Scene:
    """The running program, its upstream, and everything that was seen."""

    def __init__(self, upstream: Upstream, inputs: Path, folder: Path, port: int, command: Command) -> None:
        self.upstream = upstream
        self.inputs = inputs
        self.folder = folder
        self.port = port
        self.command = command
        self.variables = variables(inputs, upstream)
        self.seen: dict[str, str] = {}

    async def send(self, data: bytes) -> Response | None:
        """Sends raw bytes on a connection of their own; the answer is seen, unless it is the upstream's."""
        client = await Client.connect(self.port)
        got = None
        with contextlib.suppress(Ended):
            await client.send(data)
            got = await client.response()
            self._see(got)
        client.close()
        return got

    async def ask(self, target: str, *fields: bytes, method: str = "GET", content: bytes = b"") -> Response:
        client = await Client.connect(self.port)
        client.authority = b"localhost:8321"
        got = await client.ask(method, target, *fields, content=content)
        client.close()
        self._see(got)
        return got

    def _see(self, got: Response) -> None:
        self.seen[f"answer {len(self.seen)}"] = (got.raw + got.content).decode("latin-1")

    async def run(self, *arguments: str, **more: str) -> int:
        finished = await run(*arguments, folder=self.folder, variables=self.variables | more)
        self.seen[" ".join(arguments)] = finished.out + finished.err
        return finished.status


def variables(inputs: Path, upstream: Upstream) -> dict[str, str]:
    """The environment of the program and its commands: where the settings are, and all secrets but those of callers."""
    return {
        "KREBIT_PROXY_CONFIG": str(inputs / "config.yaml"),
        "KREBIT_PROXY_CLIENT_SECRET": "leaky-client-secret",
        "KREBIT_PROXY_ENCRYPTION_KEY": ENCRYPTION_KEY,
        "KREBIT_PROXY_NOTIFY__WEBHOOK": f"{upstream.url}/leaky-webhook",
        "PGPASSWORD": "leaky-password",
        "SSLKEYLOGFILE": str(inputs / "keys-of-tls"),
    }


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    inputs, folder, port = tmp_path / "inputs", tmp_path / "work", free_port(0)
    inputs.mkdir()
    folder.mkdir()
    for name, text, mode in (("tell", TELL, 0o700), ("client-keys", "billing:leaky-caller-key\n", 0o600)):
        (inputs / name).write_text(text)
        (inputs / name).chmod(mode)
    async with Upstream() as upstream:
        upstream.tokens.names = ("leaky-access", "leaky-refresh")
        config: dict[str, Any] = {
            "organization": ORGANIZATION,
            "client_id": CLIENT_ID,
            "listen": f"localhost:{port}",
            "store": f"file:{folder}/grant",
            "upstream": {"url": upstream.url, "response_timeout": 2},
            "access": {"client_keys_file": "client-keys"},
            "notify": {"command": f"{inputs}/tell argument", "after": 0.2},
            "log": {"level": "debug", "format": "json"},
        }
        (inputs / "config.yaml").write_text(json.dumps(config))
        stored = settings_of(upstream.url, folder, encryption_key=Secret(ENCRYPTION_KEY))
        await store_grant(stored, token="leaky-access-1", refresh_token="leaky-refresh-1")
        line = ("--debug", "run", "--observe", "observed.json")
        async with running(*line, folder=folder, merged=True, variables=variables(inputs, upstream)) as command:
            await command.until("proxy.started")
            yield Scene(upstream, inputs, folder, port, command)


@pytest.mark.slow
async def test_nothing_that_anybody_sees_holds_a_secret(scene: Scene) -> None:
    await call_well_and_badly(scene)
    await lose_the_grant_and_get_another(scene)
    await use_the_commands(scene)
    scene.seen["arguments"] = Path(f"/proc/{scene.command.process.pid}/cmdline").read_text()
    scene.command.process.terminate()
    scene.seen["output"] = (await scene.command.finished()).out
    written = {path.name for path in scene.folder.iterdir()}
    assert written - {"told.new"} == {"grant", "observed.json", "told"}  # the command may be killed while it writes
    for path in scene.folder.rglob("*"):
        if path.is_file():
            scene.seen[str(path)] = path.read_bytes().decode("latin-1")

    assert {name: text for name, text in scene.seen.items() if MARK in text} == {}
    assert not (scene.inputs / "keys-of-tls").exists()
    told = scene.seen[f"{scene.folder}/told"]
    assert {f"HOME={scene.folder}", "argument", "run"} <= set(told.splitlines())
    assert "KREBIT_PROXY_EVENT=" in told
    for event in ("request.done", "setup.completed", "proxy.stopped"):
        assert f'"event":"{event}"' in scene.seen["output"]
    assert scene.seen["output"].count('"event":"notify.sent"') >= 2
    assert "/api/x" in scene.seen[f"{scene.folder}/observed.json"]


async def call_well_and_badly(scene: Scene) -> None:
    cookie = b"Cookie: session=leaky"
    assert (await scene.ask("/api/x?q=leaky", KEY, cookie)).status == 200
    scene.upstream.script = [unauthorized]
    assert (await scene.ask("/api/x?q=leaky", KEY, method="POST", content=b"leaky")).status == 200
    sent = [call.token for call in scene.upstream.calls]
    assert sent == [b"leaky-access-1", b"leaky-access-1", b"leaky-access-2"]
    for data in BAD_REQUESTS:
        got = await scene.send(data)
        assert got is None or got.status >= 400
    for broken in (raw(b"leaky\r\n\r\n", close=True), raw(b"HTTP/1.1 200 OK\r\nX: leaky\x01\r\n\r\n"), raw(reset=True)):
        scene.upstream.script = [broken, broken]
        assert (await scene.ask("/api/x?q=leaky", KEY, cookie)).status == 502
        scene.upstream.script = []


async def lose_the_grant_and_get_another(scene: Scene) -> None:
    echo = b'{"error":"invalid_grant","error_description":"no such code: leaky-code, leaky-client-secret"}'
    scene.upstream.tokens.failures = [response(400, JSON, content=b'{"error":"invalid_grant"}')]
    scene.upstream.script = [unauthorized]
    assert (await scene.ask("/api/x?q=leaky", KEY)).code == "reauthorization_required"
    await eventually((scene.folder / "told").exists, what="the command runs")
    await eventually(lambda: scene.upstream.calls[-1].target == b"/leaky-webhook", what="the webhook is called")
    for failure in (response(400, JSON, content=echo), response(500, content=echo), b""):
        state, cookie = await start_setup(scene)
        scene.upstream.tokens.failures = [failure] if failure else []
        got = await scene.ask(f"/setup/callback?code=leaky-code&state={state}", cookie, b"Accept: text/html")
        assert got.status == (400 if failure else 303)
    for path in ("/", "/readyz", "/healthz", "/metrics", "/setup", "/setup/done", "/setup/paste"):
        await scene.ask(path, b"Accept: text/html")
        await scene.ask(path, b"Accept: application/json")


async def start_setup(scene: Scene) -> tuple[str, bytes]:
    """The state, and the line of the cookie."""
    started = await scene.ask("/setup")
    (location,) = started.values(b"location")
    (state,) = parse_qs(urlsplit(location.decode()).query)["state"]
    return state, b"Cookie: " + b"; ".join(value.partition(b";")[0] for value in started.values(b"set-cookie"))


async def use_the_commands(scene: Scene) -> None:
    for line in ("health", "status", "status --json", "setup", "check"):
        await scene.run("--debug", *line.split())
    assert json.loads(scene.seen["--debug status --json"])["ready"] is True
    assert await scene.run("--debug", "run") == 1  # the port is taken: a traceback
    assert "Traceback" in scene.seen["--debug run"]
    for name, value in (
        ("KREBIT_PROXY_CLIENT_SECRET", "leaky\x01"),
        ("KREBIT_PROXY_ENCRYPTION_KEY", "leaky-no-key"),
        ("KREBIT_PROXY_NOTIFY__WEBHOOK", "leaky://x"),
        ("KREBIT_PROXY_STORE", "postgresql://user:leaky@127.0.0.1:1/x"),
    ):
        assert await scene.run("--debug", "run", **{name: value}) > 0


async def test_the_browser_that_setup_opens_inherits_no_secret(scene: Scene) -> None:
    browser = write_browser(scene.inputs)
    assert await scene.run("setup", BROWSER=browser, PGPASSWORD="leaky-password") == 0
    seen = [(scene.folder / f"seen-{what}").read_text() for what in ("environment", "argument")]

    assert f"HOME={scene.folder}" in seen[0]
    assert MARK not in seen[0]
    assert "key=" not in seen[1]
    assert "key=" in (scene.folder / "seen-page").read_text()


async def test_neither_a_core_nor_other_processes_get_at_the_memory() -> None:
    """Where a core goes to a program, and not to a file, the limit alone keeps nothing back."""
    ask = "import ctypes; from krebit_proxy.cli.run import _leave_no_core as f; f(); print(ctypes.CDLL(None).prctl(3))"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", ask, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert out == b"0\n"
