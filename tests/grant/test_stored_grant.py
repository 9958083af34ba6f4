"""A stored grant that somebody else has changed: it is damaged, or it serves. Nothing of it becomes another header."""

import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from krebit_proxy import log
from krebit_proxy.errors import StoreError
from krebit_proxy.program import Proxy
from krebit_proxy.stores import open_store
from tests.fakes.door import ask
from tests.fakes.proxy import RunningProxy, settings_of, store_grant
from tests.fakes.upstream import Upstream

NOW: Final = time.time()
Change = Callable[[dict[str, Any]], None]


def token(value: object) -> Change:
    return lambda grant: grant["tokens"].update(access_token=value)


def times(**changes: object) -> Change:
    return lambda grant: grant["tokens"].update(changes)


def member(**changes: object) -> Change:
    return lambda grant: grant.update(changes)


DAMAGE: Final[dict[str, Change]] = {
    "a header": token("t\r\nX-Evil: 1"),
    "a request": token("t\r\n\r\nGET /api/evil HTTP/1.1\r\nHost: x\r\n\r\n"),
    "a line break": token("t\n"),
    "a NUL": token("t\0"),
    "a letter": token("t\xe5"),
    "half a pair": token("t\ud800"),
    "a long token": token("t" * 20_000),
    "a list": token(["t"]),
    "never": times(expires_at=float("nan")),
    "for ever": times(expires_at=float("inf")),
    "nearly for ever": times(expires_at=1e308),
    "before time": times(expires_at=-1),
    "true": times(obtained_at=True),
    "no end": times(refresh_expires_at=1e300),
    "a large number": member(generation=10**40),
    "a negative number": member(generation=-1),
    "a fraction": member(generation=1.5),
    "no tokens": member(tokens=False),
    "a verdict": member(verdict={"at": NOW, "reason": ["no"]}),
}


async def served(upstream: Upstream, folder: Path, change: Callable[[str], str | bytes]) -> str:
    """The error code of a call through a proxy that finds a changed record, empty if it serves."""
    settings = settings_of(upstream.url, folder)
    await store_grant(settings)
    (file,) = (folder / "grant").glob("*.json")
    content = change(file.read_text())
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    log.configure(settings.log, output := io.StringIO())
    running = RunningProxy(Proxy(settings), settings, output)
    await running.proxy.start()
    got = await ask(running, "GET", "/api/x")
    pages = [await ask(running, "GET", path) for path in ("/", "/readyz", "/metrics")]
    await running.stop()
    seen = running.written() + "".join(page.content.decode() for page in pages)
    assert "Traceback" not in seen
    assert "Evil" not in seen
    assert [page.status for page in pages] == [200, 503 if got.code else 200, 200]
    assert all(b"x-evil" not in call.names and b"evil" not in call.target for call in upstream.calls)
    return got.code


@pytest.mark.parametrize("name", DAMAGE)
async def test_a_value_that_no_token_response_brings_is_damage(upstream: Upstream, tmp_path: Path, name: str) -> None:
    def change(text: str) -> str:
        grant = json.loads(text)
        DAMAGE[name](grant)
        return json.dumps(grant)

    assert await served(upstream, tmp_path, change) == "misconfigured"


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace('"scope"', '"access_token": "other",\n"scope"'),
        lambda text: "[" * 200_000 + text,
        lambda text: text.encode() + b"\xff",
        lambda text: text.encode("utf-16") + b"\0",
    ],
    ids=["repeated", "deep", "octets", "utf-16"],
)
async def test_text_that_readers_may_read_differently_is_damage(
    upstream: Upstream, tmp_path: Path, change: Callable[[str], str | bytes]
) -> None:
    assert await served(upstream, tmp_path, change) == "misconfigured"


async def test_a_huge_file_is_damage_and_is_not_read(upstream: Upstream, tmp_path: Path) -> None:
    settings = settings_of(upstream.url, tmp_path)
    await store_grant(settings)
    (file,) = (tmp_path / "grant").glob("*.json")
    with file.open("r+b") as stream:
        stream.truncate(1 << 40)  # more than any memory
    with pytest.raises(StoreError, match="is damaged: it is too long"):
        await open_store(settings).read()


async def test_what_a_later_version_adds_is_no_damage(upstream: Upstream, tmp_path: Path) -> None:
    def change(text: str) -> str:
        return json.dumps(json.loads(text) | {"later": {"x": [1]}})

    assert await served(upstream, tmp_path, change) == ""
    assert upstream.calls[0].token == b"token-1"
