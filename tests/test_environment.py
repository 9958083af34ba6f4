"""What programs inherit that we start."""

import ast
from pathlib import Path

import pytest

import krebit_proxy
from krebit_proxy.environment import harmless

STARTS = {"create_subprocess_exec", "create_subprocess_shell", "subprocess", "webbrowser", "popen", "system", "execve"}


NEEDED = """
    PATH HOME LANG LC_ALL TZ TMPDIR DISPLAY WAYLAND_DISPLAY XAUTHORITY BROWSER XDG_RUNTIME_DIR XDG_CONFIG_HOME
    XDG_DATA_DIRS XDG_CURRENT_DESKTOP XDG_SESSION_TYPE DBUS_SESSION_BUS_ADDRESS SSL_CERT_FILE SYSTEMROOT
    PATHEXT PROGRAMFILES(X86)
"""
OTHERS = """
    PGPASSWORD PGPASSFILE KREBIT_PROXY_CLIENT_SECRET KREBIT_PROXY_CONFIG krebit_proxy_x HTTPS_PROXY
    https_proxy ALL_PROXY AWS_SECRET_ACCESS_KEY GITHUB_TOKEN DATABASE_URL CREDENTIALS_DIRECTORY SSH_AUTH_SOCK
    LD_PRELOAD PYTHONPATH SSLKEYLOGFILE XDG_ACTIVATION_TOKEN XDG_SECRET LC_ X MY_PATH PATH_TOKEN LC_ALL_TOKEN
"""


@pytest.mark.parametrize("name", NEEDED.split())
def test_a_program_gets_what_it_needs(name: str) -> None:
    assert harmless({name: "x"}) == {name: "x"}


@pytest.mark.parametrize("name", OTHERS.split())
def test_a_program_gets_nothing_else(name: str) -> None:
    assert harmless({name: "x"}) == {}


def test_nothing_else_starts_programs() -> None:
    """Whoever starts one more program passes `harmless`, and is added here."""
    package = Path(krebit_proxy.__file__).parent
    found = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = {alias.name for alias in node.names} if isinstance(node, ast.Import | ast.ImportFrom) else set()
            names |= {node.attr} if isinstance(node, ast.Attribute) else set()
            if names & STARTS:
                found.add(path.relative_to(package).as_posix())

    assert found == {"cli/setup.py", "web/notify.py"}
