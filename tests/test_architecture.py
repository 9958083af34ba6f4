"""The shape of the code: who may import whom, and how large a module may grow."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "krebit_proxy").rglob("*.py"))


def test_a_module_imports_only_from_floors_below_its_own() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    finished = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)

    assert finished.returncode == 0, finished.stdout


def test_modules_stay_small_enough_to_be_read() -> None:
    assert [str(path) for path in MODULES if len(path.read_text().splitlines()) > 700] == []


def test_each_module_of_the_core_has_its_own_tests() -> None:
    names = {path.stem for path in MODULES if path.parent.name == "core" and path.stem != "__init__"}
    tests = {path.stem.removeprefix("test_") for path in (ROOT / "tests" / "core").glob("test_*.py")}

    # The events are the vocabulary of the lifecycle, and tried out with it.
    assert names - tests == {"events"}


def test_help_is_there_without_loading_what_only_commands_need() -> None:
    script = "import sys; from krebit_proxy.cli import main; main(['--help']); print(*sys.modules, file=sys.stderr)"
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert not {"aiohttp", "pydantic", "jinja2", "structlog", "yaml"} & set(finished.stderr.split())


def test_heavy_libraries_are_loaded_when_they_are_first_used() -> None:
    script = "import sys, krebit_proxy.program; print(*sys.modules)"
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert not {"jinja2", "cryptography", "psycopg", "prometheus_client"} & set(finished.stdout.split())
