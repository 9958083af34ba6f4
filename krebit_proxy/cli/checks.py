"""The checks of `krebit-proxy check` beyond the settings: network, clock, ports, store and the running proxy.

They change nothing and send no message. A webhook gets an OPTIONS request (RFC 9110, 9.3.7), which no receiver mistakes
for a message. This finds a missing host, an untrusted certificate or a wrong address. It does not show whether the
webhook accepts messages. So the report also has the result of the running proxy's last message, and otherwise suggests
`krebit-proxy notify test`.
"""

import asyncio
import os
import shlex
import shutil
import socket
import ssl
import time
from collections.abc import Iterator
from datetime import datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import SplitResult, urlsplit

from krebit_proxy import USER_AGENT
from krebit_proxy.cli.running_proxy import ask_state, is_running
from krebit_proxy.cli.status import read_status
from krebit_proxy.cli.stored_grant import store_of
from krebit_proxy.config import Settings
from krebit_proxy.config.addresses import split_listen, split_unix
from krebit_proxy.core.grant import Grant
from krebit_proxy.core.loopback import is_loopback
from krebit_proxy.core.notices import notices
from krebit_proxy.core.origin import own_origin
from krebit_proxy.core.times import moment
from krebit_proxy.dial import proxy_fields
from krebit_proxy.errors import ProxyError, StoreError
from krebit_proxy.trust import client_context
from krebit_proxy.web.notify import shown

TOLERATED_SKEW: Final = 30.0  # seconds; with more, tokens seem to expire too early or too late
_GONE: Final = frozenset({404, 410})
_NO_WAY: Final = "a firewall may block it; behind a corporate proxy, set upstream.proxy"
_OTHER_LOGIN: Final = (
    "write the login into upstream.proxy; if the forward proxy requires Negotiate or NTLM, run a helper such as px or "
    "cntlm, and set upstream.proxy to it"
)
_TRY_IT: Final = "to see whether messages arrive, send one with: krebit-proxy notify test"


class Finding(NamedTuple):
    """One line of the report."""

    held: bool
    text: str
    hint: str = ""


def findings(settings: Settings) -> Iterator[Finding]:
    """All findings, one by one, because some take seconds."""
    served = _served(settings)
    for url in dict.fromkeys(_origin(url) for url in _urls(settings)):
        yield from _connection(settings, urlsplit(url))
    yield from _listening(settings)
    yield from _redirection(settings)
    yield from asyncio.run(_stored(settings, served))
    yield from _alarm(settings, served.get("alarm", {}))


def _served(settings: Settings) -> dict[str, Any]:
    """The status page of the running proxy. Empty if none is running, or if it refuses to answer."""
    try:
        return ask_state(settings)
    except ProxyError:
        return {}


def _urls(settings: Settings) -> list[str]:
    optional = [settings.oauth.revoke_url] if settings.oauth.revoke_url else []
    return [settings.upstream_origin, settings.authorize_url, settings.token_url, *optional]


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _connection(settings: Settings, url: SplitResult) -> Iterator[Finding]:
    """DNS, connection, TLS and clock of one host. Stops at the first failure."""
    through = settings.way_out.proxy_to(url.geturl())
    proxy = urlsplit(through) if through else None
    first = proxy or url
    try:
        addresses = socket.getaddrinfo(first.hostname, first.port or 443, type=socket.SOCK_STREAM)
    except OSError:
        setting = settings.way_out.source if proxy else "organization, upstream.url and oauth"
        yield Finding(False, f"DNS: cannot resolve {first.hostname}", f"check {setting}, and this computer's DNS")
        return
    if (address := addresses[0][4][0]) != first.hostname:
        yield Finding(True, f"DNS: {first.hostname} is {address}")
    place = f"{url.hostname}:{url.port or (443 if url.scheme == 'https' else 80)}"
    try:
        date = _head(settings, url, proxy)
    except ssl.SSLCertVerificationError as error:
        hint = "if your company has its own certificate authority, set upstream.ca_file"
        yield Finding(False, f"TLS: the certificate of {place} is not trusted: {error.verify_message}", hint)
    except (OSError, HTTPException) as error:
        way = f" {settings.way_out.described(url.geturl())}" if proxy else ""
        hint = _OTHER_LOGIN if proxy and " 407 " in f"{error} " else _NO_WAY
        yield Finding(False, f"connection: cannot reach {place}{way}: {str(error) or type(error).__name__}", hint)
    else:
        way = f" {settings.way_out.described(url.geturl())}" if proxy else ""
        yield Finding(True, f"connection: {place} responds{way}{', TLS works' if url.scheme == 'https' else ''}")
        yield from _clock(date)


