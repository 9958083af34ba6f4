"""Commands that ask the running proxy, wherever it listens and whoever answers there."""

import json
import sys
from pathlib import Path

import pytest
from aiohttp import web

from krebit_proxy.sandbox import Sandbox
from tests.cli.site import proxy, write
from tests.fakes.certificates import Authority
from tests.fakes.command import run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends signals")


async def test_a_proxy_on_a_unix_socket_is_asked_there(sandbox: Sandbox, folder: Path, port: int) -> None:
    (folder / "run").mkdir(mode=0o700)
    write(folder, sandbox, port, listen=f"unix:{folder}/run/socket", redirect_uri="https://elsewhere.example/cb")
    async with proxy(folder) as command:
        assert "krebit-proxy setup --no-browser" in command.printed
        assert (await run("health", folder=folder)).status == 0
        assert "not authorized yet" in (await run("wait", "--for", "0", folder=folder)).err
        assert "setup          krebit-proxy setup --no-browser" in (await run("status", folder=folder)).out
        finished = await run("setup", folder=folder)
        assert (finished.status, finished.err.splitlines()[0]) == (
            1,
            "krebit-proxy: no browser can reach the address that the proxy listens on",
        )
        assert "does not lead to this proxy, which is allowed" in (await run("check", folder=folder)).out


async def test_a_proxy_that_speaks_tls_is_asked_in_tls(sandbox: Sandbox, folder: Path, port: int) -> None:
    Authority(folder).server("proxy.example")
    certificate = folder / "proxy.example.pem"
    certificate.chmod(0o600)
    uri = "https://elsewhere.example/cb"
    write(folder, sandbox, port, tls_cert_file=str(certificate), redirect_uri=uri)
    async with proxy(folder) as command:
        assert f'"open":"https://localhost:{port}/setup"' in command.printed
        assert (await run("health", folder=folder)).status == 0
        assert "not authorized yet" in (await run("wait", "--for", "0", folder=folder)).err
        assert f"setup          https://localhost:{port}/setup" in (await run("status", folder=folder)).out
        status = json.loads((await run("status", "--json", folder=folder)).out)
        assert status["example"] == f"curl https://localhost:{port}/api/"
        assert f"https://localhost:{port}/setup?key=" in (await run("setup", folder=folder)).out


@pytest.mark.parametrize("text", ["<h1>It works!</h1>", '{"status": "ok"}'])
async def test_another_program_on_the_port_is_not_taken_for_the_proxy(folder: Path, port: int, text: str) -> None:
    async def answer(_: web.BaseRequest) -> web.Response:
        return web.Response(text=text)

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    finished = await run("health", folder=folder)
    await runner.cleanup()

    assert finished.status == 1
    assert finished.err.splitlines() == [
        f"krebit-proxy: another program answers at localhost:{port}",
        "what to do: stop that program, or change `listen`",
    ]


async def test_what_is_said_on_the_port_does_not_take_over_the_terminal(folder: Path, port: int) -> None:
    names = ("code", "detail", "hint", "organization", "client_id", "redirect_uri")

    async def answer(_: web.BaseRequest) -> web.Response:
        document = dict.fromkeys(names, "\x1b[2J\x9b1m\x07 it")
        return web.json_response(document, headers={"Server": "krebit-proxy"})

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    finished = await run("status", folder=folder)
    await runner.cleanup()

    assert "organization   ?[2J?1m? it" in finished.out
    assert finished.out.replace("\n", "").isprintable()
