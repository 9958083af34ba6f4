"""Whom we trust when we open a connection: the authorities of the system, and those that a setting adds."""

import ssl
from pathlib import Path

from krebit_proxy.errors import SettingsError


def client_context(ca_file: Path | None) -> ssl.SSLContext:
    """The TLS context for connections that we open; `ca_file` is `upstream.ca_file`.

    Raises SettingsError when that file cannot be read or holds no certificate.
    """
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    if ca_file is not None and (problem := _add(ca_file, context)) is not None:
        raise SettingsError([f"upstream.ca_file: {problem}"])
    return context


def ca_file_problem(ca_file: Path) -> str | None:
    """Why a file with the certificates of authorities cannot be used, or None."""
    return _add(ca_file, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))


def _add(ca_file: Path, context: ssl.SSLContext) -> str | None:
    try:
        context.load_verify_locations(cafile=ca_file)
    except ssl.SSLError:
        return f"{ca_file} contains no certificate; it must be a PEM file with certificates"
    except OSError as error:
        return f"{ca_file} cannot be read: {error.strerror}"
    return None
