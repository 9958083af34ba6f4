"""Whom we trust, and what is said of a file that adds nobody."""

import asyncio
import ssl
from pathlib import Path

import pytest

from krebit_proxy.config import Settings, UpstreamSettings
from krebit_proxy.core.secret import Secret
from krebit_proxy.errors import SettingsError
from krebit_proxy.token_endpoint import TokenEndpoint
from krebit_proxy.trust import ca_file_problem, client_context
from tests.fakes.certificates import Authority


def test_the_authorities_of_the_system_stay_trusted_beside_the_one_that_is_set(tmp_path: Path) -> None:
    context = client_context(Authority(tmp_path).ca_file)

    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert len(context.get_ca_certs()) == len(client_context(None).get_ca_certs()) + 1


@pytest.mark.parametrize("alternative", [True, False])
async def test_a_server_is_known_by_its_alternative_names_alone(tmp_path: Path, alternative: bool) -> None:
    authority = Authority(tmp_path)
    server = await asyncio.start_server(
        lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=authority.server("localhost", alternative=alternative)
    )
    async with server:
        connecting = asyncio.open_connection(
            *server.sockets[0].getsockname(), ssl=client_context(authority.ca_file), server_hostname="localhost"
        )
        if alternative:
            _, writer = await connecting
            writer.close()
        else:
            with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
                await connecting


def test_the_keys_of_tls_are_not_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))

    assert ssl.create_default_context().keylog_filename == str(tmp_path / "keys")
    assert client_context(None).keylog_filename is None


@pytest.fixture(params=["missing", "folder", "text", "empty"])
def unusable(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """A file that adds nobody, and what is to be said of it."""
    file = tmp_path / "ca.pem"
    match request.param:
        case "missing":
            return file, f"{file} cannot be read: No such file or directory"
        case "folder":
            return tmp_path, f"{tmp_path} cannot be read: Is a directory"
        case "text":
            file.write_text("not a certificate")
        case _:
            file.touch()
    return file, f"{file} contains no certificate; it must be a PEM file with certificates"


def test_a_file_that_cannot_be_used_is_told_of_with_the_setting(unusable: tuple[Path, str]) -> None:
    file, problem = unusable

    assert ca_file_problem(file) == problem
    with pytest.raises(SettingsError) as raised:
        client_context(file)
    assert raised.value.problems == [f"upstream.ca_file: {problem}"]


def test_a_file_that_can_be_used_is_no_problem(tmp_path: Path) -> None:
    assert ca_file_problem(Authority(tmp_path).ca_file) is None


def test_it_is_found_before_the_first_token_request(tmp_path: Path) -> None:
    settings = Settings(
        organization="acme",
        client_id="app",
        client_secret=Secret("s"),
        upstream=UpstreamSettings(ca_file=tmp_path / "ca.pem"),
    )

    with pytest.raises(SettingsError, match=r"upstream\.ca_file"):
        TokenEndpoint(settings)
