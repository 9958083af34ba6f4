"""The shape of the code: who may import whom, where tests stand, how things are called, how large they may grow."""

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import krebit_proxy

ROOT: Final = Path(__file__).parents[1]
PACKAGE: Final = Path(krebit_proxy.__file__).parent
TESTS: Final = ROOT / "tests"
MODULES: Final = sorted(PACKAGE.rglob("*.py"))

# A module has its tests at the same place under tests/, as test_MODULE.py. The exceptions, and where their tests are:
ELSEWHERE: Final = {
    # A part that cannot be seen but through the whole.
    "cli/checks.py": "cli/test_check.py",
    "cli/fault_options.py": "cli/test_sandbox.py",
    "cli/stored_grant.py": "cli/test_setup.py",
    "cli/walkthrough.py": "cli/test_demo.py",
    "config/conflicts.py": "config/test_model.py",
    "config/schema.py": "config/test_example.py",
    "core/events.py": "core/test_lifecycle.py",
    "sandbox/pages.py": "sandbox/test_server.py",
    "sandbox/token_answers.py": "sandbox/test_faults.py",
    "sandbox/visitor.py": "sandbox/test_authorization_server.py",
    "stores/session.py": "stores/test_postgres.py",
    "stores/stores.py": "stores/test_contract.py",
    "upstream/transport.py": "upstream/test_connect.py",
    "web/flow.py": "http/test_limits.py",
    "web/handshake.py": "web/test_exhaustion.py",
    "web/server.py": "web/test_connection.py",
    # A command whose whole behaviour is what it prints.
    "cli/health.py": "cli/transcripts/no_proxy.txt",
    "cli/init.py": "cli/transcripts/init.txt",
    "cli/policy.py": "cli/transcripts/policy.txt",
    "cli/wait.py": "cli/transcripts/no_proxy.txt",
}

# Tests that mirror no module, for what they show is a matter of several. So are those of a real browser, *_browser.py.
SUITES: Final = {
    "benchmarks/": "how quick the proxy is beside others; run by hand",
    "explorer/": "the state machine of the grant in every schedule that fits, and in random ones",
    "grant/": "the grant as a black box: a scripted API and token endpoint, the real proxy between, plain sockets",
    "http/": "forwarding as a black box: raw sockets on both sides of the real proxy, valid and hostile HTTP",
    "cli/test_transcripts.py": "what commands print, byte for byte",
    "config/test_example.py": "config.example.yaml",
    "stores/test_addresses.py": "what libpq understands in the address of a database, with TLS and a pooler",
    "stores/test_contract.py": "what every store must do",
    "stores/test_crashes.py": "kills at every step of a refresh",
    "stores/test_fleet.py": "several proxies with one store",
    "stores/test_outages.py": "proxies whose database breaks",
    "upstream/test_away.py": "an upstream that takes no connection just now",
    "web/test_bounds.py": "what strangers can feed, in bytes and in time",
    "web/test_door.py": "who gets in, over real sockets: admission, keys, rates and TLS together",
    "web/test_exhaustion.py": "callers that use up connections, memory and time",
    "web/test_endings.py": "what goes wrong anywhere while an answer is made",
    "web/test_named_paths.py": "the paths that texts name",
    "web/test_tools.py": "curl, wget, requests, node and others against the default settings",
    "test_architecture.py": "this file",
    "test_deploy.py": "what is in deploy/",
    "test_fakes.py": "the servers and clients of the tests themselves",
    "test_readme.py": "README.md",
    "test_secrets_never_leak.py": "no secret in any answer, log, page or metric",
    "test_secrets_of_a_process.py": "no secret in anything that others see of a process",
    "test_threats.py": "the table of threats, each with its tests",
    "test_user_agent.py": "what every request of our own says about itself",
}


def test_a_module_imports_only_from_floors_below_its_own() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    finished = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)

    assert finished.returncode == 0, finished.stdout


def says_something(path: Path) -> bool:
    """Whether a module holds more than its docstring and names of others."""
    body = ast.parse(path.read_text()).body
    names = (ast.Expr, ast.Import, ast.ImportFrom, ast.Assign)
    return not (path.name == "__init__.py" and all(isinstance(node, names) for node in body))


def name_of(path: Path) -> str:
    """Where a module is, with a package called like its folder: `cli/cli.py`, and `main.py`."""
    name = {"__init__": path.parent.name, "__main__": "main"}.get(path.stem, path.stem)
    return path.relative_to(PACKAGE).with_name(f"{name}.py").as_posix()


def mirror(module: str) -> str:
    return str(Path(module).with_name(f"test_{Path(module).name}"))


def test_each_module_has_tests_under_its_name() -> None:
    modules = {name_of(path) for path in MODULES if says_something(path)}
    missing = {module for module in modules if not (TESTS / mirror(module)).exists()}

    assert missing - ELSEWHERE.keys() == set(), "write its tests, or name them in ELSEWHERE"
    assert ELSEWHERE.keys() - missing == set(), "has tests of its own now, or is gone: take it out of ELSEWHERE"
    assert [tests for tests in ELSEWHERE.values() if not (TESTS / tests).exists()] == []


def test_tests_mirror_a_module_or_say_what_they_are_about() -> None:
    mirrored = {mirror(name_of(path)) for path in MODULES}
    tests = {path.relative_to(TESTS).as_posix() for path in TESTS.rglob("test_*.py")}
    about = {test.replace("_browser", "") for test in tests} - mirrored

    assert [suite for suite in SUITES if not (TESTS / suite).exists()] == [], "is gone: take it out of SUITES"
    assert {test for test in about if not test.startswith(tuple(SUITES))} == set(), "which module is it about?"


def test_modules_stay_small_enough_to_be_read() -> None:
    assert [str(path) for path in MODULES if len(path.read_text().splitlines()) > 700] == []


def undocumented(tree: ast.AST, longest: int) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Public functions, and public methods of public classes, that have more lines and no docstring."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name.startswith("_"):
            continue
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.body[0].lineno + 1
            if lines > longest and ast.get_docstring(node) is None:
                yield node
        else:
            yield from undocumented(node, longest)


def test_what_is_long_says_what_it_is_for() -> None:
    """The linter asks for docstrings of modules and classes. A short function may speak for itself."""
    found = {path: list(undocumented(ast.parse(path.read_text()), longest=10)) for path in MODULES}

    assert [f"{path}: {node.name}" for path, nodes in found.items() for node in nodes] == []


def classes() -> Iterator[tuple[str, str]]:
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                yield node.name, path.relative_to(PACKAGE).as_posix()


def test_no_two_classes_share_a_name() -> None:
    places = defaultdict(list)
    for name, place in classes():
        places[name].append(place)
    shared = {name: found for name, found in places.items() if len(found) > 1}

    assert shared == {}


def test_no_module_is_called_by_what_it_does() -> None:
    names = {part for path in MODULES for part in path.relative_to(PACKAGE).with_suffix("").parts}

    assert [name for name in sorted(names) if name.endswith("ing")] == []


def test_help_is_there_without_loading_what_only_commands_need() -> None:
    script = "import sys; from krebit_proxy.cli import main; main(['--help']); print(*sys.modules, file=sys.stderr)"
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert not {"aiohttp", "pydantic", "jinja2", "structlog", "yaml"} & set(finished.stderr.split())


def test_heavy_libraries_are_loaded_when_they_are_first_used() -> None:
    script = "import sys, krebit_proxy.program; print(*sys.modules)"
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert not {"jinja2", "cryptography", "psycopg", "prometheus_client"} & set(finished.stdout.split())
