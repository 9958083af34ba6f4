"""The whole program: what was started is stopped, and a start that fails leaves nothing behind."""

import asyncio
import io
import os
import socket
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from krebit_proxy import log
from krebit_proxy.config import Settings
from krebit_proxy.errors import ProxyError, SettingsError
from krebit_proxy.program import Proxy, _try_out
from tests.fakes.proxy import settings_of
from tests.fakes.waiting import DEADLINE, eventually


def settings(folder: Path, output: io.StringIO, **given: Any) -> Settings:
    found = settings_of("http://127.0.0.1:9", folder, log={"format": "json", "level": "debug"}, **given)
    log.configure(found.log, output)
    return found


def connects(url: str) -> bool:
    host, port = url.removeprefix("http://").split(":")
    try:
        socket.create_connection((host, int(port)), 5).close()
    except ConnectionRefusedError:
        return False
    return True


async def test_it_listens_from_start_to_stop(tmp_path: Path) -> None:
    proxy = Proxy(settings(tmp_path, io.StringIO()))
    await proxy.start()
    (url,) = proxy.urls
    assert connects(url)
    await proxy.stop()

    assert not connects(url)


async def test_a_start_that_fails_late_leaves_nothing_open(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = socket.create_server(("127.0.0.1", 0))
        first, second = (sock.getsockname()[1] for sock in (free, taken))
        free.close()
        proxy = Proxy(settings(tmp_path, io.StringIO(), listen=(f"127.0.0.1:{first}", f"127.0.0.1:{second}")))
        with pytest.raises(ProxyError, match=str(second)):
            await proxy.start()

        assert not connects(f"http://127.0.0.1:{first}")


async def test_settings_whose_files_do_not_hold_stop_the_start(tmp_path: Path) -> None:
    access = {"client_keys_file": tmp_path / "missing"}
    with pytest.raises(SettingsError, match="client_keys_file"):
        await Proxy(settings(tmp_path, io.StringIO(), access=access)).start()


async def test_a_store_that_cannot_be_used_is_in_the_log_from_the_start(tmp_path: Path) -> None:
    (tmp_path / "grant").touch()  # where its folder should be
    output = io.StringIO()
    proxy = Proxy(settings(tmp_path, output))
    await proxy.start()
    try:
        await eventually(lambda: "store.unusable" in output.getvalue())
    finally:
        await proxy.stop()


async def test_a_stop_waits_until_the_store_is_tried_out_and_nothing_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trying, go_on = Event(), Event()
    link = os.link

    def slow_link(*names: Path) -> None:
        trying.set()
        go_on.wait(DEADLINE)
        link(*names)

    monkeypatch.setattr(os, "link", slow_link)
    proxy = Proxy(settings(tmp_path, io.StringIO()))
    await proxy.start()
    await eventually(trying.is_set, what="the store is being tried out")
    stopping = asyncio.ensure_future(proxy.stop())
    _, waiting = await asyncio.wait([stopping], timeout=0.3)
    assert waiting
    go_on.set()
    await stopping

    assert list(tmp_path.iterdir()) == []


async def test_a_store_that_can_be_used_is_no_event(tmp_path: Path) -> None:
    output = io.StringIO()
    await _try_out(settings(tmp_path, output))
    log.flush()

    assert output.getvalue() == ""
