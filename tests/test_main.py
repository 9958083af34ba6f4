"""`python -m krebit_proxy`."""

import subprocess
import sys

from krebit_proxy import __version__


def test_the_module_is_the_command() -> None:
    finished = subprocess.run([sys.executable, "-m", "krebit_proxy", "--version"], capture_output=True, check=True)

    assert finished.stdout.decode() == f"krebit-proxy {__version__}\n"


def test_its_exit_status_is_that_of_the_command() -> None:
    finished = subprocess.run([sys.executable, "-m", "krebit_proxy", "--nonsense"], capture_output=True, check=False)

    assert finished.returncode == 2
