"""The settings as rules: keys are read from their file, and everything else is compiled."""

import asyncio
import socket
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from krebit_proxy.config import Settings
from krebit_proxy.core.access import Peer, Rules
from krebit_proxy.core.secret import Secret
from krebit_proxy.errors import SettingsError
from krebit_proxy.web.admission import HasRules, KeyFile, access_rules, key_cautions, peer_of, read_client_keys
from tests.fakes.waiting import eventually


def settings(**access: Any) -> Settings:
    given = {"organization": "acme", "client_id": "a", "client_secret": Secret("s"), "access": access}
    return Settings.model_validate(given)


def key_file(folder: Path, text: str, mode: int = 0o600) -> Path:
    file = folder / "client-keys"
    file.write_text(text)
    file.chmod(mode)
    return file


def problems(file: Path) -> list[str]:
    with pytest.raises(SettingsError) as error:
        read_client_keys(file)
    return [problem.replace(f"{file}:", "") for problem in error.value.problems]


def test_the_default_settings_are_the_open_rules() -> None:
    assert access_rules(settings()).open


def test_every_setting_reaches_the_rules(tmp_path: Path) -> None:
    rules = access_rules(
        settings(
            allowed_hosts=["a.example"],
            allowed_origins=["http://b.example"],
            allow_clients=["10.0.0.0/8", "uid:7"],
            client_keys_file=key_file(tmp_path, "billing:k1"),
            require_header="X-A",
            read_only=True,
            allow=[{"methods": ["GET"], "paths": ["/api/x"], "callers": ["billing"]}],
        )
    )
    assert rules.hosts == {b"a.example"}
    assert rules.origins == {b"http://b.example"}
    assert [str(network) for network in rules.networks] == ["10.0.0.0/8"]
    assert rules.owners == {"uid:7"}
    assert rules.keys == {sha256(b"k1").digest(): "billing"}
    assert rules.upstream == b"https://acme.krebit.se"
    assert rules.require_header == b"x-a"
    assert rules.read_only
    assert rules.allow[0].callers == {"billing"}


def test_rules_that_this_system_cannot_keep_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "SO_PEERCRED")

    with pytest.raises(SettingsError, match="uid:7: this system cannot identify users"):
        access_rules(settings(allow_clients=["10.0.0.0/8", "uid:7"]))


def test_keys_are_read_and_only_their_digests_are_kept(tmp_path: Path) -> None:
    digest = sha256(b"k2").digest()
    keys = read_client_keys(key_file(tmp_path, f"# who\n\nbilling:k:1\n stock:sha256:{digest.hex()} \n"))
    assert keys.digests == {"billing": sha256(b"k:1").digest(), "stock": digest}


def test_every_bad_line_is_told_and_none_is_shown(tmp_path: Path) -> None:
    text = "a:SECRET1\nSECRET2\nb:\n:SECRET3\nc d:SECRET4\na:SECRET5\ne:SECRET1\nf:SECRET 6\n"
    told = problems(key_file(tmp_path, text))
    assert [problem.split(":")[0] for problem in told] == ["2", "3", "4", "5", "6", "7", "8"]
    assert "SECRET" not in "".join(told)


def test_a_file_without_a_key_or_beyond_ascii_is_told(tmp_path: Path) -> None:
    assert "has no key" in problems(key_file(tmp_path, "# nothing\n"))[0]
    assert "plain text" in problems(key_file(tmp_path, "a:nyckel-å"))[0]


def test_a_file_that_others_may_change_or_that_is_missing_is_refused(tmp_path: Path) -> None:
    assert "chmod 600" in problems(key_file(tmp_path, "a:k", 0o666))[0]
    assert "cannot be read" in problems(tmp_path / "missing")[0]


# While the proxy runs


def rules_with(*names: str) -> Rules:
    keys = {name: sha256(f"{name}-7c1e5a9d30b2f486".encode()).digest() for name in names}
    return Rules.compiled(client_keys=keys)


def test_new_keys_are_read_and_nothing_else_changes(tmp_path: Path) -> None:
    file = KeyFile(key_file(tmp_path, "b:b-7c1e5a9d30b2f486\n"))
    with capture_logs() as events:
        renewed = file.renewed(Rules.compiled(client_keys={"a": b"digest"}, read_only=True))
    assert renewed.keys == rules_with("b").keys
    assert renewed.read_only
    assert events == [{"event": "access.keys_read", "log_level": "info", "callers": 1}]


@pytest.mark.parametrize("problem", ["nonsense", "writable", "missing", "empty"])
def test_a_new_file_that_cannot_be_used_changes_nothing_and_is_told_of(tmp_path: Path, problem: str) -> None:
    rules = rules_with("a")
    path = key_file(tmp_path, "a:a-7c1e5a9d30b2f486\n")
    file = KeyFile(path)
    if problem == "missing":
        path.unlink()
    else:
        text = {"nonsense": "SECRET", "writable": "b:SECRET", "empty": ""}[problem]
        key_file(tmp_path, text, 0o666 if problem == "writable" else 0o600)
    with capture_logs() as events:
        assert file.renewed(rules) is rules
    [event] = events
    assert (event["event"], event["log_level"]) == ("access.keys_refused", "error")
    assert str(path) in event["problems"][0]
    assert "SECRET" not in str(event)


def names_are(server: HasRules, names: list[str]) -> bool:
    return server.rules == rules_with(*names)


def test_weak_keys_are_told_by_their_owners(tmp_path: Path) -> None:
    long = "6f1b9c2d4e5a7083"
    text = f"a:{long[:15]}\nb:{long}\nc:{'ab' * 20}\nd:sha256:{'0' * 64}\ne:YOUR_KEY\n"
    given = settings(client_keys_file=key_file(tmp_path, text))
    told = key_cautions(given)
    assert [caution.split()[5] for caution in told] == ["a", "c", "e"]
    assert all(caution.startswith("access.client_keys_file: the client key of ") for caution in told)
    assert not [key for key in (long[:15], "abab", "YOUR_KEY") if key in "".join(told)]
    keys = {name: digest for digest, name in access_rules(given).keys.items()}
    assert access_rules(given).guessable == {keys[name] for name in "acde"}
    assert key_cautions(settings()) == []


def test_a_weak_key_is_told_of_when_it_is_read_anew(tmp_path: Path) -> None:
    file = KeyFile(key_file(tmp_path, "b:short\n"))
    with capture_logs() as events:
        renewed = file.renewed(Rules())
    assert [event["event"] for event in events] == ["access.keys_read", "settings.caution"]
    assert "key of b could be guessed" in events[1]["text"]
    assert renewed.guessable == {sha256(b"short").digest()}


async def test_a_server_gets_the_keys_of_each_new_state_of_the_file(tmp_path: Path) -> None:
    class Server:
        rules = rules_with("a")

    server = Server()
    file = KeyFile(key_file(tmp_path, "a:a-7c1e5a9d30b2f486\n"))
    following = asyncio.ensure_future(file.follow(server, pause=0.01))
    for names in (["b"], ["b", "c"]):
        key_file(tmp_path, "".join(f"{name}:{name}-7c1e5a9d30b2f486\n" for name in names))
        await eventually(partial(names_are, server, names))
    following.cancel()


def test_a_caller_that_is_already_gone_is_nobody() -> None:
    class Gone(asyncio.BaseTransport):
        def get_extra_info(self, name: str, default: Any = None) -> Any:
            return sock if name == "socket" else default

    with socket.socket() as sock:
        peer: Peer = peer_of(Gone(), Rules())
    assert not peer.loopback