def _head(settings: Settings, url: SplitResult, proxy: SplitResult | None) -> str | None:
    """The Date field of the response to HEAD /."""
    connection = _open(settings, url, proxy)
    try:
        connection.request("HEAD", "/", headers={"Accept-Encoding": "identity", "User-Agent": USER_AGENT})
        return connection.getresponse().getheader("Date")
    finally:
        connection.close()


def _open(settings: Settings, url: SplitResult, proxy: SplitResult | None) -> HTTPConnection:
    """A connection to the host of `url`, through `proxy` if there is one. The first request opens it."""
    place = proxy or url
    timeout = settings.upstream.connect_timeout
    host, port = place.hostname or "", 80 if proxy and not proxy.port else place.port
    connection = (
        HTTPSConnection(host, port, timeout=timeout, context=client_context(settings.upstream.ca_file))
        if url.scheme == "https"
        else HTTPConnection(host, port, timeout=timeout)
    )
    if proxy:
        connection.set_tunnel(url.hostname or "", url.port, proxy_fields(proxy))
    return connection


def _clock(date: str | None) -> Iterator[Finding]:
    """RFC 9110, 6.6.1: Date is "the date and time at which the message was originated"."""
    try:
        skew = time.time() - parsedate_to_datetime(date or "").timestamp()
    except ValueError:
        return
    if abs(skew) <= TOLERATED_SKEW:
        yield Finding(True, "clock: matches Krebit's")
    else:
        direction = "ahead of" if skew > 0 else "behind"
        text = f"clock: {abs(skew):.0f} s {direction} Krebit's"
        yield Finding(False, text, "set the clock, for example with: timedatectl set-ntp true")


def _listening(settings: Settings) -> Iterator[Finding]:
    """Whether the proxy is running or could listen."""
    if is_running(settings):
        yield Finding(True, "listen: the proxy is running")
        return
    for address in settings.listen:
        tcp = split_listen(address)
        if tcp is not None:
            problem, hint = _bind_problem(*tcp), "stop the program that uses it, or change `listen`"
        elif address.startswith("unix:"):
            folder = Path(split_unix(address)[0]).parent
            problem = None if os.access(folder, os.W_OK | os.X_OK) else f"cannot be created: {folder} is not writable"
            hint = "create that folder, or change `listen`"
        else:
            continue  # fd:N, which only the process that starts the proxy has open
        text = f"listen: {address} {problem or 'is free, the proxy is not running'}"
        yield Finding(not problem, text, hint if problem else "")


def _bind_problem(host: str, port: int) -> str | None:
    """Why nothing can listen at this address, or None."""
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
    except OSError as error:
        return f"cannot be used: {error.strerror or error}"
    return None


def _redirection(settings: Settings) -> Iterator[Finding]:
    """Whether the redirect URI leads to this proxy."""
    uri = settings.redirect_uri
    origin = own_origin(uri, settings.access.allowed_hosts)
    registered = "register exactly this URI in your app at Krebit"
    if origin is None:
        text = f"redirect URI: {uri} does not lead to this proxy, which is allowed"
        yield Finding(True, text, f"{registered}, then run: krebit-proxy setup --no-browser")
        return
    url = urlsplit(origin)
    ports = {tcp[1] for address in settings.listen if (tcp := split_listen(address))}
    port = url.port or (443 if url.scheme == "https" else 80)
    if port in ports or not is_loopback(url.hostname or "") or _connects(url.hostname or "", port):
        yield Finding(True, f"redirect URI: {uri}", registered)
        return
    text = (
        f"redirect URI: {uri} uses port {port}, but nothing listens there; the proxy uses {', '.join(map(str, ports))}"
    )
    yield Finding(False, text, "change redirect_uri here and at Krebit, or run: krebit-proxy setup --no-browser")


def _connects(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=2).close()
    except OSError:
        return False
    return True


