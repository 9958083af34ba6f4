"""The example and the schema say of the settings what the model says."""

import json
from pathlib import Path
from typing import Any

import yaml

import krebit_proxy
from krebit_proxy.config import load
from krebit_proxy.config import schema as schema_module
from krebit_proxy.config.names import SECRET, SECRET_FILE, fields

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "config.example.yaml"


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as dotted names."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def example() -> dict[str, Any]:
    return flat(yaml.safe_load(EXAMPLE.read_text()))


def test_the_example_loads_as_it_stands(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(EXAMPLE.read_text())
    secret = tmp_path / "client-secret"
    secret.write_text("s3cret\n")
    secret.chmod(0o600)

    assert load(tmp_path / "config.yaml", {}).organization == "yourcompany"


def test_the_example_has_every_setting_and_no_other() -> None:
    assert example().keys() == {name for name, _ in fields()} - {SECRET} | {SECRET_FILE}


def test_the_example_shows_the_defaults(tmp_path: Path) -> None:
    secret = tmp_path / "client-secret"
    secret.write_text("s3cret\n")
    secret.chmod(0o600)
    (tmp_path / "config.yaml").write_text(
        "organization: yourcompany\nclient_id: a\nclient_secret_file: client-secret\n"
    )
    defaults = load(tmp_path / "config.yaml", {})
    (tmp_path / "config.yaml").write_text(EXAMPLE.read_text().replace("your-client-id", "a"))

    assert load(tmp_path / "config.yaml", {}) == defaults


def test_each_setting_of_the_example_has_its_line_of_why() -> None:
    lines = [line for line in EXAMPLE.read_text().splitlines() if line and not line.startswith("#")]

    assert [line for line in lines if "  # " not in line and " # " not in line and not line.endswith(":")] == []


def test_each_setting_is_described_for_editors() -> None:
    assert [name for name, field in fields() if not field.description] == []


def test_the_schema_is_current() -> None:
    shipped = Path(schema_module.__file__).with_name("schema.json")

    assert shipped.read_text() == schema_module.text()
    assert EXAMPLE.read_text().startswith(
        f"# yaml-language-server: $schema={shipped.relative_to(Path(krebit_proxy.__file__).parents[1])}\n"
    )


def test_the_schema_knows_each_setting() -> None:
    document = json.loads(schema_module.text())

    def names(node: dict[str, Any], prefix: str = "") -> set[str]:
        found: set[str] = set()
        for key, value in node["properties"].items():
            section = document["$defs"].get(str(value.get("$ref")).rpartition("/")[2])
            found |= names(section, f"{prefix}{key}.") if section else {prefix + key}
        return found

    assert names(document) == {name for name, _ in fields()} | {SECRET_FILE}
