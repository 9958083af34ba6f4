"""Admits each call, passes it to the API or to one of our pages, answers with errors, logs and counts the result."""

from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from itertools import count
from math import ceil
from secrets import token_hex
from time import monotonic
from typing import Final

from krebit_proxy.batches import Batches
from krebit_proxy.config import Settings
from krebit_proxy.core.access import Peer, Rules
from krebit_proxy.core.admission import Request, admit, check_method, may_call, names_upstream
from krebit_proxy.core.connection import IDLE, TABLE, Event, Timeouts
from krebit_proxy.core.fields import readable_by, withheld
from krebit_proxy.core.origin import own_origin
from krebit_proxy.core.rate import Rates
from krebit_proxy.core.request_line import WrongProtocol
from krebit_proxy.core.target import API, own_path
from krebit_proxy.core.upgrade import may_switch
from krebit_proxy.errors import ProxyError, Refused
from krebit_proxy.metrics import Metrics
from krebit_proxy.web.api import Api
from krebit_proxy.web.bridge import LONGEST_FORM, Bridge, Page, takes_form, too_long
from krebit_proxy.web.call import Call
from krebit_proxy.web.connection import Connection
from krebit_proxy.web.problems import METHODS, problem
from krebit_proxy.web.request_reader import ReaderSettings
from krebit_proxy.web.seats import Seats
from krebit_proxy.web.strangers import Strangers
from krebit_proxy.web.wrong_keys import WrongKeys

_PROBES: Final = frozenset((b"/healthz", b"/readyz"))
_TELLING: Final = frozenset(("/", "/setup/done"))  # pages that show details to those who may call
_MOMENT: Final = 0.3  # seconds for callers to learn that their connections close
_CALLER_LEFT = 499  # the status in the log if no response was sent, as in nginx


