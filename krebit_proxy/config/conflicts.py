"""Rules between settings: values that are valid alone but cannot work together."""

from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

from krebit_proxy.config.addresses import split_listen, taken_path
from krebit_proxy.config.document import Key
from krebit_proxy.config.model import Settings
from krebit_proxy.core.loopback import is_loopback
from krebit_proxy.core.origin import own_origin

EXPOSE = """\
listening on {address} lets other computers use your grant. To allow that, add two lines under `access:`
    expose: true
    client_keys_file: client-keys        # one name:key per line; or allow_clients: [10.0.0.0/8]"""


CLEAR: Final = (
    "other computers connect without TLS; others on the network can read requests and client keys, and browsers do not "
    "say which web page sends a request; set tls_cert_file, or at least access.require_header to keep web pages out"
)


def conflicts(settings: Settings) -> Iterator[tuple[Key, str]]:
    """For each conflict, the setting to report and the text."""
    yield from _exposure(settings)
    redirect = urlsplit(settings.redirect_uri)
    if own_origin(settings.redirect_uri, settings.access.allowed_hosts) and taken_path(redirect.path):
        text = f"has the path {redirect.path or '/'}, which this proxy needs itself; use for example /setup/callback"
        yield ("redirect_uri",), text
    yield from _scheme(settings)
    yield from _encryption(settings)
    if settings.replay.max_body > settings.replay.max_total:
        yield ("replay", "max_body"), "is more than replay.max_total"
    if settings.tls_cert_file is None and (settings.tls_key_file or settings.tls_client_ca_file):
        yield ("tls_cert_file",), "is missing; tls_key_file and tls_client_ca_file need it"
    if len(set(settings.listen)) < len(settings.listen):
        yield ("listen",), "contains the same address twice"


def _scheme(settings: Settings) -> Iterator[tuple[Key, str]]:
    redirect = urlsplit(settings.redirect_uri)
    ports = {tcp[1] for address in settings.listen if (tcp := split_listen(address))}
    # The reverse is no conflict: a reverse proxy in front may add https.
    if settings.tls_cert_file and redirect.scheme == "http" and (redirect.port or 80) in ports:
        yield ("redirect_uri",), "must start with https://, because tls_cert_file is set; change it at Krebit too"


def _encryption(settings: Settings) -> Iterator[tuple[Key, str]]:
    given = settings.encryption_key_file or settings.encryption_key
    if not given and not settings.store.startswith("file:"):
        yield ("encryption_key_file",), "must be set if the store is a database, so that its dumps contain no token"


def _exposure(settings: Settings) -> Iterator[tuple[Key, str]]:
    access = settings.access
    open_to_all = not says_who(settings)
    exposed = [address for address in settings.listen if _leaves(address)]
    if exposed and (not access.expose or open_to_all):
        yield ("listen",), EXPOSE.format(address=exposed[0])
    elif access.expose and open_to_all:
        yield ("access", "expose"), "needs client_keys_file or allow_clients, so that not everybody may call"


def cautions(settings: Settings) -> Iterator[tuple[Key, str]]:
    """For each combination of settings that works but needs attention, the setting to report and the text."""
    access = settings.access
    beyond = [address for address in settings.listen if _leaves(address) or address.startswith("fd:")]
    if access.expose and beyond and settings.tls_cert_file is None and access.require_header is None:
        yield ("access", "expose"), CLEAR


def says_who(settings: Settings) -> bool:
    """Whether a setting limits which other computers may call."""
    access = settings.access
    return bool(access.client_keys_file or access.allow_clients or settings.tls_client_ca_file)


def _leaves(address: str) -> bool:
    tcp = split_listen(address)
    return tcp is not None and not is_loopback(tcp[0])
