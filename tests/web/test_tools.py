"""The tools that people have, as they are installed, against the default settings: each just works."""

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest

from tests.fakes.proxy import RunningProxy, running_proxy
from tests.fakes.upstream import Upstream, answer

pytestmark = pytest.mark.slow

# What is sent with a POST: more than curl and Java send without asking by `Expect` first.
SIZE: Final = 2 << 20

NODE_GET: Final = "fetch(process.argv[1]).then(r => r.text()).then(t => process.stdout.write(t))"
NODE_POST: Final = (
    "fetch(process.argv[1], {method: 'POST', body: require('fs').readFileSync(process.argv[2])})"
    ".then(r => r.text()).then(t => process.stdout.write(t))"
)
PYTHON_GET: Final = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1]).read().decode(), end='')"
PYTHON_POST: Final = (
    "import sys, urllib.request as u; "
    "print(u.urlopen(sys.argv[1], open(sys.argv[2], 'rb').read()).read().decode(), end='')"
)
REQUESTS_GET: Final = "import sys, requests; print(requests.get(sys.argv[1], timeout=60).text, end='')"
REQUESTS_POST: Final = (
    "import sys, requests; print(requests.post(sys.argv[1], open(sys.argv[2], 'rb'), timeout=60).text, end='')"
)
JAVA: Final = """
import java.net.*;
import java.net.http.*;
import java.nio.file.Path;

public class Tool {
    public static void main(String[] given) throws Exception {
        var request = HttpRequest.newBuilder(URI.create(given[0]));
        if (given.length > 1) request.POST(HttpRequest.BodyPublishers.ofFile(Path.of(given[1]))).expectContinue(true);
        var answer = HttpClient.newHttpClient().send(request.build(), HttpResponse.BodyHandlers.ofString());
        System.out.print(answer.body());
    }
}
"""

GETS: Final = {
    "curl": ["curl", "-sS", "URL"],
    "curl, HTTP/1.0": ["curl", "-sS", "--http1.0", "URL"],
    "curl that offers h2c": ["curl", "-sS", "--http2", "URL"],
    "curl that takes it for an HTTP proxy": ["curl", "-sS", "--noproxy", "", "-x", "ORIGIN", "URL"],
    "curl with an Authorization of its own": ["curl", "-sS", "-u", "somebody:else", "URL"],
    "curl over IPv4": ["curl", "-sS", "-4", "URL"],
    "wget": ["wget", "-q", "-O", "-", "URL"],
    "Python": [sys.executable, "-c", PYTHON_GET, "URL"],
    "Python's requests": [sys.executable, "-c", REQUESTS_GET, "URL"],
    "Node's fetch": ["node", "-e", NODE_GET, "URL"],
    "Java's HttpClient": ["java", "JAVA", "URL"],
}
POSTS: Final = {
    "curl that asks first": ["curl", "-sS", "--data-binary", "@FILE", "URL"],
    "curl, chunked": ["curl", "-sS", "-H", "Transfer-Encoding: chunked", "--data-binary", "@FILE", "URL"],
    "curl, HTTP/1.0": ["curl", "-sS", "--http1.0", "--data-binary", "@FILE", "URL"],
    "curl that offers h2c": ["curl", "-sS", "--http2", "--data-binary", "@FILE", "URL"],
    "wget": ["wget", "-q", "-O", "-", "--post-file=FILE", "URL"],
    "Python": [sys.executable, "-c", PYTHON_POST, "URL", "FILE"],
    "Python's requests": [sys.executable, "-c", REQUESTS_POST, "URL", "FILE"],
    "Node's fetch": ["node", "-e", NODE_POST, "URL", "FILE"],
    "Java's HttpClient that asks first": ["java", "JAVA", "URL", "FILE"],
}


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream() as upstream:
        upstream.default = answer(200, b"Content-Type: application/json", content=b'{"ok": true}')
        yield upstream


@pytest.fixture
async def proxy(upstream: Upstream, tmp_path: Path) -> AsyncIterator[RunningProxy]:
    async with running_proxy(upstream, tmp_path, listen=("localhost:0",)) as proxy:
        yield proxy


async def output(command: list[str], proxy: RunningProxy, folder: Path) -> str:
    """What the tool prints. One that is not installed is skipped; but in CI only Java may be missing, for its size."""
    if shutil.which(command[0]) is None and (command[0] == "java" or not os.environ.get("CI")):
        pytest.skip(f"{command[0]} is not installed")
    (folder / "Tool.java").write_text(JAVA)
    (folder / "content").write_bytes(bytes(range(256)) * (SIZE // 256))
    words = {
        "JAVA": str(folder / "Tool.java"),
        "FILE": str(folder / "content"),
        "ORIGIN": f"http://localhost:{proxy.port}",
    }
    words["URL"] = f"{words['ORIGIN']}/api/accounts?page=2"
    arguments = [_filled(argument, words) for argument in command]
    # As on a machine of no company: what is called is the proxy, not another one on the way to it.
    environ = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    process = await asyncio.create_subprocess_exec(
        *arguments, env=environ, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(100):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


def _filled(argument: str, words: dict[str, str]) -> str:
    for name, word in words.items():
        if argument in {name, f"@{name}", f"--post-file={name}"}:
            return argument.replace(name, word)
    return argument


@pytest.mark.parametrize("tool", GETS)
async def test_a_tool_gets(tool: str, proxy: RunningProxy, upstream: Upstream, tmp_path: Path) -> None:
    assert await output(GETS[tool], proxy, tmp_path) == '{"ok": true}'
    (call,) = upstream.calls
    assert (call.method, call.target, call.token) == (b"GET", b"/api/accounts?page=2", b"token-1")
    assert not {b"upgrade", b"http2-settings", b"connection"} & set(call.names)


@pytest.mark.parametrize("tool", POSTS)
async def test_a_tool_posts(tool: str, proxy: RunningProxy, upstream: Upstream, tmp_path: Path) -> None:
    assert await output(POSTS[tool], proxy, tmp_path) == '{"ok": true}'
    (call,) = upstream.calls
    assert (call.method, call.token) == (b"POST", b"token-1")
    assert bytes(call.content) == bytes(range(256)) * (SIZE // 256)
