"""TLS for callers: our certificate, and authorities for certificates of callers. Changed files are read again."""

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
    """The certificate for all TCP listeners. None: plain HTTP.

    Raises SettingsError if the certificate or its key is unusable.
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
        raise SettingsError([f"tls_cert_file: {named}: not a certificate with its key ({reason})"]) from None


class Certificate:
    """A certificate, its key and the authorities of callers: the last valid contents of their files."""

    def __init__(self, cert_file: Path, key_file: Path, ca_file: Path | None) -> None:
        """Raises OSError or ValueError if the files are unusable."""
        self._files = (cert_file, key_file, ca_file)
        self._watch = FileWatch(*filter(None, self._files))
        self._context = self._read()

    def context(self) -> ssl.SSLContext:
        """The context for the next handshake.

        Each change makes a new one. So no TLS session of the old one, with its callers, can be resumed.
        """
        return self._context

    async def follow(self, admit_anew: Callable[[], None], *, pause: float = 1.0) -> None:
        """Reads the files after each change. Calls `admit_anew` if an authority was removed. Runs until cancelled."""

        def changed() -> None:
            before = self._context
            try:
                self._context = self._read()
            except (OSError, ValueError):  # certificate and key may not match yet; another change will follow
                _log.warning(
                    "tls.certificate_unreadable", hint="the previous one stays in use; make certificate and key match"
                )
                return
            _log.info("tls.certificate_read")
            if _authorities(before) - _authorities(self._context):
                _log.info("tls.authority_gone", hint="connected clients must show a certificate again")
                admit_anew()

        await self._watch.follow(changed, pause=pause)

    def _read(self) -> ssl.SSLContext:
        cert_file, key_file, ca_file = self._files
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols(["http/1.1"])
        context.load_cert_chain(cert_file, key_file)
        if ca_file is not None:
            context.load_verify_locations(ca_file)
            # Admission refuses callers without a certificate, with a readable error. Local health checks need none.
            context.verify_mode = ssl.CERT_OPTIONAL
        return context


def _authorities(context: ssl.SSLContext) -> set[bytes]:
    return set(context.get_ca_certs(binary_form=True))
