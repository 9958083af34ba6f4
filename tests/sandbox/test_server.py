from pathlib import Path

import pytest
from aiohttp import ClientSession

from krebit_proxy.errors import SettingsError
from krebit_proxy.sandbox import Options, Sandbox
from tests.sandbox.app import App
from tests.sandbox.conftest import StartSandbox


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "example.com"])
def test_it_listens_on_loopback_only(host: str) -> None:
    with pytest.raises(SettingsError, match="this computer only") as caught:
        Sandbox(Options(host=host))
    assert "127.0.0.1" in caught.value.hint


async def test_a_taken_port_is_an_os_error_and_leaves_nothing_open(start: StartSandbox) -> None:
    first = await start()
    second = Sandbox(Options(port=int(first.url.rpartition(":")[2])))
    with pytest.raises(OSError, match="address already in use"):
        await second.start()
    await second.stop()


@pytest.mark.parametrize(
    ("path", "shows"),
    [
        ("/", "/sandbox/faults"),
        ("/developer/my-apps", "sandbox-secret"),
        ("/developer/my-apps", "http://localhost:8321/setup/callback"),
    ],
)
async def test_the_pages_show_what_a_person_needs(
    start: StartSandbox, http: ClientSession, path: str, shows: str
) -> None:
    sandbox = await start()
    async with http.get(f"{sandbox.url}{path}") as response:
        assert response.status == 200
        assert shows in await response.text()
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]


async def test_an_app_name_is_escaped_on_every_page(start: StartSandbox, http: ClientSession) -> None:
    app = App(await start(app_name="<b>Tom & Co</b>"), http)
    for url in (app.authorize_url(), f"{app.sandbox.url}/developer/my-apps"):
        async with http.get(url) as response:
            assert "&lt;b&gt;Tom &amp; Co&lt;/b&gt;" in await response.text()


async def test_the_state_counts_token_requests_and_shows_no_token(start: StartSandbox, http: ClientSession) -> None:
    app = App(await start(), http)
    tokens = await app.authorized()
    await app.refresh(tokens["refresh_token"])
    async with http.get(f"{app.sandbox.url}/sandbox/state") as response:
        text = await response.text()
        state = await response.json()
    assert state["counters"]["token_requests"] == 2
    assert state["tokens"]["access_tokens"] == 2
    assert state["tokens"]["refresh_tokens"] == 1
    assert tokens["access_token"] not in text


async def test_what_happens_is_told_in_sentences_without_tokens(http: ClientSession) -> None:
    told: list[str] = []
    sandbox = Sandbox(Options(), told.append)
    await sandbox.start()
    app = App(sandbox, http)
    tokens = await app.authorized()
    await app.call("x")
    await sandbox.stop()
    assert [sentence.split()[0] for sentence in told] == ["Somebody", "The", "401"]
    assert tokens["access_token"] not in "".join(told)


async def test_a_state_file_keeps_tokens_over_a_restart(
    start: StartSandbox, http: ClientSession, tmp_path: Path
) -> None:
    path = tmp_path / "sandbox.json"
    app = App(await start(state=path), http)
    tokens = await app.authorized()
    await app.sandbox.stop()
    again = App(await start(state=path), http)
    assert await again.call(tokens["access_token"]) == 200
    assert (await again.refresh(tokens["refresh_token"]))[0] == 200


async def test_a_file_that_is_no_state_is_named(start: StartSandbox, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("[1, 2]")
    with pytest.raises(SettingsError, match=r"notes\.txt"):
        await start(state=path)
