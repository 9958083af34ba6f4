"""A real PgBouncer: lends connections by transaction, over TLS, to who knows the password."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from krebit_proxy.cli.demo import free_port
from tests.fakes.certificates import Authority
from tests.fakes.database import DEADLINE, NOBODY, Database, is_root

PROGRAM: Final = shutil.which("pgbouncer", path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin")
PASSWORD: Final = "marker-database-password"

# In CI a pooler that is missing is a failure.
needs_pooler: Final = pytest.mark.skipif(not PROGRAM and not os.environ.get("CI"), reason="no PgBouncer is installed")


class Pooler:
    """PgBouncer on a free port of 127.0.0.1, in front of a database. Its certificate is for that address only."""

    def __init__(self, database: Database, folder: Path) -> None:
        self._folder = folder
        self.port = free_port(0)
        authority = Authority(folder)
        authority.server("127.0.0.1")
        self.ca_file = authority.ca_file
        users = folder / "users"
        users.write_text(f'"proxy" "{PASSWORD}"\n')
        certificate = folder / "127.0.0.1.pem"
        self._settings = folder / "pgbouncer.ini"
        self._settings.write_text(f"""
            [databases]
            * = host=127.0.0.1 port={database.port} user=postgres
            [pgbouncer]
            listen_addr = 127.0.0.1
            listen_port = {self.port}
            unix_socket_dir =
            pool_mode = transaction
            default_pool_size = 3
            auth_type = scram-sha-256
            auth_file = {users}
            client_tls_sslmode = require
            client_tls_cert_file = {certificate}
            client_tls_key_file = {certificate}
            """)
        self._user: dict[str, Any] = NOBODY if is_root() else {}
        if self._user:
            folder.chmod(0o755)  # the certificate of the authority is for everybody
            for file in (users, certificate):
                shutil.chown(file, "nobody")

    def address(self, *, password: str = PASSWORD, host: str = "127.0.0.1", **parameters: object) -> str:
        """A URL that trusts the authority, with further parameters of libpq."""
        given = {"sslmode": "verify-full", "sslrootcert": self.ca_file, **parameters}
        query = "&".join(f"{name}={value}" for name, value in given.items())
        user = f"proxy:{password}" if password else "proxy"
        return f"postgresql://{user}@{host}:{self.port}/postgres?{query}"

    def start(self) -> None:
        """Returns when it takes connections."""
        assert PROGRAM is not None, "no PgBouncer is installed"
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen([PROGRAM, self._settings], stdout=log, stderr=log, cwd="/", **self._user)
        end = time.monotonic() + DEADLINE
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=2).close()
            except OSError:
                assert self._process.poll() is None, (self._folder / "log").read_text()
                assert time.monotonic() < end, "PgBouncer takes no connections"
                time.sleep(0.02)
            else:
                return

    def close(self) -> None:
        self._process.kill()
        self._process.wait(DEADLINE)


@contextmanager
def pooler(database: Database) -> Iterator[Pooler]:
    """Runs one, in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="pooler-") as folder:
        running = Pooler(database, Path(folder))
        running.start()
        try:
            yield running
        finally:
            running.close()
