"""What all commands share: where the settings are, and how much is told when something fails."""

import os
from pathlib import Path

import pytest

from krebit_proxy.cli import main
from krebit_proxy.cli.invocation import Invocation
from krebit_proxy.errors import SettingsError
from tests.fakes.command import write_settings


def test_settings_are_taken_out_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that no program that is started from here inherits a secret."""
    monkeypatch.setenv("KREBIT_PROXY_CLIENT_SECRET", "of-the-environment")
    monkeypatch.setenv("KREBIT_PROXY_CONFIG", str(tmp_path / "config.yaml"))
    (tmp_path / "config.yaml").write_text("{organization: acme, client_id: app}")
    settings = Invocation().settings()

    assert settings.client_secret.reveal() == "of-the-environment"
    assert "KREBIT_PROXY_CLIENT_SECRET" not in os.environ
    assert os.environ["KREBIT_PROXY_CONFIG"]


def test_a_file_that_is_named_wins_over_all_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KREBIT_PROXY_CONFIG", str(tmp_path / "missing.yaml"))

    assert Invocation(config=write_settings(tmp_path)).settings().organization == "acme"
    with pytest.raises(SettingsError, match=r"missing\.yaml"):
        Invocation().settings()


@pytest.mark.parametrize("before", [True, False], ids=["before the command", "behind it"])
def test_common_options_stand_on_either_side(tmp_path: Path, before: bool, capsys: pytest.CaptureFixture[str]) -> None:
    option, command = ["--config", str(tmp_path / "missing.yaml"), "--debug"], ["status"]

    assert main([*option, *command] if before else [*command, *option]) == 2
    printed = capsys.readouterr().err
    assert "missing.yaml" in printed
    assert "Traceback" in printed
