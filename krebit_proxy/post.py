"""One POST on a connection of its own, for token requests: each is sent only once, and its answer must not be lost.

Stale connections are the most common way to lose an answer, so none is kept. `post` never sends a request again,
follows no redirects, and does not look at the environment.
"""

import asyncio
import socket
import ssl
from urllib.parse import SplitResult, quote, urlencode, urlsplit

from krebit_proxy import USER_AGENT
from krebit_proxy.core.host import bracketed
from krebit_proxy.core.http_answer import AnswerReader, HttpAnswer
from krebit_proxy.dial import DEFAULT_PORT, dial, tunnel_refusal, tunnel_request


class NotReached(Exception):
    """There was no connection, so nothing was sent. The text says why, in our words."""


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
    """Sends `form`. Returns what arrived. `HttpAnswer.broken` says why if that is not all.

    Args:
        url: http or https, without user and fragment.
        form: sent as application/x-www-form-urlencoded.
        fields: headers in addition to the usual ones.
        tls: needed for https.
        proxy: URL of a forward proxy, which is asked for a tunnel.
        connect_timeout: seconds to connect, with tunnel and TLS.
        total_timeout: seconds in total.

    Raises:
        NotReached: nothing was sent.
    """
    exchange = _Exchange()
    place = urlsplit(url)
    try:
        request = _request(place, form, fields)
    except ValueError:
        raise NotReached("the request contains characters that cannot be sent") from None
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
    """Collects an answer. The result of `over` is empty after an orderly end, else the reason why it broke off."""

    def __init__(self, *, head_only: bool = False) -> None:
        self.reader = AnswerReader()
        self.over: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._head_only = head_only  # the answer to CONNECT has no content, whatever its fields say (RFC 9110, 9.3.6)

    def data_received(self, data: bytes) -> None:
        self.reader.feed(data)
        if self.reader.done or (self._head_only and self.reader.status is not None):
            self._end("")

    def connection_lost(self, exc: Exception | None) -> None:
        self._end("the connection broke off" if exc else "")

    def _end(self, why: str) -> None:
        if not self.over.done():
            self.over.set_result(why)


def _request(url: SplitResult, form: dict[str, str], fields: dict[str, str]) -> bytes:
    """The request as bytes. Raises ValueError for characters that cannot be sent."""
    content = urlencode(form).encode("ascii")
    # RFC 9112, 3.2: the target is in origin-form. Settings may contain characters beyond ASCII, so encode those.
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
    if proxy is None:
        transport = await _dialled(url, exchange, "its host name has no address", "no connection")
    else:
        transport = await _tunnelled(url, urlsplit(proxy))
    if url.scheme != "https":
        return transport
    assert tls is not None  # required for https
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
        port = url.port or DEFAULT_PORT[url.scheme]
        addresses = await loop.getaddrinfo(url.hostname, port, type=socket.SOCK_STREAM)
        transport, _ = await loop.create_connection(lambda: exchange, sock=await dial(addresses))
    except socket.gaierror:
        raise NotReached(nameless) from None
    except OSError:
        raise NotReached(closed) from None
    return transport


async def _tunnelled(url: SplitResult, proxy: SplitResult) -> asyncio.Transport:
    exchange = _Exchange(head_only=True)
    transport = await _dialled(proxy, exchange, *["no connection to the forward proxy"] * 2)
    try:
        transport.write(tunnel_request(_authority(url, explicit=True), proxy))
        await exchange.over
        _check_tunnel(exchange.reader.answer())
    except BaseException:
        transport.abort()
        raise
    return transport


def _check_tunnel(answer: HttpAnswer) -> None:
    if 200 <= answer.status < 300:
        return
    raise NotReached(tunnel_refusal(answer.status, answer.fields.get("proxy-authenticate", "")))


def _authority(url: SplitResult, *, explicit: bool) -> str:
    """Host and port of `url`; the port only if it is `explicit`."""
    host = bracketed((url.hostname or "").encode("idna").decode("ascii"))
    return f"{host}:{url.port or DEFAULT_PORT[url.scheme]}" if explicit else host
