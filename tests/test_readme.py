"""README, CONTRIBUTING and SECURITY say what is so."""

import re
import tomllib
from pathlib import Path

import pytest

import krebit_proxy
from krebit_proxy.cli import COMMANDS, main
from krebit_proxy.config.names import fields
from krebit_proxy.errors import CODES
from tests.fakes.command import run

ROOT = Path(__file__).parents[1]
PACKAGE = Path(krebit_proxy.__file__).parent  # which may be installed elsewhere
README = (ROOT / "README.md").read_text()


async def test_the_usage_is_what_the_program_prints(tmp_path: Path) -> None:
    shown = re.search(r"<!-- usage -->\n```console\n\$ krebit-proxy --help\n(.*?)```", README, re.DOTALL)
    assert shown

    assert shown[1] == (await run("--help", folder=tmp_path)).out


def test_each_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    for name, summary in COMMANDS.items():
        assert main([name, "--help"]) == 0
        printed = capsys.readouterr().out
        assert printed.startswith(f"Usage: krebit-proxy {name} [OPTIONS]"), name
        assert summary in printed, name


def test_the_commands_that_it_names_exist() -> None:
    named = set(re.findall(r"(?:`|bin/)krebit-proxy ([a-z]+)", README))

    assert named
    assert named - COMMANDS.keys() == set()


def test_the_commands_that_the_program_advises_exist() -> None:
    sources = [path for path in PACKAGE.rglob("*") if path.suffix in {".py", ".html"}]
    advised = {
        name for path in sources for name in re.findall(r"(?:`|: |or )krebit-proxy ([a-z]+)\b", path.read_text())
    }

    assert advised
    assert advised - COMMANDS.keys() == set()


def test_the_settings_that_it_names_exist() -> None:
    known = {name for name, _ in fields()}
    named = set(re.findall(r"`((?:upstream|oauth|refresh|replay|access|limits|log|notify)\.(?!py)[a-z_]+)`", README))

    assert named
    assert named - known == set()


def test_each_code_has_a_heading_with_its_status() -> None:
    told = dict(re.findall(r"^### ([a-z_]+)\n\n(\d+)\b", README, re.MULTILINE))

    assert told == {code: str(status) for code, (status, _) in CODES.items()}


@pytest.mark.parametrize("name", ["README.md", ".github/CONTRIBUTING.md", ".github/SECURITY.md"])
def test_the_files_that_a_document_links_or_names_exist(name: str) -> None:
    document = ROOT / name
    linked = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text())
    named = re.findall(r"`((?:krebit_proxy|tests|deploy)/[\w/.]+)`", document.read_text())

    assert linked
    assert [path for path in linked if not (document.parent / path).exists()] == []
    places = (ROOT, PACKAGE.parent)
    assert [path for path in named if "NAME" not in path and not any((place / path).exists() for place in places)] == []


def test_its_floors_are_those_that_are_checked() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    checked = [set(re.findall(r"krebit_proxy\.(\w+)", floor)) for floor in contracts[0]["layers"]]
    rows = re.findall(r"^\| (`.*?`) \|", README[README.index("| floor |") :], re.MULTILINE)

    assert [set(re.findall(r"`(\w+)(?:/|\.py)`", row)) for row in rows] == checked


def test_the_changes_of_a_version_are_told() -> None:
    sections = re.findall(r"^## \[(.*?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)

    assert sections[0] == "Unreleased"
    assert krebit_proxy.__version__ in sections or len(sections) == 1, "what is new in this version?"


def test_its_two_commands_are_one_line_each() -> None:
    commands = dict(re.findall(r"<!-- command: (\w+) -->\n```sh\n(.*?)\n```", README, re.DOTALL))

    assert commands.keys() == {"demo", "tests"}
    assert all("\n" not in command for command in commands.values())
