"""What the settings cannot show: the network, the clock, the ports and the store."""

import asyncio
import base64
import os
import socket
import ssl
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

from krebit_proxy import USER_AGENT
from krebit_proxy.cli.running_proxy import is_running
from krebit_proxy.cli.stored_grant import store_of
from krebit_proxy.config import Settings
from krebit_proxy.config.addresses import split_listen, split_unix
from krebit_proxy.core.grant import Grant
from krebit_proxy.core.loopback import is_loopback
from krebit_proxy.core.origin import own_origin
from krebit_proxy.errors import StoreError
from krebit_proxy.trust import client_context

TOLERATED_SKEW: Final = 30.0  # seconds; from here on tokens would seem fresher or older than they are


class Finding(NamedTuple):
    """One line of the report."""

    held: bool
    text: str
    hint: str = ""


def findings(settings: Settings) -> Iterator[Finding]:
    """All that can be found out without changing anything, one after the other, since some take their time."""
    for url in dict.fromkeys(_origin(url) for url in _urls(settings)):
        yield from _connection(settings, urlsplit(url))
    yield from _listening(settings)
    yield from _redirection(settings)
    yield from asyncio.run(_stored(settings))


def _urls(settings: Settings) -> list[str]:
    optional = [settings.oauth.revoke_url] if settings.oauth.revoke_url else []
    return [settings.upstream_origin, settings.authorize_url, settings.token_url, *optional]


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _connection(settings: Settings, url: SplitResult) -> Iterator[Finding]:
    """Name, connection, TLS and clock of one host. What fails makes the rest pointless."""
    through = settings.upstream.proxy_to(url.geturl())
    proxy = urlsplit(through) if through else None
    first = proxy or url
    try:
        addresses = socket.getaddrinfo(first.hostname, first.port or 443, type=socket.SOCK_STREAM)
    except OSError:
        setting = "upstream.proxy" if proxy else "organization, upstream.url and oauth"
        yield Finding(False, f"name: {first.hostname} is not known", f"check {setting}, and the DNS of this computer")
        return
    if (address := addresses[0][4][0]) != first.hostname:
        yield Finding(True, f"name: {first.hostname} is {address}")
    place = f"{url.hostname}:{url.port or (443 if url.scheme == 'https' else 80)}"
    try:
        date = _head(settings, url, proxy)
    except ssl.SSLCertVerificationError as error:
        hint = "a company's own authority? name its certificates in upstream.ca_file"
        yield Finding(False, f"TLS: the certificate of {place} is not trusted: {error.verify_message}", hint)
    except (OSError, HTTPException) as error:
        way = f" through {proxy.hostname}:{proxy.port or 80}" if proxy else ""
        hint = "is there a firewall, or a corporate proxy that belongs into upstream.proxy?"
        yield Finding(False, f"connection: {place} cannot be reached{way}: {str(error) or type(error).__name__}", hint)
    else:
        yield Finding(True, f"connection: {place} answers{', TLS is fine' if url.scheme == 'https' else ''}")
        yield from _clock(date)


def _head(settings: Settings, url: SplitResult, proxy: SplitResult | None) -> str | None:
    """Asks for nothing but an answer, and returns its Date field."""
    place = proxy or url
    timeout = settings.upstream.connect_timeout
    host, port = place.hostname or "", 80 if proxy and not proxy.port else place.port
    connection = (
        HTTPSConnection(host, port, timeout=timeout, context=client_context(settings.upstream.ca_file))
        if url.scheme == "https"
        else HTTPConnection(host, port, timeout=timeout)
    )
    if proxy:
        connection.set_tunnel(url.hostname or "", url.port, _proxy_fields(proxy))
    try:
        connection.request("HEAD", "/", headers={"Accept-Encoding": "identity", "User-Agent": USER_AGENT})
        return connection.getresponse().getheader("Date")
    finally:
        connection.close()


