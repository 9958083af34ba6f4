"""The README says what is so."""

import re
from pathlib import Path

from krebit_proxy.cli import COMMANDS
from krebit_proxy.config.names import fields
from krebit_proxy.errors import CODES
from tests.fakes.command import run

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


async def test_the_usage_is_what_the_program_prints(tmp_path: Path) -> None:
    shown = re.search(r"<!-- usage -->\n```console\n\$ krebit-proxy --help\n(.*?)```", README, re.DOTALL)
    assert shown

    assert shown[1] == (await run("--help", folder=tmp_path)).out


async def test_each_command_explains_itself(tmp_path: Path) -> None:
    for name, summary in COMMANDS.items():
        finished = await run(name, "--help", folder=tmp_path)

        assert finished.status == 0
        assert finished.out.startswith(f"Usage: krebit-proxy {name} [OPTIONS]"), name
        assert summary in finished.out, name


def test_the_commands_that_it_names_exist() -> None:
    named = set(re.findall(r"(?:`|bin/)krebit-proxy ([a-z]+)", README))

    assert named
    assert named - COMMANDS.keys() == set()


def test_the_commands_that_the_program_advises_exist() -> None:
    sources = [path for path in (ROOT / "krebit_proxy").rglob("*") if path.suffix in {".py", ".html"}]
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


def test_the_files_that_it_links_exist() -> None:
    linked = re.findall(r"\]\(([^)#:]+)\)", README)

    assert [path for path in linked if not (ROOT / path).exists()] == []


def test_its_two_commands_are_one_line_each() -> None:
    commands = dict(re.findall(r"<!-- command: (\w+) -->\n```sh\n(.*?)\n```", README, re.DOTALL))

    assert commands.keys() == {"demo", "tests"}
    assert all("\n" not in command for command in commands.values())
