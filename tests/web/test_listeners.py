"""Listening: what is opened, what is refused, and what is left behind (nothing)."""

import asyncio
import fcntl
import os
import socket
import stat
import threading
from pathlib import Path

import pytest

from krebit_proxy.core.access import Rules
from krebit_proxy.errors import ProxyError, SettingsError
from krebit_proxy.web.listeners import Listeners, open_listeners
from tests.web.greeters import greeting, port_of, serving, settings

IPV6 = socket.has_ipv6 and Path("/proc/net/if_inet6").exists()
needs_ipv6 = pytest.mark.skipif(not IPV6, reason="this machine has no ::1")


@needs_ipv6
async def test_localhost_is_both_loopback_addresses_on_one_port() -> None:
    async with serving(settings("localhost:0")) as listeners:
        port = port_of(listeners)
        assert listeners.urls == [f"http://localhost:{port}"]
        for host in ("127.0.0.1", "::1"):
            assert "loopback=True" in await greeting(asyncio.open_connection(host, port))


@needs_ipv6
@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_localhost_is_refused_when_another_program_has_one_of_them(family: socket.AddressFamily, host: str) -> None:
    with socket.socket(family) as other:
        other.bind((host, 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ProxyError, match=f"localhost:{port}.*another program listens there"):
            open_listeners(settings(f"localhost:{port}"))
    with socket.create_server(("127.0.0.1", port)):
        pass  # nothing was left open on the other address


def test_when_one_address_fails_none_stays_open(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        path = tmp_path / "s"
        with pytest.raises(ProxyError, match="another program"):
            open_listeners(settings(f"unix:{path}", f"127.0.0.1:{other.getsockname()[1]}"))
        assert not path.exists()


def test_each_address_has_its_url(tmp_path: Path) -> None:
    listeners = open_listeners(settings("127.0.0.1:0", f"unix:{tmp_path}/s", *(["[::1]:0"] if IPV6 else [])))
    expected = [f"http://127.0.0.1:{port_of(listeners)}", f"unix:{tmp_path}/s"]
    if IPV6:
        expected.append(f"http://[::1]:{listeners.sockets[2].getsockname()[1]}")
    assert listeners.urls == expected
    listeners.close()


def test_a_browser_is_led_to_the_first_address_by_a_name_that_it_can_open(tmp_path: Path) -> None:
    access = {"expose": True, "allow_clients": ["10.0.0.0/8"]}
    listeners = open_listeners(settings(f"unix:{tmp_path}/s", "0.0.0.0:0", "127.0.0.1:0", access=access))
    port = listeners.sockets[1].getsockname()[1]
    assert listeners.origin() == f"http://localhost:{port}"
    assert listeners.origin("proxy.example") == f"http://proxy.example:{port}"
    listeners.close()
    assert Listeners(urls=["https://[::]:1"]).origin() == "https://localhost:1"
    assert Listeners(urls=["https://[::1]:1"]).origin("proxy.example") == "https://[::1]:1"
    assert Listeners(urls=["unix:/run/s"]).origin() is None


@pytest.mark.parametrize("address", ["0.0.0.0:0", *(["[::]:0"] if IPV6 else [])])
def test_beyond_loopback_the_two_lines_to_add_are_told(address: str) -> None:
    for access in ({}, {"expose": True}, {"allow_clients": ["10.0.0.0/8"]}):
        with pytest.raises(SettingsError) as error:
            open_listeners(settings(address, access=access))
        assert "expose: true\n    client_keys_file: client-keys" in error.value.detail


def test_with_leave_and_a_rule_it_listens_beyond_loopback() -> None:
    listeners = open_listeners(settings("0.0.0.0:0", access={"expose": True, "allow_clients": ["10.0.0.0/8"]}))
    listeners.close()


# Unix sockets


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_a_unix_socket_is_private_and_knows_its_peer(tmp_path: Path) -> None:
    path = tmp_path / "proxy.sock"
    async with serving(settings(f"unix:{path}"), Rules.compiled(allow_clients=[f"uid:{os.getuid()}"])) as listeners:
        assert mode_of(path) == 0o600
        assert listeners.urls == [f"unix:{path}"]
        told = await greeting(asyncio.open_unix_connection(path))
        assert f"uid:{os.getuid()}" in told
        assert "allowed=True" in told
        assert "unix=True" in told
    assert not path.exists()


async def test_a_unix_peer_is_refused_by_uid_and_welcome_by_any_of_its_groups(tmp_path: Path) -> None:
    for rule, allowed in ((f"uid:{os.getuid() + 1}", False), (f"gid:{os.getgid()}", True)):
        async with serving(settings(f"unix:{tmp_path}/s"), Rules.compiled(allow_clients=[rule])):
            assert f"allowed={allowed}" in await greeting(asyncio.open_unix_connection(f"{tmp_path}/s"))


@pytest.mark.parametrize(("rules", "allowed"), [([], True), (["10.0.0.0/8"], True), (["uid:0", "gid:0"], False)])
async def test_a_unix_peer_that_the_system_does_not_tell_of_is_refused_where_a_rule_asks_who_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rules: list[str], allowed: bool
) -> None:
    monkeypatch.delattr(socket, "SO_PEERCRED")
    async with serving(settings(f"unix:{tmp_path}/s"), Rules.compiled(allow_clients=rules)):
        told = await greeting(asyncio.open_unix_connection(f"{tmp_path}/s"))
    assert f"allowed={allowed}" in told
    assert "Caller(name='unix'" in told


def test_mode_and_group_of_a_unix_socket_are_as_told(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        group = os.getgid()
        listeners = open_listeners(settings(f"unix:{tmp_path}/s?mode=0660&group={group}&user={os.getuid()}"))
    finally:
        os.umask(before)
    assert mode_of(tmp_path / "s") == 0o660
    assert (tmp_path / "s").stat().st_gid == group
    listeners.close()


@pytest.mark.parametrize("query", ["group=no-such-group", "user=no-such-user"])
def test_a_user_or_group_that_is_not_there_is_told(tmp_path: Path, query: str) -> None:
    with pytest.raises(SettingsError, match=r"^listen: unix:.* names a user or group that this system does not have$"):
        open_listeners(settings(f"unix:{tmp_path}/s?{query}"))
    assert not (tmp_path / "s").exists()


def test_a_socket_that_an_earlier_run_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    listeners = open_listeners(settings(f"unix:{path}"))
    listeners.close()
    assert not path.exists()


def test_a_unix_socket_is_not_open_to_others_for_a_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before: list[int] = []
    chmod = Path.chmod

    def looking(path: Path, mode: int) -> None:
        before.append(mode_of(path))
        chmod(path, mode)

    monkeypatch.setattr(Path, "chmod", looking)
    open_listeners(settings(f"unix:{tmp_path}/s?mode=0660")).close()
    assert before == [0o600]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_socket_of_another_user_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    os.chown(path, 65534, -1)
    with pytest.raises(SettingsError, match="belongs to another user"):
        open_listeners(settings(f"unix:{path}"))
    assert path.exists()


def test_one_start_waits_while_another_looks_at_the_folder(tmp_path: Path) -> None:
    opened: list[Listeners] = []
    start = threading.Thread(target=lambda: opened.append(open_listeners(settings(f"unix:{tmp_path}/s"))))
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        start.start()
        start.join(0.2)
        assert not (tmp_path / "s").exists()
    finally:
        os.close(folder)
        start.join()
    opened[0].close()


def test_a_socket_that_another_program_listens_on_is_not(tmp_path: Path) -> None:
    path = tmp_path / "s"
    first = open_listeners(settings(f"unix:{path}"))
    with pytest.raises(ProxyError, match="another program listens there"):
        open_listeners(settings(f"unix:{path}"))
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(path))
    first.close()


def test_a_file_in_the_place_of_the_socket_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(SettingsError, match="is not a socket"):
        open_listeners(settings(f"unix:{path}"))
    assert path.read_text() == "precious"


def test_a_folder_that_everybody_may_write_to_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for public in (folder, tmp_path):  # whoever can replace the folder can replace the socket
        public.chmod(0o777)
        with pytest.raises(SettingsError, match=f"every user may write to {public}; "):
            open_listeners(settings(f"unix:{folder}/s"))
        public.chmod(0o1777)
        open_listeners(settings(f"unix:{folder}/s")).close()


def test_a_missing_folder_and_a_long_path_are_told(tmp_path: Path) -> None:
    with pytest.raises(ProxyError, match=r"cannot listen on unix:.*No such file"):
        open_listeners(settings(f"unix:{tmp_path}/no/s"))
    with pytest.raises(ProxyError, match=r"cannot listen on unix:.*too long"):
        open_listeners(settings(f"unix:{tmp_path}/{'s' * 120}"))


def test_closing_leaves_a_socket_that_is_no_longer_ours(tmp_path: Path) -> None:
    path = tmp_path / "s"
    listeners = open_listeners(settings(f"unix:{path}"))
    path.unlink()
    path.write_text("another's")
    listeners.close()
    assert path.read_text() == "another's"


# Sockets that were passed in


async def test_a_passed_socket_is_used_and_its_file_is_left_alone(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as passed, socket.create_server(("127.0.0.1", 0)) as tcp:
        passed.bind(path)
        passed.listen()
        async with serving(settings(f"fd:{passed.fileno()}", f"fd:{tcp.fileno()}")) as listeners:
            assert listeners.urls == [f"unix:{path}", f"http://127.0.0.1:{tcp.getsockname()[1]}"]
            assert "unix=True" in await greeting(asyncio.open_unix_connection(path))
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(path)  # the passed socket still listens there


def test_what_is_no_listening_socket_is_refused(tmp_path: Path) -> None:
    with socket.socket() as idle, (tmp_path / "f").open("w") as file:
        for number in (idle.fileno(), file.fileno(), 999, 1 << 40):
            with pytest.raises(SettingsError, match=f"listen: fd:{number} is no"):
                open_listeners(settings(f"fd:{number}"))


def test_a_passed_socket_beyond_loopback_needs_leave_too() -> None:
    with socket.create_server(("0.0.0.0", 0)) as passed, pytest.raises(SettingsError, match="expose: true"):
        open_listeners(settings(f"fd:{passed.fileno()}"))
