"""Talks to the running proxy at the addresses in `listen`."""

import json
import socket
import ssl
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from ipaddress import ip_address
from typing import Any, Final

from krebit_proxy import USER_AGENT
from krebit_proxy.config import Settings
from krebit_proxy.config.addresses import split_listen
from krebit_proxy.core.host import bracketed
from krebit_proxy.core.origin import own_origin
from krebit_proxy.errors import CODES, ProxyError

_TIMEOUT: Final = 5.0  # seconds; the proxy answers these pages from memory


class NotRunningError(ProxyError):
    """No proxy answers at the addresses in `listen`."""


@dataclass(frozen=True)
class Reply:
    """The response of the proxy."""

    status: int
    document: dict[str, Any]


def ask(settings: Settings, path: str) -> Reply:
    """One of the proxy's own pages, as JSON.

    Raises:
        NotRunningError: nothing or another program answers there.
        ProxyError: the proxy refuses the request.
    """
    places = [place for address in settings.listen if (place := _place(address)) is not None]
    for place in places:
        connection = _connection(settings, place)
        # The proxy always accepts the name localhost. With the port, its links work.
        host = "localhost" if isinstance(place, str) else f"localhost:{place[1]}"
        try:
            connection.request(
                "GET", path, headers={"Host": host, "Accept": "application/json", "User-Agent": USER_AGENT}
            )
            response = connection.getresponse()
            return Reply(response.status, _document(response, place))
        except (OSError, HTTPException):
            continue
        finally:
            connection.close()
    where = " or ".join(map(_shown, places)) or "the address in `listen` (port 0 and fd:N have no known address)"
    raise NotRunningError(f"no proxy answers at {where}", hint="start it with: krebit-proxy run")


def ask_state(settings: Settings) -> dict[str, Any]:
    """The state of the running proxy. Raises what `ask` raises.

    A proxy with client keys tells us only whether it is ready: we send it no key, for another program may listen there.
    """
    document = ask(settings, "/").document
    code = document.get("code")
    plain = {"detail": f"{CODES[code][1]}." if code in CODES else "Authorized.", "hint": ""}
    return document if "detail" in document else document | plain


def is_running(settings: Settings) -> bool:
    """Whether a proxy answers at the addresses in `listen`, even if it refuses the request."""
    try:
        ask(settings, "/healthz")
    except NotRunningError:
        return False
    except ProxyError:
        pass
    return True


def browser_origin(settings: Settings) -> str | None:
    """Where a browser reaches the proxy: the redirect URI's origin if it leads here, else the first TCP address."""
    if own := own_origin(settings.redirect_uri, settings.access.allowed_hosts):
        return own
    places = [place for address in settings.listen if (tcp := split_listen(address)) and (place := _reachable(tcp))]
    scheme = "https" if settings.tls_cert_file else "http"
    return f"{scheme}://{_authority(places[0])}" if places else None


def _place(address: str) -> str | tuple[str, int] | None:
    if address.startswith("unix:"):
        return address.removeprefix("unix:").partition("?")[0]
    tcp = split_listen(address)
    return _reachable(tcp) if tcp else None


def _reachable(address: tuple[str, int]) -> tuple[str, int] | None:
    """Where to connect if a server listens at `address`. 0.0.0.0 and :: include loopback. None for port 0."""
    host, port = address
    if not port:
        return None
    try:
        ip = ip_address(host)
    except ValueError:
        return host, port
    return ("127.0.0.1" if ip.version == 4 else "::1", port) if ip.is_unspecified else (host, port)


def _authority(place: tuple[str, int]) -> str:
    host, port = place
    return f"{bracketed(host)}:{port}"


def _shown(place: str | tuple[str, int]) -> str:
    return place if isinstance(place, str) else _authority(place)


def _document(response: HTTPResponse, place: str | tuple[str, int]) -> dict[str, Any]:
    refused = response.getheader("X-Krebit-Proxy-Error")
    try:
        document = json.loads(response.read())
    except ValueError:
        document = None
    if not isinstance(document, dict) or not (refused or response.getheader("Server") == "krebit-proxy"):
        raise NotRunningError(
            f"another program answers at {_shown(place)}", hint="stop that program, or change `listen`"
        )
    if refused:
        raise ProxyError(f"the proxy at {_shown(place)} refuses the request: {document.get('detail')}")
    return document


def _connection(settings: Settings, place: str | tuple[str, int]) -> HTTPConnection:
    if isinstance(place, str):
        return _UnixConnection(place)
    if settings.tls_cert_file is None:
        return HTTPConnection(*place, timeout=_TIMEOUT)
    # The certificate is for the public name, not for localhost. We send nothing secret, and trust nothing we receive.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return HTTPSConnection(*place, timeout=_TIMEOUT, context=context)


class _UnixConnection(HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_TIMEOUT)
        self.sock.connect(self._path)