async def _stored(settings: Settings, served: dict[str, Any]) -> list[Finding]:
    """Tries the store, and reports its grant. The running proxy knows more about the grant than the store."""
    store = store_of(settings)
    try:
        await store.probe()
        grant = await store.read()
        way = await store.describe()
    except StoreError as error:
        return [Finding(False, f"store: {error.detail}", error.hint)]
    finally:
        await store.close()
    kind = settings.store.partition(":")[0]
    well = Finding(True, f"store: the {kind} store can be read, written and locked{way and f' ({way})'}")
    return [well, _granted(grant, served), *_noticed(served)]


def _granted(grant: Grant | None, served: dict[str, Any]) -> Finding:
    if grant is None or grant.tokens is None:
        return Finding(True, "grant: none yet", "start the proxy, then run: krebit-proxy setup")
    if grant.verdict:
        return Finding(False, f"grant: {grant.verdict.reason}", "authorize again with: krebit-proxy setup")
    if served.get("code"):
        return Finding(False, f"grant: {served['detail']}", str(served["hint"]))
    now = time.time()
    if grant.tokens.refresh_token is None or (grant.tokens.refresh_expires_at or now) < now:
        why = "its refresh token has expired" if grant.tokens.refresh_token else "it has no refresh token"
        end = moment(grant.tokens.expires_at, now)
        text = f"grant: the proxy cannot renew it, because {why}; its access token expires {end}"
        return Finding(False, text, "authorize again with: krebit-proxy setup")
    return Finding(True, f"grant: present, number {grant.generation}")


def _noticed(served: dict[str, Any]) -> list[Finding]:
    """Further notices of the running proxy, such as an authorization that ends soon."""
    found = notices(read_status(served), time.time()) if served else []
    return [Finding(False, f"grant: {notice.text}", notice.hint) for notice in found]


def _alarm(settings: Settings, deliveries: dict[str, Any]) -> Iterator[Finding]:
    """Whether messages about problems would arrive."""
    if settings.notify.webhook:
        yield from _webhook(settings, settings.notify.webhook, deliveries.get("webhook"))
    if settings.notify.command:
        yield from _command(settings.notify.command, deliveries.get("command"))


def _webhook(settings: Settings, webhook: str, last: dict[str, Any] | None) -> Iterator[Finding]:
    place = shown(webhook)
    if last is not None and not last["accepted"]:
        yield _delivered(f"webhook: {place}", last)
        return
    through = settings.way_out.proxy_to(webhook)
    try:
        status = _options(settings, urlsplit(webhook), urlsplit(through) if through else None)
    except ssl.SSLCertVerificationError as error:
        hint = "if your company has its own certificate authority, set upstream.ca_file"
        yield Finding(False, f"webhook: the certificate of {place} is not trusted: {error.verify_message}", hint)
    except (OSError, HTTPException) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        yield Finding(False, f"webhook: cannot reach {place}: {reason}", "check notify.webhook and upstream.proxy")
    else:
        if last is not None:  # better evidence than OPTIONS, which some receivers do not know
            yield _delivered(f"webhook: {place}", last)
            return
        gone = status in _GONE or (status >= 500 and status != 501)
        text = f"webhook: {place} {'refuses' if gone else 'responds'} with status {status}"
        yield Finding(not gone, text, _TRY_IT)


def _options(settings: Settings, url: SplitResult, proxy: SplitResult | None) -> int:
    """The status of the response to OPTIONS."""
    connection = _open(settings, url, proxy)
    target = url._replace(scheme="", netloc="", fragment="").geturl() or "/"
    try:
        connection.request("OPTIONS", target, headers={"Accept-Encoding": "identity", "User-Agent": USER_AGENT})
        return connection.getresponse().status
    finally:
        connection.close()


def _command(line: str, last: dict[str, Any] | None) -> Iterator[Finding]:
    program = shlex.split(line)[0]
    if shutil.which(program) is None:
        yield Finding(False, f"command: cannot find the program {program}", "correct notify.command")
    elif last is not None:
        yield _delivered(f"command: {program}", last)
    else:
        yield Finding(True, f"command: {program} is installed", _TRY_IT)


def _delivered(way: str, last: dict[str, Any]) -> Finding:
    """The result of the last message from the running proxy."""
    at = moment(datetime.fromisoformat(last["at"]).timestamp(), time.time())
    if last["accepted"]:
        return Finding(True, f"{way} accepted the last message, {at}")
    return Finding(False, f"{way} did not accept the last message, {at}: {last['said']}", _TRY_IT)
