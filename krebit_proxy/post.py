"""One POST on a connection of its own, for what must be sent once and whose answer must not be lost.

A stale connection is the commonest way to lose an answer, so none is kept. Nothing is sent a second time, no redirect
is followed, and nothing comes from the environment.
"""

import asyncio
import base64
import socket
import ssl
from typing import Final
from urllib.parse import SplitResult, quote, unquote, urlencode, urlsplit

import aiohappyeyeballs

from krebit_proxy import USER_AGENT
from krebit_proxy.core.http_answer import AnswerReader, HttpAnswer

_FAMILY_DELAY: Final = 0.25  # RFC 8305, 5: "One recommended value for a default delay is 250 milliseconds"
_DEFAULT_PORT: Final = {"https": 443, "http": 80}


class NotReached(Exception):
    """No connection, so nothing was sent. The text says why, in our words."""


async def post(
    url: str,
    form: dict[str, str],
    fields: dict[str, str],
    *,
    tls: ssl.SSLContext | None,
    proxy: str | None,
    connect_timeout: float,
    total_timeout: float,
) -> HttpAnswer:
    """Sends `form`. Returns whatever came; `broken` says if that is not all.

    Args:
        url: http or https, with neither user nor fragment.
        form: sent as application/x-www-form-urlencoded.
        fields: to send beside those that every request has.
        tls: for https.
        proxy: URL of a forward proxy; a tunnel is asked for.
        connect_timeout: seconds until the connection is there, with tunnel and TLS.
        total_timeout: seconds in all.

    Raises:
        NotReached: nothing was sent.
    """
    exchange = _Exchange()
    place = urlsplit(url)
    try:
        request = _request(place, form, fields)
    except ValueError:
        raise NotReached("the request cannot be written") from None
    deadline = asyncio.get_running_loop().time() + total_timeout
    try:
        async with asyncio.timeout(min(connect_timeout, total_timeout)):
            transport = await _connected(place, exchange, tls, proxy)
    except TimeoutError:
        raise NotReached("no connection in time") from None
    try:
        async with asyncio.timeout_at(deadline):
            transport.write(request)
            ended = await exchange.over
    except TimeoutError:
        ended = "no answer in time"
    finally:
        transport.abort()
    return exchange.reader.answer(ended=ended)


class _Exchange(asyncio.Protocol):
    """Collects an answer. `over` is how it ended: with nothing to say, or with why it broke off."""

    def __init__(self, *, head_only: bool = False) -> None:
        self.reader = AnswerReader()
        self.over: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._head_only = head_only  # the answer to CONNECT has no content, whatever it says (RFC 9110, 9.3.6)

    def data_received(self, data: bytes) -> None:
        """Octets came."""
        self.reader.feed(data)
        if self.reader.done or (self._head_only and self.reader.status is not None):
            self._end("")

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._end("the connection broke off" if exc else "")

    def _end(self, why: str) -> None:
        if not self.over.done():
            self.over.set_result(why)


def _request(url: SplitResult, form: dict[str, str], fields: dict[str, str]) -> bytes:
    """Raises ValueError for what no message can hold."""
    content = urlencode(form).encode("ascii")
    # RFC 9112 3.2: the target is in origin-form; what is no ASCII in a setting is percent-encoded.
    target = quote(f"{url.path or '/'}{'?' * bool(url.query)}{url.query}", safe="%/:@!$&'()*+,;=~?[]")
    lines = {
        "Host": _authority(url, explicit=url.port is not None),
        "User-Agent": USER_AGENT,
        "Accept-Encoding": "identity",
        "Connection": "close",
        "Content-Type": "application/x-www-form-urlencoded",
        "Content-Length": str(len(content)),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in (lines | fields).items())
    return f"POST {target} HTTP/1.1\r\n{head}\r\n".encode("ascii") + content


async def _connected(
    url: SplitResult, exchange: _Exchange, tls: ssl.SSLContext | None, proxy: str | None
) -> asyncio.Transport:
    """Raises NotReached."""
    if proxy is None:
        transport = await _dialled(url, exchange, "its host name has no address", "no connection")
    else:
        transport = await _tunnelled(url, urlsplit(proxy))
    if url.scheme != "https":
        return transport
    assert tls is not None  # see `post`
    try:
        encrypted = await asyncio.get_running_loop().start_tls(transport, exchange, tls, server_hostname=url.hostname)
    except ssl.SSLCertVerificationError:
        raise NotReached("its certificate is not trusted") from None
    except OSError:
        raise NotReached("no TLS connection") from None
    except BaseException:
        transport.abort()
        raise
    if encrypted is None:
        raise NotReached("no TLS connection")
    return encrypted


async def _dialled(url: SplitResult, exchange: _Exchange, nameless: str, closed: str) -> asyncio.Transport:
    loop = asyncio.get_running_loop()
    try:
        port = url.port or _DEFAULT_PORT[url.scheme]
        addresses = await loop.getaddrinfo(url.hostname, port, type=socket.SOCK_STREAM)
        sock = await aiohappyeyeballs.start_connection(
            addresses, happy_eyeballs_delay=_FAMILY_DELAY, interleave=1, loop=loop
        )
        transport, _ = await loop.create_connection(lambda: exchange, sock=sock)
    except socket.gaierror:
        raise NotReached(nameless) from None
    except OSError:
        raise NotReached(closed) from None
    return transport


async def _tunnelled(url: SplitResult, proxy: SplitResult) -> asyncio.Transport:
    """A tunnel through a forward proxy."""
    exchange = _Exchange(head_only=True)
    transport = await _dialled(proxy, exchange, *["no connection to upstream.proxy"] * 2)
    # RFC 9110, 9.3.6: the target of CONNECT is "only the host and port number of the tunnel destination".
    target = _authority(url, explicit=True)
    head = f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nUser-Agent: {USER_AGENT}\r\n{_authorization(proxy)}\r\n"
    try:
        transport.write(head.encode("ascii"))
        await exchange.over
        _check_tunnel(exchange.reader.answer())
    except BaseException:
        transport.abort()
        raise
    return transport


def _check_tunnel(answer: HttpAnswer) -> None:
    if 200 <= answer.status < 300:
        return
    if answer.status == 407 and "basic" not in answer.fields.get("proxy-authenticate", "basic").lower():
        raise NotReached("upstream.proxy wants another login than Basic, the only one that krebit-proxy can do")
    said = f" with HTTP status {answer.status}" if answer.status else ""
    raise NotReached(f"upstream.proxy refused the connection{said}")


def _authorization(proxy: SplitResult) -> str:
    if proxy.username is None:
        return ""
    pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}".encode()
    return f"Proxy-Authorization: Basic {base64.b64encode(pair).decode()}\r\n"


def _authority(url: SplitResult, *, explicit: bool) -> str:
    """Host and port of `url`; the port only if it is `explicit`."""
    host = (url.hostname or "").encode("idna").decode("ascii")
    host = f"[{host}]" if ":" in host else host
    return f"{host}:{url.port or _DEFAULT_PORT[url.scheme]}" if explicit else host
