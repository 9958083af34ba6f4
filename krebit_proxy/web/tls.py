"""TLS towards callers: the certificate is read again when its files change, and may be asked of callers too."""

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from krebit_proxy.config import Settings
from krebit_proxy.config.secrets import file_problem
from krebit_proxy.errors import SettingsError
from krebit_proxy.file_watch import FileWatch

_log: Final = structlog.get_logger()


def server_certificate(settings: Settings) -> "Certificate | None":
    """What callers are shown on all TCP listeners, None where they speak plain HTTP.

    Raises SettingsError for a certificate or key that can not be used.
    """
    if settings.tls_cert_file is None:
        return None
    key_file = settings.tls_key_file or settings.tls_cert_file
    if problem := file_problem(key_file):
        raise SettingsError([f"tls_key_file: {problem}"])
    files = (settings.tls_cert_file, key_file, settings.tls_client_ca_file)
    try:
        return Certificate(*files)
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or "they must be PEM"
        named = ", ".join(dict.fromkeys(map(str, filter(None, files))))
        raise SettingsError([f"tls_cert_file: {named}: no certificate with its key ({reason})"]) from None


class Certificate:
    """A certificate, its key and the authorities of callers, as their files were when they were last whole."""

    def __init__(self, cert_file: Path, key_file: Path, ca_file: Path | None) -> None:
        """Raises OSError or ValueError for files that cannot be used."""
        self._files = (cert_file, key_file, ca_file)
        self._watch = FileWatch(*filter(None, self._files))
        self._context = self._read()

    def context(self) -> ssl.SSLContext:
        """The context for the next handshake.

        It is a new one after each change: no session of the old one, with whom it let in, can be resumed in it.
        """
        return self._context

    async def follow(self, admit_anew: Callable[[], None], *, pause: float = 1.0) -> None:
        """Reads the files after each change, without end, and calls `admit_anew` when an authority is gone."""

        def changed() -> None:
            before = self._context
            try:
                self._context = self._read()
            except (OSError, ValueError):  # if they do not fit each other yet, there will be another change
                _log.warning("tls.certificate_unreadable", hint="the one before it stays in use until it can be read")
                return
            _log.info("tls.certificate_read")
            if _authorities(before) - _authorities(self._context):
                _log.info("tls.authority_gone", hint="whoever is connected must show a certificate again")
                admit_anew()

        await self._watch.follow(changed, pause=pause)

    def _read(self) -> ssl.SSLContext:
        cert_file, key_file, ca_file = self._files
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols(["http/1.1"])
        context.load_cert_chain(cert_file, key_file)
        if ca_file is not None:
            context.load_verify_locations(ca_file)
            # Who has none is refused by admission, with words; a program on this computer may still ask for our health.
            context.verify_mode = ssl.CERT_OPTIONAL
        return context


def _authorities(context: ssl.SSLContext) -> set[bytes]:
    return set(context.get_ca_certs(binary_form=True))
