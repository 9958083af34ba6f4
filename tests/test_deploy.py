"""What is in deploy/ fits the program: settings exist, commands exist, versions are locked as they are asked for."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from krebit_proxy.cli import COMMANDS
from krebit_proxy.config import load
from krebit_proxy.stores.encryption import new_key

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
UNIT = (DEPLOY / "krebit-proxy.service").read_text()
SOCKET = (DEPLOY / "krebit-proxy.socket").read_text()
STATE = "/var/lib/krebit-proxy"


def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return document


def instruction(name: str) -> str:
    """The last one of its kind: that of the final stage."""
    found: list[str] = re.findall(rf"^{name} (.*)$", DOCKERFILE, re.MULTILINE)
    return found[-1]


class TestTheImage:
    def test_does_not_run_as_root(self) -> None:
        user, _, group = instruction("USER").partition(":")

        assert int(user) > 0
        assert int(group) > 0

    def test_keeps_its_state_on_a_volume(self) -> None:
        assert instruction("VOLUME") == instruction("WORKDIR") == STATE

    def test_is_probed_and_started_by_commands_that_exist(self) -> None:
        probe = re.search(r'CMD \["krebit-proxy", "(\w+)"\]', instruction("HEALTHCHECK"))
        start = re.fullmatch(r'\["(\w+)"\]', instruction("CMD"))

        assert probe
        assert start
        assert instruction("ENTRYPOINT") == '["krebit-proxy"]'
        assert {probe[1], start[1]} <= COMMANDS.keys()

    def test_copies_files_that_exist(self) -> None:
        sources = [
            source
            for line in re.findall(r"^COPY (?!--)(.*)$", DOCKERFILE, re.MULTILINE)
            for source in line.split()[:-1]
        ]

        allowed = re.findall(r"^!(.*)$", (DEPLOY / "Dockerfile.dockerignore").read_text(), re.MULTILINE)

        assert sources
        assert [source for source in sources if not (ROOT / source).exists()] == []
        assert set(sources) == set(allowed)

    @pytest.mark.parametrize(("name", "key"), [("requirements.txt", "project"), ("requirements-build.txt", "build")])
    def test_installs_by_hash_what_the_project_asks_for(self, name: str, key: str) -> None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())
        asked = {
            "project": project["project"]["dependencies"] + project["project"]["optional-dependencies"]["postgres"],
            "build": project["build-system"]["requires"],
        }[key]
        locked = re.findall(
            r"^([\w.-]+)==(\S+) \\\n    --hash=sha256:[0-9a-f]{64}", (DEPLOY / name).read_text(), re.MULTILINE
        )
        versions = {package: Version(version) for package, version in locked}

        for text in asked:
            requirement = Requirement(text)
            assert requirement.specifier.contains(versions[requirement.name]), text


class TestCompose:
    def test_the_app_shares_the_network_of_the_proxy_and_waits_for_it(self) -> None:
        services = compose()["services"]

        assert services["app"]["network_mode"] == "service:krebit-proxy"
        assert services["app"]["depends_on"] == {"krebit-proxy": {"condition": "service_healthy"}}
        assert "ports" not in services["krebit-proxy"]

    def test_its_settings_are_settings(self, tmp_path: Path) -> None:
        service = compose()["services"]["krebit-proxy"]
        secret = tmp_path / "secret"
        secret.write_text("s3cret")
        secret.chmod(0o600)
        values = {"KREBIT_ORGANIZATION": "acme", "KREBIT_CLIENT_ID": "abc"}

        def filled(text: str) -> str:
            return re.sub(r"\$\{(\w+):[?-]([^}]*)\}", lambda found: values.get(found[1], found[2]), text)

        environ = {name: filled(value) for name, value in service["environment"].items()}
        assert environ["KREBIT_PROXY_CLIENT_SECRET_FILE"] == "/run/secrets/krebit_client_secret"
        settings = load(None, environ | {"KREBIT_PROXY_CLIENT_SECRET_FILE": str(secret)})

        assert (settings.organization, settings.redirect_uri) == ("acme", "http://localhost:8321/setup/callback")

    def test_the_state_is_on_a_volume_and_all_else_is_read_only(self) -> None:
        service = compose()["services"]["krebit-proxy"]

        assert service["volumes"] == [f"grant:{STATE}"]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]


class TestTheUnit:
    def test_its_settings_are_settings(self, tmp_path: Path) -> None:
        environ = dict(line.split("=", 1) for line in re.findall(r"^Environment=(.*)$", UNIT, re.MULTILINE))
        secret = tmp_path / "client-secret"
        secret.write_text("s3cret")
        secret.chmod(0o600)
        filled = {name: value.replace("%d", str(tmp_path)).replace("%S", "/var/lib") for name, value in environ.items()}
        settings = load(None, filled | {"KREBIT_PROXY_ORGANIZATION": "acme", "KREBIT_PROXY_CLIENT_ID": "abc"})

        assert settings.store == f"file:{STATE}/grant"

    def test_the_key_that_it_can_pass_is_found(self, tmp_path: Path) -> None:
        credential = re.search(r"^#LoadCredentialEncrypted=([^:]+):", UNIT, re.MULTILINE)
        assert credential
        key = tmp_path / credential[1]
        key.touch(0o600)
        key.write_text(new_key())
        environ = {"CREDENTIALS_DIRECTORY": str(tmp_path), "KREBIT_PROXY_CLIENT_SECRET": "s3cret"}
        settings = load(None, environ | {"KREBIT_PROXY_ORGANIZATION": "acme", "KREBIT_PROXY_CLIENT_ID": "abc"})

        assert settings.encryption_key_file == key

    def test_starts_a_command_that_exists(self) -> None:
        started = re.search(r"^ExecStart=/opt/krebit-proxy/bin/krebit-proxy (\w+) ", UNIT, re.MULTILINE)

        assert started
        assert started[1] in COMMANDS

    @pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
    def test_is_understood_by_systemd_and_exposes_little(self, tmp_path: Path) -> None:
        unit = tmp_path / "krebit-proxy.service"
        unit.write_text(UNIT.replace("/opt/krebit-proxy/bin/krebit-proxy", sys.executable))
        for command in (["verify"], ["security", "--offline=true", "--threshold=20"]):
            finished = subprocess.run(
                ["systemd-analyze", *command, unit], capture_output=True, text=True, timeout=60, check=False
            )
            assert finished.returncode == 0, finished.stdout + finished.stderr


class TestTheSocket:
    def test_its_descriptors_are_what_the_proxy_is_told_to_listen_on(self) -> None:
        told = re.search(r'^# +Environment="KREBIT_PROXY_LISTEN=(.*)"$', SOCKET, re.MULTILINE)
        assert told
        settings = load(
            None,
            {
                "KREBIT_PROXY_LISTEN": told[1],
                "KREBIT_PROXY_ORGANIZATION": "acme",
                "KREBIT_PROXY_CLIENT_ID": "abc",
                "KREBIT_PROXY_CLIENT_SECRET": "s3cret",
            },
        )

        streams = re.findall(r"^ListenStream=(.*)$", SOCKET, re.MULTILINE)
        assert streams == ["127.0.0.1:8321", "[::1]:8321"]
        assert settings.listen == ("fd:3", "fd:4")  # sd_listen_fds(3): they begin at 3, in the order of the unit

    @pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
    def test_is_understood_by_systemd(self, tmp_path: Path) -> None:
        (tmp_path / "krebit-proxy.service").write_text(
            UNIT.replace("/opt/krebit-proxy/bin/krebit-proxy", sys.executable)
        )
        unit = tmp_path / "krebit-proxy.socket"
        unit.write_text(SOCKET)
        finished = subprocess.run(
            ["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=60, check=False
        )
        assert finished.returncode == 0, finished.stdout + finished.stderr
