"""The certificate authorities that we trust for our own connections: those of the system and of `upstream.ca_file`."""

import ssl
from pathlib import Path

from krebit_proxy.errors import SettingsError


def client_context(ca_file: Path | None) -> ssl.SSLContext:
    """The TLS context for our own connections. `ca_file` is `upstream.ca_file`.

    Raises SettingsError if this file cannot be read or contains no certificate.
    """
    context = ssl.create_default_context()
    # Not what SSLKEYLOGFILE says: with the keys of TLS, others could read the tokens.
    context.keylog_filename = None  # type: ignore[assignment]  # its documented default
    # RFC 9525 2: "The Common Name RDN MUST NOT be used to identify a service". OpenSSL would fall back to it.
    context.hostname_checks_common_name = False
    context.set_alpn_protocols(["http/1.1"])
    if ca_file is not None and (problem := _add(ca_file, context)) is not None:
        raise SettingsError([f"upstream.ca_file: {problem}"])
    return context


def ca_file_problem(ca_file: Path) -> str | None:
    """Why this file of CA certificates cannot be used, or None."""
    return _add(ca_file, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))


def _add(ca_file: Path, context: ssl.SSLContext) -> str | None:
    try:
        context.load_verify_locations(cafile=ca_file)
    except ssl.SSLError:
        return f"{ca_file} contains no certificate; it must be a PEM file with certificates"
    except OSError as error:
        return f"{ca_file} cannot be read: {error.strerror}"
    return None