class Server:
    """The server of all callers. It is the protocol factory of `loop.create_server`.

    Attributes:
        rules: Who may call. Replaced when the file of client keys changes.
        seats: All connections.
        strangers: Warns of callers that speak another protocol.
        draining: The proxy is about to stop, so each response says that its connection closes.
        closing: Connections close once they are idle.
        batches: The work of this turn of the event loop.
        ids: New ids for calls.
        time: The clock of all connections. The loop's has steps of a millisecond, in which many become idle.
        keep_alive: Header lines for the first response on a connection: for how many seconds it may be idle.
        deadlines: The longest time in each phase of a connection, in seconds.
        patience: Seconds that content may stay below the least rate.
        reader_settings: Shared by the readers of all connections.
    """

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
        """`api`: answers calls for /api/. `pages`: our own pages by path. `observe`: called with each finished call."""
        limits, access, upstream = settings.limits, settings.access, settings.upstream
        self.rules = rules
        shortest = min(limits.header_timeout, limits.body_timeout, limits.keepalive, upstream.idle_timeout)
        self.seats = Seats(limits.connections, min(1.0, shortest / 10))
        self.draining = self.closing = False
        self.batches = batches or Batches()
        self.ids = map((token_hex(4) + "-%x").__mod__, count(1))
        self.time = monotonic
        callers = limits.header_timeout, limits.body_timeout, limits.keepalive
        timeouts = Timeouts(*callers, upstream.idle_timeout, upstream.connect_timeout, upstream.response_timeout)
        # A field of RFC 2068, 19.7.1.1, that many clients obey: they send nothing at the moment in which we close.
        told = timeouts.told
        self.keep_alive = b"Connection: keep-alive\r\nKeep-Alive: timeout=%d\r\n" % told if told else b""
        self.deadlines = {phase: phase.deadline(timeouts) for phase in TABLE}
        self.patience = timeouts.pace
        dropped = withheld(cookies=access.cookies == "forward", keys=access.client_keys_file is not None)
        self.reader_settings = ReaderSettings(limits.header_bytes, limits.body_timeout, dropped)
        self._api = api
        self._pages = pages
        self._bridge = Bridge()
        self._metrics = metrics
        self._observe = observe
        self._logged = settings.log.access
        self._setup_origin = own_origin(settings.redirect_uri, access.allowed_hosts)
        self._rates = Rates(limits.rate, limits.burst) if limits.rate else None
        self._wrong_keys = WrongKeys()
        self.strangers = Strangers()

    def __call__(self) -> Connection:
        return Connection(self)

    def begin(self, call: Call) -> Event:
        """Admits a call, and begins it if that needs no waiting. Raises Refused.

        Returns the event for its connection:

        - "send": it was sent to Krebit. Call `complete` once the response arrives.
        - "next": it has its response.
        - "work", "page": call `answer`.
        - "read": call `answer` once its content is complete.
        """
        self._admit(call)
        if call.request.page or call.request.method == b"OPTIONS":
            return self._begin_here(call)
        return "send" if self._api.begin(call) else "work"

    def _begin_here(self, call: Call) -> Event:
        request, caller = call.request, call.caller
        if caller is not None and caller.preflight:
            self._respond(call, 204, caller.preflight)
            return "next"
        if request.method == b"OPTIONS" and _ends_here(request):
            self._respond(call, 204, b"Allow: %b\r\n" % METHODS.encode())
            return "next"
        if request.page and own_path(request.target) not in self._pages:
            raise Refused("not_forwarded", "Only paths under /api/ are forwarded.", hint="Check the tool's base URL.")
        if not request.page:
            return "work"
        if not takes_form(request):
            return "page"
        if call.length is not None and call.length > LONGEST_FORM:
            raise too_long()
        return "page" if call.length == 0 else "read"

    def _admit(self, call: Call) -> None:
        request = call.request
        page = not request.target.startswith(API)
        if page:
            if not request.target.startswith(b"/"):
                check_method(request.method)  # the target of CONNECT is not a path
            page = request.target == b"*" or not own_path(request.target).startswith("/api/")
        request.page = page
        call.caller = caller = admit(request, self.rules, self._tried)
        if request.upgrade is not None and not may_switch(self.rules, caller.name, request.target):
            request.upgrade = None
        if self._rates is not None and not page and not caller.preflight:
            self._keep_rate(self._rates, caller.name)

    def _tried(self, peer: Peer, key: bytes) -> None:
        self._wrong_keys.tried(peer, key, guessable=key in self.rules.guessable)

    def _keep_rate(self, rates: Rates, caller: str) -> None:
        wait = rates.wait(caller, self.time())
        if wait:
            raise Refused(
                "rate_limited",
                "This caller sends too many requests.",
                hint="Send fewer, or raise limits.rate and limits.burst.",
                retry_after=ceil(wait),
            )

    @staticmethod
    def is_probe(call: Call) -> bool:
        """Whether the call asks how the proxy is. It is answered even if all connections are busy."""
        return call.request.target.partition(b"?")[0] in _PROBES

    def complete(self, call: Call) -> bool:
        """Relays a complete response to a call that `begin` sent. False: call `answer`."""
        return self._api.complete(call)

    async def answer(self, call: Call) -> None:
        """Answers a call that `begin` admitted. Raises what `Api.forward` and pages raise."""
        if call.request.page:
            path = own_path(call.request.target)
            known = path in _TELLING and may_call(call.request, self.rules, self._tried)
            await self._bridge.answer(call, self._pages[path], may_call=known)
        else:
            await self._api.forward(call)

    def refuse(self, call: Call, error: ProxyError) -> None:
        """Answers with an error of our own, readable by scripts of an allowed origin, and counts it."""
        origin = self._setup_origin
        if origin is None and not (call.caller and names_upstream(call.request, self.rules)):
            origin = call.request.own_origin().decode("latin-1")
        # This text names the host that was asked for. The log says nothing of header fields.
        call.outcome.reason = error.title if error.code == "host_not_allowed" else error.detail
        if isinstance(error, WrongProtocol):
            self.strangers.warn(error.protocol, "plain-HTTP", call.request.peer, call.connection.port(), self.time())
        if error.code == "bad_request":
            call.persistent = False  # what is no valid message may have been cut at another place than it seems
        html = call.request.prefers == "page"
        status, fields, content = problem(
            error, call.outcome.id, setup_url=f"{origin}/setup" if origin else None, html=html
        )
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
        call.reply(head if call.request.method == b"HEAD" else head + content, status=status)

    def done(self, call: Call) -> None:
        """Logs and counts a finished call, however it ended."""
        outcome, caller = call.outcome, call.caller_name
        seconds = self.time() - outcome.started
        outcome.status = outcome.status or _CALLER_LEFT
        if self._logged:
            call.log(seconds, caller)
        if self._observe is not None:
            self._observe(call)
        self._metrics.request(
            caller=caller,
            method=call.request.method.decode("ascii"),
            status=outcome.status,
            seconds=seconds,
            sent=outcome.sent,
            received=call.content.received,
        )

    async def shutdown(self, timeout: float | None = None, refuse: Callable[[], Awaitable[None]] | None = None) -> None:
        """Ends all connections within `timeout` seconds. Calls may run as long, then they are cut, visibly.

        For a moment, all goes on, but each response says that its connection closes. So callers that keep connections
        open and send often never meet a closed one. Then we call `refuse`, which ends accepting, and close what is
        idle. A connection without a request yet gets a moment more.
        """
        end = None if timeout is None else self.time() + timeout
        moment = _MOMENT if timeout is None else min(_MOMENT, timeout / 2)
        self.draining = True
        await self.seats.empty(moment)
        if refuse is not None:
            await refuse()
        self.closing = True
        for connection in self.seats.all():
            if connection.phase is IDLE:
                connection.close()
        await self.seats.empty(moment)
        await self.seats.vacate(None if end is None else end - self.time())
        self._wrong_keys.report()
        self._wrong_keys.close()


def _ends_here(request: Request) -> bool:
    """Whether an OPTIONS asks about the proxy itself, not about Krebit."""
    # RFC 9110, 7.6.2: "If the received Max-Forwards value is zero (0), the intermediary MUST NOT forward the request;
    # instead, the intermediary MUST respond as the final recipient."
    return request.target == b"*" or request.field(b"max-forwards") == b"0"
