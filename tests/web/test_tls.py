"""The certificate that callers see, and the authority whose certificates they must show."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from krebit_proxy.errors import SettingsError
from krebit_proxy.web.admission import access_rules
from krebit_proxy.web.listeners import Listeners
from krebit_proxy.web.tls import server_certificate
from tests.fakes.certificates import Authority
from tests.fakes.waiting import eventually
from tests.web.greeters import greeting, port_of, serving, settings


def trusting(authority: Authority, certificate: Path | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.ca_file))
    if certificate is not None:
        context.load_cert_chain(certificate)
    return context


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def issued(authority: Authority, folder: Path, name: str) -> Path:
    """A file with a certificate and its key."""
    authority.server(name)
    file = folder / f"{name}.pem"
    file.chmod(0o600)
    return file


@asynccontextmanager
async def logged(event: str) -> AsyncIterator[None]:
    """Waits at the end until the log has the event."""
    with capture_logs() as events:
        yield
        await eventually(lambda: any(found["event"] == event for found in events), what=event)


Connect = Callable[[ssl.SSLContext], Awaitable[str]]


def caller(listeners: Listeners, name: str | None) -> Connect:
    port = port_of(listeners)

    async def connect(context: ssl.SSLContext) -> str:
        context.check_hostname = name is not None
        return await greeting(asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name or ""))

    return connect


async def test_callers_speak_tls_where_a_certificate_is_set(authority: Authority, tmp_path: Path) -> None:
    file = issued(authority, tmp_path, "localhost")
    async with serving(settings("127.0.0.1:0", tls_cert_file=file)) as listeners:
        assert listeners.urls == [f"https://127.0.0.1:{port_of(listeners)}"]
        assert "scheme=b'https'" in await caller(listeners, "localhost")(trusting(authority))


async def test_a_renewed_certificate_is_used_without_a_restart(authority: Authority, tmp_path: Path) -> None:
    file = issued(authority, tmp_path, "localhost")
    async with serving(settings("127.0.0.1:0", tls_cert_file=file)) as listeners:
        connect = caller(listeners, "renewed.example")
        with pytest.raises(ssl.SSLCertVerificationError):
            await connect(trusting(authority))
        async with logged("tls.certificate_unreadable"):
            file.write_text("half of a file")
        assert await caller(listeners, "localhost")(trusting(authority))
        async with logged("tls.certificate_read"):
            issued(authority, tmp_path, "renewed.example").replace(file)
        assert await connect(trusting(authority))


async def test_a_client_certificate_is_asked_for_by_its_authority(authority: Authority, tmp_path: Path) -> None:
    file = issued(authority, tmp_path, "localhost")
    given = settings("127.0.0.1:0", tls_cert_file=file, tls_client_ca_file=authority.ca_file)
    (tmp_path / "other").mkdir()
    async with serving(given, access_rules(given)) as listeners:
        connect = caller(listeners, "localhost")
        assert "allowed=False" in await connect(trusting(authority))
        other = Authority(tmp_path / "other")
        with suppress(ssl.SSLError, ConnectionError):
            assert not await connect(trusting(authority, issued(other, tmp_path / "other", "client.example")))
        told = await connect(trusting(authority, issued(authority, tmp_path, "client.example")))
        assert "Caller(name='client.example'" in told
        assert "allowed=True" in told


async def test_an_authority_that_was_replaced_lets_nobody_in_any_more(authority: Authority, tmp_path: Path) -> None:
    file = issued(authority, tmp_path, "localhost")
    trusted = tmp_path / "clients.pem"
    trusted.write_bytes(authority.ca_file.read_bytes())
    given = settings("127.0.0.1:0", tls_cert_file=file, tls_client_ca_file=trusted)
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other")
    old, new = issued(authority, tmp_path, "old.example"), issued(other, tmp_path / "other", "new.example")
    async with serving(given, access_rules(given)) as listeners:
        connect = caller(listeners, "localhost")
        assert "Caller(name='old.example'" in await connect(trusting(authority, old))
        async with logged("tls.authority_gone"):
            trusted.write_bytes(other.ca_file.read_bytes())
        assert "Caller(name='new.example'" in await connect(trusting(authority, new))
        with suppress(ssl.SSLError, ConnectionError):
            assert not await connect(trusting(authority, old))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_no_session_outlives_the_authority_that_let_it_in(
    authority: Authority, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    file = issued(authority, tmp_path, "localhost")
    trusted = tmp_path / "clients.pem"
    trusted.write_bytes(authority.ca_file.read_bytes())
    given = settings("127.0.0.1:0", tls_cert_file=file, tls_client_ca_file=trusted)
    (tmp_path / "other").mkdir()
    context = trusting(authority, issued(authority, tmp_path, "old.example"))
    context.maximum_version = version

    def greeted(session: ssl.SSLSession | None) -> tuple[bytes, ssl.SSLSession | None]:
        with (
            socket.create_connection(("127.0.0.1", port_of(listeners)), timeout=10) as sock,
            context.wrap_socket(sock, server_hostname="localhost", session=session) as encrypted,
        ):
            return encrypted.recv(1000), encrypted.session

    async with serving(given, access_rules(given)) as listeners:
        told, session = await asyncio.to_thread(greeted, None)
        assert b"Caller(name='old.example'" in told
        async with logged("tls.authority_gone"):
            trusted.write_bytes(Authority(tmp_path / "other").ca_file.read_bytes())
        with suppress(ssl.SSLError, ConnectionError):
            told, _ = await asyncio.to_thread(greeted, session)
            assert b"old.example" not in told


@pytest.mark.parametrize("problem", ["no key", "writable", "missing"])
def test_a_certificate_that_cannot_be_used_is_told(authority: Authority, tmp_path: Path, problem: str) -> None:
    file = issued(authority, tmp_path, "localhost")
    if problem == "no key":
        file = authority.ca_file
        file.chmod(0o600)
    elif problem == "writable":
        file.chmod(0o666)
    else:
        file.unlink()
    with pytest.raises(SettingsError, match="tls_"):
        server_certificate(settings("127.0.0.1:0", tls_cert_file=file))


def test_without_a_certificate_there_is_no_tls() -> None:
    assert server_certificate(settings("127.0.0.1:0")) is None
