"""Connects to the upstream: DNS, TCP, the forward proxy if one is set, TLS."""

import asyncio
import errno
import random
import socket
import ssl
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

from krebit_proxy.config import Settings
from krebit_proxy.core.host import bracketed
from krebit_proxy.core.http_answer import AnswerReader
from krebit_proxy.dial import DEFAULT_PORT, dial, tunnel_refusal, tunnel_request
from krebit_proxy.errors import Refused
from krebit_proxy.sockets import probe
from krebit_proxy.trust import client_context
from krebit_proxy.upstream.clock import elapsed
from krebit_proxy.upstream.link import Owner, SocketLink
from krebit_proxy.upstream.transport import TransportLink

Link = SocketLink | TransportLink  # one connection to the upstream

# Seconds that a resolved name is kept, for a burst of connections: at most a tenth of `upstream.max_age`. It counts
# towards the age of the connections.
_NAME_LIFETIME: Final = 5.0
_SPREAD: Final = 0.1  # connections differ by up to this part of their greatest age, so that not all end at once
_TUNNEL_HEAD: Final = 16 << 10
# The upstream, or the way to it, is not there just now.
_AWAY: Final = frozenset(
    {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.ENETRESET, errno.EADDRNOTAVAIL}
)
_GATEWAY_ERRORS: Final = frozenset({502, 503, 504})  # the forward proxy finds nobody just now
_CUT: Final = (ConnectionRefusedError, ConnectionResetError, ConnectionAbortedError, BrokenPipeError)


class Away(Refused):
    """The upstream takes no connection just now, as during a restart. Nothing was sent, so it can be tried again."""


