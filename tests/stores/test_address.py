"""The way to a database: who may read along and who may pretend to be it, whatever the environment says."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from krebit_proxy.errors import StoreError
from krebit_proxy.stores import store_cautions
from krebit_proxy.stores.address import caution, secured
from krebit_proxy.stores.encryption import new_key
from tests.stores.conftest import Place

PASSWORD = "marker-database-password"
# Another spelling of 127.0.0.1 that only the system knows, so it could be any computer.
BEYOND = "127.1"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing from the user who runs the tests."""
    for name in ("PGHOST", "PGHOSTADDR", "PGSERVICE", "PGSERVICEFILE", "PGSSLMODE", "PGSSLROOTCERT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


class Rogue:
    """A server that refuses TLS and asks for the password in clear. `heard` is all that it was told."""

    def __init__(self) -> None:
        self.heard = b""
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            (length,) = struct.unpack("!i", await reader.readexactly(4))
            message = await reader.readexactly(length - 4)
            if length != 8:  # StartupMessage
                break
            writer.write(b"N")  # to SSLRequest and GSSENCRequest
        writer.write(b"R" + struct.pack("!ii", 8, 3))  # AuthenticationCleartextPassword
        self.heard += message + await reader.read(1000)
        writer.close()


@asynccontextmanager
async def rogue() -> AsyncIterator[Rogue]:
    found, ended = Rogue(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await found.serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()
        ended.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    found.port = server.sockets[0].getsockname()[1]
    async with server:
        yield found
        await ended.wait()


async def refusal(tmp_path: Path, address: str) -> str:
    key_file = tmp_path / "keys"
    key_file.write_text(new_key())
    store = Place(address, key_file).open()
    with pytest.raises(StoreError) as refused:
        await store.read()
    await store.close()
    return refused.value.detail


@pytest.mark.parametrize("mode", [None, "prefer", "disable"])
@pytest.mark.parametrize(
    ("host", "environment"),
    [
        (BEYOND, {}),
        (f"127.0.0.1:1,{BEYOND}", {}),
        ("", {"PGHOST": BEYOND}),
        ("localhost", {"PGHOSTADDR": BEYOND}),
        ("", {"PGSERVICE": "there"}),
    ],
)
async def test_a_server_that_refuses_tls_never_gets_the_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, environment: dict[str, str], mode: str | None
) -> None:
    services = tmp_path / "services"
    services.write_text(f"[there]\nhost={BEYOND}\nsslmode=prefer\n")
    for name, value in {**environment, "PGSERVICEFILE": str(services)}.items():
        monkeypatch.setenv(name, value)
    if mode:
        monkeypatch.setenv("PGSSLMODE", mode)
    async with rogue() as server:
        monkeypatch.setenv("PGPORT", str(server.port))
        place = f"{host}:{server.port}" if host else ""
        detail = await refusal(tmp_path, f"postgresql://proxy:{PASSWORD}@{place}/grants")

    assert "server does not support SSL" in detail
    assert server.heard == b""


async def test_who_asks_for_less_in_the_address_gets_less(tmp_path: Path) -> None:
    async with rogue() as server:
        await refusal(tmp_path, f"postgresql://proxy:{PASSWORD}@{BEYOND}:{server.port}/grants?sslmode=prefer")

    assert PASSWORD.encode() in server.heard


@pytest.mark.parametrize(
    ("address", "mode"),
    [
        ("postgresql://db.example/grants", "verify-full"),
        ("postgresql://10.0.0.1,localhost/grants", "verify-full"),
        ("postgresql://127.0.0.1,db.example/grants", "verify-full"),
        ("postgresql:///grants?host=/run/postgresql,db.example", "verify-full"),
        ("postgresql://localhost/grants?hostaddr=10.0.0.1", "verify-full"),
        ("postgresql:///grants?service=missing", "verify-full"),
        ("postgresql://db.example/grants?sslmode=require", "require"),
        ("postgresql:///grants?service=there&sslmode=verify-ca", "verify-ca"),
        ("postgresql://localhost/grants", None),
        ("postgresql://[::1],127.0.0.2/grants", None),
        ("postgresql:///grants", None),
        ("postgresql:///grants?host=/run/postgresql", None),
        ("postgresql://db.example/grants?hostaddr=127.0.0.1", None),
    ],
)
def test_the_connection_is_verified_for_all_hosts_but_those_of_this_computer(address: str, mode: str | None) -> None:
    assert conninfo_to_dict(secured(address)).get("sslmode") == mode


def roots(address: str) -> object:
    return conninfo_to_dict(secured(address)).get("sslrootcert")


def test_authorities_are_those_that_somebody_named_else_those_of_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = tmp_path / "system.pem"
    system.touch()
    monkeypatch.setenv("SSL_CERT_FILE", str(system))
    url = "postgresql://db.example/grants"

    assert roots(url) == roots(f"{url}?sslrootcert=system") == roots(f"{url}?sslmode=verify-full") == str(system)
    assert roots(f"{url}?sslrootcert=/own.pem") == "/own.pem"
    assert roots(f"{url}?sslmode=verify-ca") is None  # any web site's certificate would do
    monkeypatch.setenv("PGSSLROOTCERT", "/own.pem")
    assert roots(url) is None
    monkeypatch.delenv("PGSSLROOTCERT")
    own = tmp_path / ".postgresql" / "root.crt"
    own.parent.mkdir()
    own.touch()
    assert roots(url) is None


def test_less_than_verified_is_cautioned_beyond_this_computer(tmp_path: Path) -> None:
    url = "postgresql://proxy@db.example/grants"
    [text] = store_cautions(Place(f"{url}?sslmode=require", tmp_path).settings())

    assert text.startswith("store: sslmode=require lets another computer")
    assert store_cautions(Place(url, tmp_path).settings()) == []
    assert store_cautions(Place(f"file:{tmp_path}").settings()) == []
    assert not caution(f"{url}?sslmode=verify-full")
    assert not caution("postgresql://localhost/grants?sslmode=disable")
    assert not caution("postgresql://[/")


def test_what_is_verified_is_not_replaced_by_kerberos() -> None:
    """libpq would prefer GSS encryption to TLS where there is a ticket, and would then verify nothing."""
    assert conninfo_to_dict(secured(f"postgresql://{BEYOND}/grants"))["gssencmode"] == "disable"
    chosen = secured(f"postgresql://{BEYOND}/grants?gssencmode=require")
    assert conninfo_to_dict(chosen)["gssencmode"] == "require"
    assert "gssencmode" not in conninfo_to_dict(secured("postgresql://localhost/grants"))