def _proxy_fields(proxy: SplitResult) -> dict[str, str]:
    fields = {"User-Agent": USER_AGENT}
    if proxy.username is None:
        return fields
    user = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return fields | {"Proxy-Authorization": "Basic " + base64.b64encode(user.encode()).decode()}


def _clock(date: str | None) -> Iterator[Finding]:
    """RFC 9110, 6.6.1: Date is "the date and time at which the message was originated"."""
    try:
        skew = time.time() - parsedate_to_datetime(date or "").timestamp()
    except ValueError:
        return
    if abs(skew) <= TOLERATED_SKEW:
        yield Finding(True, "clock: agrees with Krebit's")
    else:
        direction = "ahead of" if skew > 0 else "behind"
        text = f"clock: this computer's is {abs(skew):.0f} s {direction} Krebit's"
        yield Finding(False, text, "set it, e.g.: timedatectl set-ntp true")


def _listening(settings: Settings) -> Iterator[Finding]:
    """Whether the proxy runs, or could."""
    if is_running(settings):
        yield Finding(True, "listen: the proxy is running")
        return
    for address in settings.listen:
        tcp = split_listen(address)
        if tcp is not None:
            problem, hint = _bind_problem(*tcp), "is another program running there? change the setting `listen`"
        elif address.startswith("unix:"):
            folder = Path(split_unix(address)[0]).parent
            problem = None if os.access(folder, os.W_OK | os.X_OK) else f"cannot be made: {folder} cannot be written"
            hint = "make that folder, or change the setting `listen`"
        else:
            continue  # whoever starts the proxy passes it
        text = f"listen: {address} {problem or 'is free; the proxy is not running'}"
        yield Finding(not problem, text, hint if problem else "")


def _bind_problem(host: str, port: int) -> str | None:
    """Why nothing can listen there now, or None."""
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
    except OSError as error:
        return f"cannot be used: {error.strerror or error}"
    return None


def _redirection(settings: Settings) -> Iterator[Finding]:
    """Whether the browser comes back to this proxy."""
    uri = settings.redirect_uri
    origin = own_origin(uri, settings.access.allowed_hosts)
    registered = "register it with the app at Krebit, exactly as it is"
    if origin is None:
        text = f"redirect URI: {uri} leads elsewhere, which is fine"
        yield Finding(True, text, f"{registered}, and use: krebit-proxy setup --no-browser")
        return
    url = urlsplit(origin)
    ports = {tcp[1] for address in settings.listen if (tcp := split_listen(address))}
    port = url.port or (443 if url.scheme == "https" else 80)
    if port in ports or not is_loopback(url.hostname or "") or _connects(url.hostname or "", port):
        yield Finding(True, f"redirect URI: {uri}", registered)
        return
    text = (
        f"redirect URI: {uri} leads to port {port}, where nothing listens; the proxy has {', '.join(map(str, ports))}"
    )
    yield Finding(False, text, "change redirect_uri here and at Krebit, or use: krebit-proxy setup --no-browser")


def _connects(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=2).close()
    except OSError:
        return False
    return True


async def _stored(settings: Settings) -> list[Finding]:
    """Tries out the store, and tells what is in it."""
    store = store_of(settings)
    try:
        await store.probe()
        grant = await store.read()
    except StoreError as error:
        return [Finding(False, f"store: {error.detail}", error.hint)]
    finally:
        await store.close()
    kind = settings.store.partition(":")[0]
    return [Finding(True, f"store: the {kind} store can be read, written and locked"), _granted(grant)]


def _granted(grant: Grant | None) -> Finding:
    if grant is None or grant.tokens is None:
        return Finding(True, "grant: none yet", "with the proxy running: krebit-proxy setup")
    if grant.verdict:
        return Finding(False, f"grant: {grant.verdict.reason}", "authorize again: krebit-proxy setup")
    return Finding(True, f"grant: there is one, number {grant.generation}")