class Connector:
    """Connects to one origin. Raises SettingsError if `upstream.ca_file` is unusable."""

    def __init__(self, settings: Settings) -> None:
        origin = urlsplit(settings.upstream_origin)
        self._host, self._port = _address(origin)
        self._timeout = settings.upstream.connect_timeout
        proxy = settings.way_out.proxy_to(settings.upstream_origin)
        self._proxy = urlsplit(proxy) if proxy else None
        self._tls = client_context(settings.upstream.ca_file) if origin.scheme == "https" else None
        self._session: ssl.SSLSession | None = None
        self._names: dict[tuple[str, int], tuple[float, list[Any]]] = {}  # -> when resolved, addresses
        self._name_lifetime = min(_NAME_LIFETIME, settings.upstream.max_age / 10)
        self._greatest_age = settings.upstream.max_age - self._name_lifetime

    async def connect(self, owner: Owner) -> Link:
        """A link that reports to `owner`. Raises Refused(upstream_unreachable), or Away if it may soon pass."""
        started = elapsed()
        try:
            async with asyncio.timeout(self._timeout):
                link = await self._connect(owner)
        except TimeoutError:
            self._names.clear()
            raise self.too_slow() from None
        except OSError as error:
            self._names.clear()
            kind = Away if _may_pass(error) else Refused
            raise kind("upstream_unreachable", self._explain(error), hint=_HINT) from None
        if not link.settle():
            raise Away("upstream_unreachable", f"{self._host} closed the connection at once.", hint=_HINT)
        link.idle_since = elapsed()
        link.expires = started + self._greatest_age * random.uniform(1 - _SPREAD, 1)
        return link

    def too_slow(self, cause: Refused | None = None) -> Refused:
        """The error after `upstream.connect_timeout`. `cause`: of the last attempt, if it was not the time itself."""
        if cause is None:
            detail = f"{self._host} did not accept a connection within {self._timeout:g} seconds."
        else:
            detail = f"{cause.detail} The proxy tried for {self._timeout:g} seconds."
        return Refused("upstream_unreachable", detail, hint=_HINT)

    async def _connect(self, owner: Owner) -> Link:
        loop = asyncio.get_running_loop()
        sock = await self._reach(loop)
        try:
            if type(loop).add_reader is asyncio.AbstractEventLoop.add_reader:
                return await self._on_transport(loop, sock, owner)
            if self._tls is not None:
                sock = await self._handshake(loop, sock, self._tls)
            return SocketLink(loop, sock, owner)
        except BaseException:
            sock.close()
            raise

    async def _reach(self, loop: asyncio.AbstractEventLoop) -> socket.socket:
        if self._proxy is None:
            return await self._dial(loop, self._host, self._port)
        sock = await self._dial(loop, *_address(self._proxy))
        try:
            await self._tunnel(loop, sock, self._proxy)
        except BaseException:
            sock.close()
            raise
        return sock

    async def _dial(self, loop: asyncio.AbstractEventLoop, host: str, port: int) -> socket.socket:
        sock = await dial(await self._resolve(loop, host, port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        probe(sock)
        return sock

    async def _resolve(self, loop: asyncio.AbstractEventLoop, host: str, port: int) -> list[Any]:
        now = elapsed()
        resolved, addresses = self._names.get((host, port), (0.0, []))
        if addresses and now - resolved <= self._name_lifetime:
            return addresses
        try:
            async with asyncio.timeout(self._timeout / 3 if addresses else None):
                fresh = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (socket.gaierror, TimeoutError) as error:
            # RFC 8767, 4: "If the data is unable to be authoritatively refreshed when the TTL expires, the record MAY
            # be used as though it is unexpired." So an outage of DNS alone stops nothing.
            if addresses and (isinstance(error, TimeoutError) or error.errno == socket.EAI_AGAIN):
                return addresses
            raise
        self._names[host, port] = now, fresh
        return fresh

    async def _tunnel(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, proxy: SplitResult) -> None:
        await loop.sock_sendall(sock, tunnel_request(f"{bracketed(self._host)}:{self._port}", proxy))
        answer = b""
        while b"\r\n\r\n" not in answer:
            received = await loop.sock_recv(sock, 4096)
            answer += received
            if not received or len(answer) > _TUNNEL_HEAD:
                raise ConnectionError("the forward proxy did not answer with HTTP")
        said = AnswerReader()
        said.feed(answer)
        status, fields = said.status or 0, said.answer().fields
        if not 200 <= status < 300:
            kind = ConnectionAbortedError if status in _GATEWAY_ERRORS else ConnectionError
            raise kind(tunnel_refusal(status, fields.get("proxy-authenticate", "")))

    async def _handshake(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, context: ssl.SSLContext
    ) -> ssl.SSLSocket:
        # With suppress_ragged_eofs, a broken connection would look like one that was closed properly.
        tls = context.wrap_socket(
            sock,
            server_hostname=self._host,
            do_handshake_on_connect=False,
            suppress_ragged_eofs=False,
            session=self._session,
        )
        try:
            while True:
                try:
                    tls.do_handshake()
                except ssl.SSLWantReadError:
                    await _ready(loop.add_reader, loop.remove_reader, tls.fileno())
                except ssl.SSLWantWriteError:
                    await _ready(loop.add_writer, loop.remove_writer, tls.fileno())
                else:
                    return tls
        except BaseException:
            tls.close()
            raise

    async def _on_transport(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, owner: Owner) -> TransportLink:
        _, link = await loop.create_connection(
            lambda: TransportLink(owner),
            sock=sock,
            ssl=self._tls,
            server_hostname=self._host if self._tls is not None else None,
        )
        return link

    def remember(self, link: Link) -> None:
        """Keeps the TLS session of a link for the next handshake. In TLS 1.3 it comes with the first response."""
        if isinstance(link, SocketLink) and link.tls is not None and not link.closed:
            self._session = link.tls.session

    def _explain(self, error: OSError) -> str:
        """A text for the error that contains no data of the exchange."""
        match error:
            case socket.gaierror():
                return f"DNS cannot resolve {self._host}."
            case ssl.SSLCertVerificationError():
                return f"The TLS certificate of {self._host} is not trusted: {error.verify_message.rstrip('.')}."
            case ssl.SSLError():
                return f"TLS with {self._host} failed ({error.reason or 'the connection broke'})."
            case ConnectionRefusedError():
                return f"{self._host} refuses connections on port {self._port}."
            case _:
                return f"{self._host} cannot be reached: {error.strerror or error}."


async def _ready(add: Any, remove: Any, fd: int) -> None:
    """Waits until the loop sees `fd` readable or writable."""
    future = asyncio.get_running_loop().create_future()

    def ready() -> None:
        """Called by the loop."""
        if not future.done():
            future.set_result(None)

    add(fd, ready)
    try:
        await future
    finally:
        remove(fd)


def _address(url: SplitResult) -> tuple[str, int]:
    return url.hostname or "", url.port or DEFAULT_PORT[url.scheme]


def _may_pass(error: OSError) -> bool:
    """Whether the next attempt may well succeed. A name that does not exist or a bad certificate will not change."""
    match error:
        case socket.gaierror():
            return error.errno == socket.EAI_AGAIN
        case ssl.SSLEOFError() | ssl.SSLZeroReturnError():
            return True
        case ssl.SSLError():
            return False
        case _:
            several = type(error) is OSError and error.errno is None  # the addresses of a name failed in different ways
            return several or isinstance(error, _CUT) or error.errno in _AWAY


_HINT: Final = "Try again. To find the cause, run `krebit-proxy check`."
