"""All connections and their calls: admits each call, leads it to the API or to a page, and counts it."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from itertools import count
from math import ceil
from secrets import token_hex
from typing import Final, Protocol, cast

from aiohttp import web

from krebit_proxy.batches import Batches
from krebit_proxy.config import Settings
from krebit_proxy.core.access import Peer, Rules
from krebit_proxy.core.admission import admit, check_method
from krebit_proxy.core.fields import readable_by, withheld
from krebit_proxy.core.origin import own_origin
from krebit_proxy.core.rate import Rates
from krebit_proxy.core.target import API, own_path
from krebit_proxy.errors import ProxyError, Refused
from krebit_proxy.metrics import Metrics
from krebit_proxy.web import own
from krebit_proxy.web.admission import peer_of
from krebit_proxy.web.call import Call
from krebit_proxy.web.connection import Connection
from krebit_proxy.web.handshake import Handshake
from krebit_proxy.web.own import Page
from krebit_proxy.web.problems import METHODS, prefers_html, problem

_CUT: Final = 1.0  # seconds for connections that were cut to end
_CALLER_LEFT: Final = 499  # in the log, where no response was sent; nginx has made it usual


class Api(Protocol):
    """Answers calls for /api/."""

    def begin(self, call: Call) -> bool:
        """Sends a call that has to wait for nothing but its response. False: `forward` it. Raises Refused."""

    def complete(self, call: Call) -> bool:
        """Relays the response to such a call, if that can be done at once. False: `forward` it."""

    async def forward(self, call: Call) -> None:
        """Answers a call, from wherever `begin` and `complete` have left it. Raises Refused and UpstreamBroken."""


class Server(web.Server):
    """Makes a connection for each caller, as `loop.create_server` asks for it, and answers the calls on them."""

    def __init__(
        self,
        settings: Settings,
        *,
        rules: Rules,
        api: Api,
        pages: Mapping[str, Page],
        metrics: Metrics,
        batches: Batches | None = None,
        observe: Callable[[Call], None] | None = None,
    ) -> None:
        """`api` answers calls for /api/; `pages` has our own pages by path; `observe` sees each call at its end."""
        super().__init__(_never, handler_cancellation=True)
        self.settings = settings
        self.draining = False
        access = settings.access
        self.withheld = withheld(cookies=access.cookies == "forward", keys=access.client_keys_file is not None)
        self.rules = rules  # replaced when the file of client keys changes
        self._api = api
        self._pages = pages
        self._metrics = metrics
        self.batches = batches or Batches()
        self._logged = settings.log.access
        self._setup_origin = own_origin(settings.redirect_uri, access.allowed_hosts)
        self._ids = map((token_hex(4) + "-%x").__mod__, count(1))
        self._observe = observe
        limits = settings.limits
        self._rates = Rates(limits.rate, limits.burst) if limits.rate else None
        self._interval = min(1.0, limits.header_timeout / 10, limits.body_timeout / 10, limits.keepalive / 10)
        self._look: asyncio.TimerHandle | None = None
        self._open: dict[Connection | Handshake, None] = {}
        self._leaving: set[Connection | Handshake] = set()
        self._vacated = asyncio.Event()

    def __call__(self) -> Connection:
        """A protocol for one connection."""
        return Connection(self, loop=self._loop)

    # Connections

    def peer_of(self, transport: asyncio.BaseTransport) -> Peer:
        """Who is at the other end."""
        return peer_of(transport, self.rules)

    def opened(self, connection: Connection | Handshake) -> bool:
        """A caller connected. False: there is no room for it. At the limit, the longest idle connection makes room."""
        self._open[connection] = None
        self._vacated.clear()
        if self._look is None:
            self._look_around()
        limit = self.settings.limits.connections
        peer = connection.peer
        if not peer.loopback and sum(other.peer.site == peer.site for other in self._open) > limit // 2:
            return False
        if len(self._open) <= limit:
            return True
        if len(self._open) > 2 * limit:
            # Those that are closing do not count, but wait for their callers, who may let them wait.
            closing = next((other for other in self._open if other.closing), connection)
            closing.cut(silent=True)
        others = [other for other in self._open if not other.closing and other is not connection]
        # Slow heads hold a connection as idle ones do; by the hundred, they must not keep others out.
        idle = [other for other in others if other.is_idle] or [other for other in others if other.is_slow]
        if len(others) >= limit and idle:
            min(idle, key=lambda other: other.idle_since).make_room()
        return len(others) < limit or bool(idle)

    def closed(self, connection: Connection | Handshake) -> None:
        """A connection is gone."""
        del self._open[connection]
        if not self._open:
            self._vacated.set()

    def admit_anew(self) -> None:
        """Ends each TLS connection of now once it is idle, so that its caller must show a certificate again."""
        self._leaving |= {connection for connection in self._open if connection.peer.scheme == b"https"}

    def _look_around(self) -> None:
        """One timer for all connections: a timer for each request would cost more than the rest."""
        now = self._loop.time()
        for connection in list(self._open):
            connection.check(now)
        self._leaving &= self._open.keys()
        for connection in list(self._leaving):
            connection.close()
        self._look = self._loop.call_later(self._interval, self._look_around) if self._open else None

    # Calls

    def begin(self, call: Call) -> bool:
        """Admits a call. True: it is sent, and waits for nothing but its response. False: `answer` it."""
        call.id = next(self._ids)
        call.started = self._loop.time()
        if call.refusal is not None:
            return False
        try:
            self._admit(call)
            return not call.page and call.method != b"OPTIONS" and self._api.begin(call)
        except Exception as error:  # whatever it is, `answer` raises it where it is dealt with
            call.denial = error
            return False

    def _admit(self, call: Call) -> None:
        call.page = not call.target.startswith(API)
        if call.page:
            if not call.target.startswith(b"/"):
                check_method(call.method)  # what CONNECT names is no path
            call.page = call.target == b"*" or not own_path(call.target).startswith("/api/")
        call.caller = admit(call, self.rules)
        if self._rates is not None and not call.page and not call.caller.preflight:
            self._keep_rate(self._rates, call.caller.name)

    def complete(self, call: Call) -> bool:
        """Relays the response to a call that `begin` has sent. False: `answer` it."""
        try:
            return self._api.complete(call)
        except Exception as error:
            call.denial = error
            return False

    async def answer(self, call: Call) -> None:
        """Has a call answered, once it has begun. Raises Refused."""
        error = call.refusal or call.denial
        if error is not None:
            raise error
        if call.caller is not None and call.caller.preflight:
            self._respond(call, 204, call.caller.preflight)
        elif call.method == b"OPTIONS" and _ends_here(call):
            self._respond(call, 204, b"Allow: %b\r\n" % METHODS.encode())
        elif call.page:
            await self._answer_page(call)
        else:
            await self._api.forward(call)

    def _keep_rate(self, rates: Rates, caller: str) -> None:
        wait = rates.wait(caller, self._loop.time())
        if wait:
            raise Refused(
                "rate_limited",
                "This caller sends more requests than it may.",
                hint="limits.rate and limits.burst set how many.",
                retry_after=ceil(wait),
            )

    async def _answer_page(self, call: Call) -> None:
        page = self._pages.get(own_path(call.target))
        if page is None:
            raise Refused("not_forwarded", "Only paths under /api/ are forwarded.", hint="Check the tool's base URL.")
        await own.answer(call, page, cast("Connection", call.connection))

    def refuse(self, call: Call, error: ProxyError) -> None:
        """Answers with one of our own errors."""
        setup_url = f"{self._setup_origin or call.own_origin().decode('ascii', 'replace') or 'http://localhost'}/setup"
        html = prefers_html(call.field(b"accept"))
        status, fields, content = problem(error, call.id, setup_url=setup_url, html=html)
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items()).encode("latin-1")
        if call.caller is not None and call.caller.origin is not None:
            lines += readable_by(call.caller.origin)
        self._respond(call, status, lines, content)
        self._metrics.refused(error.code)

    @staticmethod
    def _respond(call: Call, status: int, lines: bytes, content: bytes = b"") -> None:
        length = b"" if status == 204 else b"Content-Length: %d\r\n" % len(content)
        reason = HTTPStatus(status).phrase.encode("ascii")
        head = b"HTTP/1.1 %d %b\r\n%b%b%b\r\n" % (status, reason, lines, length, call.connection_field())
        call.write(head if call.method == b"HEAD" else head + content, status=status)

    def done(self, call: Call) -> None:
        """A call is over: one event and one count, whatever became of it."""
        seconds = self._loop.time() - call.started
        call.status = call.status or _CALLER_LEFT
        if self._logged:
            call.log(seconds)
        if self._observe is not None:
            self._observe(call)
        self._metrics.request(
            caller=call.caller_name,
            method=call.method.decode("ascii"),
            status=call.status,
            seconds=seconds,
            sent=call.sent,
            received=call.content.received,
        )

    # The end

    async def shutdown(self, timeout: float | None = None) -> None:
        """Closes idle connections, lets calls end within `timeout` seconds, then cuts them so that it is seen."""
        self.draining = True
        tasks = {connection.task for connection in self._open if connection.task is not None}
        for connection in list(self._open):
            connection.close()
        await self._vacate(timeout)
        for connection in list(self._open):
            connection.cut(silent=True)
        await self._vacate(_CUT)
        if tasks:
            await asyncio.wait(tasks, timeout=_CUT)
        if self._look is not None:
            self._look.cancel()
            self._look = None

    async def _vacate(self, timeout: float | None) -> None:
        if self._open:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._vacated.wait(), timeout)


def _ends_here(call: Call) -> bool:
    """Whether an OPTIONS asks about us, not about the upstream."""
    # RFC 9110, 7.6.2: "If the received Max-Forwards value is zero (0), the intermediary MUST NOT forward the request;
    # instead, the intermediary MUST respond as the final recipient."
    return call.target == b"*" or call.field(b"max-forwards") == b"0"


async def _never(_request: web.BaseRequest) -> web.StreamResponse:
    """What aiohttp would call for a request; none gets that far."""
    raise NotImplementedError
