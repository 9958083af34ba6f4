"""Forwards API calls to Krebit, with a bearer token.

`Api.forward` handles every call. `begin` and `complete` are a shortcut for the usual one: no content, a token at hand,
a small response. They need neither a task nor any waiting. `_after_refusal` decides what follows a 401.
"""

import asyncio
from time import monotonic
from typing import Final

from krebit_proxy.config import Settings
from krebit_proxy.core.fields import NO_NAMES, request_head, response_fields
from krebit_proxy.core.replay import Breaker, Decision, Kept, ReplayBudget, decide
from krebit_proxy.core.target import upstream_target
from krebit_proxy.credentials import Bearer, Credentials
from krebit_proxy.errors import ProxyError, Refused
from krebit_proxy.metrics import Metrics
from krebit_proxy.tasks import spawn
from krebit_proxy.upstream import Exchange, ResponseHead, Upstream, UpstreamBroken
from krebit_proxy.web.call import Call

_LONG_UPLOAD: Final = 300.0  # seconds that a token should still be valid at the start of a large upload
_CONTINUE: Final = 1.0  # seconds to wait for 100 (Continue), which many servers never send
_REFUSED_CONTENT: Final = 64 << 10  # bytes of a 401 that we read in order to reuse its connection for the replay
_REFUSED_TIME: Final = 1.0  # seconds that we spend on that
# Krebit needs only the head to refuse a token. An upload that outgrows the replay buffer pauses for this many seconds,
# so that a 401 can arrive while the request can still be replayed. It is shorter if Krebit took this token before.
_REFUSAL_WAIT: Final = 0.25
_SHORT_REFUSAL_WAIT: Final = 0.02
_AT_ONCE: Final = 64 << 10  # bytes of a response that are gathered for one write
_LAST_CHUNK: Final = b"0\r\n\r\n"
_NEVER_SHOWN: Final = frozenset({204, 304})  # statuses of responses without content
_REFUSALS: Final = frozenset({401, 403})  # statuses that may mean a bad token


class SentRequest:
    """A request that was sent upstream, the head of its response, and the upload that may still go on."""

    __slots__ = ("bearer", "exchange", "response", "target", "upload")

    def __init__(self, exchange: Exchange, target: bytes, bearer: Bearer) -> None:
        self.exchange = exchange
        self.target = target  # as sent, which is also the key of the breaker
        self.bearer = bearer
        self.response = _NO_HEAD
        self.upload: asyncio.Task[ProxyError | None] | None = None

    async def answered(self) -> "SentRequest":
        """Waits for the head of the response. Raises Refused."""
        try:
            self.response = await self.exchange.response()
        except BaseException:
            self.exchange.abort()
            await self.stop_sending()
            upload = self.upload
            if upload is not None and not upload.cancelled() and (error := upload.result()) is not None:
                raise error from None  # the caller's content failed, which ended the exchange
            raise
        return self

    def abort(self) -> None:
        self.exchange.abort()

    async def stop_sending(self) -> None:
        """Cancels the upload. Content that was not sent stays in the call."""
        upload = self.upload
        if upload is not None and not upload.done():
            upload.cancel()
            await asyncio.wait({upload})

    async def discard(self) -> None:
        """Drops the response, but keeps its connection if the rest is short."""
        try:
            await self.stop_sending()
            if self.upload is None or not self.upload.cancelled():  # else the connection cannot be reused
                async with asyncio.timeout(_REFUSED_TIME):
                    await self._read_to_end()
        except (TimeoutError, UpstreamBroken):
            pass
        finally:
            self.exchange.abort()  # without effect after `release`

    async def _read_to_end(self) -> None:
        size = 0
        while size < _REFUSED_CONTENT:
            piece = await self.exchange.read()
            if not piece:
                self.exchange.release()
                return
            size += len(piece)


class Api:
    """Forwards calls to the upstream, with a bearer token."""

    def __init__(self, settings: Settings, credentials: Credentials, upstream: Upstream, metrics: Metrics) -> None:
        self._credentials = credentials
        self._upstream = upstream
        self._metrics = metrics
        self._origin = settings.upstream_origin.encode("ascii")
        self._authority = upstream.authority
        self._cookies = settings.access.cookies == "forward"
        self._max_kept = settings.replay.max_body
        self._budget = ReplayBudget(settings.replay.max_total)
        self._breaker = Breaker()
        self._accepted: Bearer | None = None  # the latest token that Krebit took

    # The shortcut

    def begin(self, call: Call) -> bool:
        """Sends a call that has no content, if a token is at hand. False: use `forward`. Raises Refused."""
        request = call.request
        if request.head.length != 0 or request.upgrade is not None:
            return False
        target = upstream_target(request.target)
        bearer = self._credentials.current()
        if bearer is None:
            return False
        head = self._request_head(call, target, bearer)
        exchange = self._upstream.open(head, method=call.request.method.decode("ascii"))
        call.attempt = SentRequest(exchange, target, bearer)
        exchange.notify(call.connection.relay)
        return True

    def complete(self, call: Call) -> bool:
        """Relays a small response that has arrived completely, in one write. False: use `forward`."""
        attempt = call.attempt
        assert attempt is not None  # `begin` made it
        exchange = attempt.exchange
        response = exchange.whole(_AT_ONCE)
        if response is None or response.status in _REFUSALS:
            return False
        chunked = response.has_content and response.length is None
        if chunked and call.request.head.http10:
            return False
        if attempt.bearer is not self._accepted:
            self._accept(attempt.bearer)
        self._breaker.note_accepted(attempt.target)
        if response.status < 300:
            self._breaker.reset(attempt.target)
        content = exchange.read_nowait() or b""
        if chunked:
            content = _chunk(content) + _LAST_CHUNK if content else _LAST_CHUNK
        call.reply(self._response_head(call, response, chunked=chunked) + content, status=response.status)
        exchange.release()
        return True

    # Everything else

    async def forward(self, call: Call) -> None:
        """Answers one call with Krebit's response.

        Raises Refused to answer with an error of our own. Once the head of the response is sent, any error means that
        the transfer broke off.
        """
        target = upstream_target(call.request.target)
        kept = Kept(self._max_kept, self._budget)
        try:
            attempt = await self._first(call, target, kept)
            if attempt.response.status in _REFUSALS:
                attempt = await self._after_refusal(call, kept, attempt)
            else:
                self._breaker.note_accepted(target)
                self._accept(attempt.bearer)
        finally:
            kept.release()
        await self._relay(call, attempt)

    async def _first(self, call: Call, target: bytes, kept: Kept) -> SentRequest:
        if call.attempt is not None:
            return await call.attempt.answered()
        bearer = self._credentials.current() if call.length == 0 else await self._lasting_bearer(call)
        if bearer is None:
            record = self._breaker.record(target, self._credentials.generation)
            bearer = await self._credentials.bearer(record=record)
        return await self._send(call, target, bearer, kept)

    def _accept(self, bearer: Bearer) -> None:
        """Notes that Krebit took this token: an earlier 401 was not the token's fault."""
        if bearer is not self._accepted:
            self._accepted = bearer
            self._credentials.accepted(bearer)
            if bearer.probe:
                self._breaker.clear(bearer.generation, monotonic())

    async def _after_refusal(self, call: Call, kept: Kept, refused: SentRequest) -> SentRequest:
        """Replays a request whose token Krebit refused, with another token. Returns the response to relay.

        Normally one replay. But a new token may not have reached all of Krebit's servers yet, so the credentials may
        offer the same token again first. Then a request is sent three times at most.

        Raises Refused: not_replayed, or the error of the credentials if no other token can be had. The caller then gets
        that error, not the 401.
        """
        target = refused.target
        barred = not self._renewed_since(refused) and self._breaker.is_open(target, monotonic())
        decision = decide(refused.response.status, _challenges(refused.response), held=kept.complete, barred=barred)
        if decision is Decision.RELAY:
            if refused.response.status != 401:
                self._accept(refused.bearer)
            self._metrics.replayed("relayed")
            return refused
        self._breaker.suspect(target, refused.bearer.generation)
        fresh = await self._better_bearer(refused, repeated=call.outcome.replayed)
        if fresh is None:
            self._breaker.trip(target, monotonic())
            self._metrics.replayed("relayed")
            return refused
        await refused.discard()
        if decision is Decision.NOT_REPLAYED:
            self._metrics.replayed("not_held")
            raise Refused(
                "not_replayed",
                "Krebit refused the token during this request. The proxy no longer has the body, so it cannot retry.",
                hint="Send the request again, with its body; curl --retry cannot do that for a pipe (-T -). "
                "To avoid this, raise replay.max_body.",
                retry_after=1,
            )
        same_token = fresh.generation == refused.bearer.generation and not call.outcome.replayed
        call.outcome.replayed = True
        sent = await self._send(call, target, fresh, kept)
        if sent.response.status != 401:
            self._accept(fresh)
            self._metrics.replayed("done")
        elif same_token:
            return await self._after_refusal(call, kept, sent)
        else:
            self._credentials.refused_again(fresh)
            self._breaker.trip(target, monotonic())
            self._metrics.replayed("refused_again")
        return sent

    async def _better_bearer(self, refused: SentRequest, *, repeated: bool) -> Bearer | None:
        """Another token, or None: then the 401 is relayed."""
        try:
            await refused.stop_sending()
            return await self._credentials.after_401(refused.bearer, repeated=repeated)
        except BaseException:
            refused.abort()
            raise

    def _renewed_since(self, sent: SentRequest) -> bool:
        """Whether there is a newer token already, so that a replay costs no refresh."""
        return self._credentials.generation > sent.bearer.generation

    async def _lasting_bearer(self, call: Call) -> Bearer | None:
        """A token for a request with content: one that stays valid for long if the content is too large to replay."""
        if call.length is None or call.length > self._max_kept:
            return await self._credentials.bearer(lifetime=_LONG_UPLOAD)
        return self._credentials.current()

    # Sending

    def _request_head(self, call: Call, target: bytes, bearer: Bearer, *, expect: bool = False) -> bytes:
        request = call.request
        return request_head(
            request.method,
            target,
            request.head.lines_for(request.method),
            authority=self._authority,
            authorization=bearer.field,
            content=request.head.length,
            expect=expect,
            upgrade=request.upgrade,
        )

    async def _send(self, call: Call, target: bytes, bearer: Bearer, kept: Kept) -> SentRequest:
        """Sends the request and waits for the head of the response. Raises Refused."""
        expect = call.content.expected and not call.content.size
        exchange = await self._upstream.open(
            self._request_head(call, target, bearer, expect=expect),
            method=call.request.method.decode("ascii"),
            content=call.length,
            upgrade=call.request.upgrade is not None,
            retry=not call.outcome.replayed,
        )
        attempt = SentRequest(exchange, target, bearer)
        try:
            # RFC 9110, 10.1.1: the upstream may answer "with a final status code" instead of 100 (Continue).
            if call.length != 0 and (not expect or await exchange.continued(_CONTINUE)):
                call.go_on()
                self._send_content(call, attempt, kept)
        except BaseException:
            exchange.abort()
            raise
        return await attempt.answered()

    def _send_content(self, call: Call, attempt: SentRequest, kept: Kept) -> None:
        """Sends the content kept for a replay, then what has arrived. A task sends the rest."""
        exchange = attempt.exchange
        for piece in kept.pieces:
            exchange.send(piece)
        if call.content.complete:
            while call.content.size:
                piece = call.content.take()
                kept.add(piece)
                exchange.send(piece)
            exchange.finish()
            return
        patience = _SHORT_REFUSAL_WAIT if attempt.bearer is self._accepted else _REFUSAL_WAIT
        attempt.upload = spawn(_upload(call, exchange, kept, patience), name="request content")

    # Relaying

    async def _relay(self, call: Call, attempt: SentRequest) -> None:
        """Sends the response to the caller. Raises UpstreamBroken if it breaks off."""
        exchange, response = attempt.exchange, attempt.response
        try:
            if response.status < 300:
                self._breaker.reset(attempt.target)
            else:  # an error or a redirect needs no more content
                await attempt.stop_sending()
            if response.status == 101:
                await self._tunnel(call, attempt)
            else:
                _drop_what_is_not_sent(call, attempt)
                await self._relay_content(call, attempt)
            if attempt.upload is not None:
                await attempt.stop_sending()
            exchange.release()
        except BaseException:
            exchange.abort()
            await attempt.stop_sending()
            raise

    async def _relay_content(self, call: Call, attempt: SentRequest) -> None:
        exchange, response = attempt.exchange, attempt.response
        chunked = response.has_content and response.length is None
        if chunked and call.request.head.http10:
            # RFC 9112, 6.1: "A server MUST NOT send a response containing Transfer-Encoding unless the corresponding
            # request indicates HTTP/1.1". So only the end of the connection can show the end of the content.
            chunked = call.persistent = False
        pending = self._response_head(call, response, chunked=chunked)
        status = response.status
        more = response.has_content
        while more:
            piece = exchange.read_nowait()
            if piece is None:  # nothing more has arrived: write what there is, with the head
                if pending:
                    call.write(pending, status=status)
                    pending = b""
                    await call.drain()
                piece = await exchange.read()
            more = bool(piece)
            if chunked:
                piece = _chunk(piece) if more else _LAST_CHUNK
            pending += piece
            if len(pending) > _AT_ONCE:
                call.write(pending, status=status)
                pending = b""
                await call.drain()
        if pending:
            call.write(pending, status=status)

    def _response_head(self, call: Call, response: ResponseHead, *, chunked: bool) -> bytes:
        caller = call.caller
        lines = response_fields(
            response.names,
            response.fields,
            length=response.length if response.status != 204 else None,
            upstream_origin=self._origin,
            caller_origin=call.request.own_origin() if b"location" in response.names else b"",
            cookies=self._cookies,
            allowed_origin=caller.origin if caller is not None else None,
            shown=response.status not in _NEVER_SHOWN,
        )
        framing = b"Transfer-Encoding: chunked\r\n" if chunked else b""
        return b"HTTP/1.1 %d %b\r\n%b%b%b\r\n" % (
            response.status,
            response.reason,
            lines,
            framing,
            call.connection_field(),
        )

    async def _tunnel(self, call: Call, attempt: SentRequest) -> None:
        """Carries raw bytes both ways after a 101, until either side ends it."""
        exchange, response = attempt.exchange, attempt.response
        call.persistent = False
        names, fields = response.names, response.fields
        protocol = call.request.upgrade or b""
        if [fields[place][1].lower() for place in names.at.get(b"upgrade", ())] not in ([], [protocol]):
            # RFC 9110, 7.8: "A server MUST NOT switch to a protocol that was not indicated by the client".
            raise Refused("upstream_invalid", "Krebit switched to a protocol that it was not asked for.")
        lines = response_fields(
            names,
            fields,
            length=None,
            upstream_origin=self._origin,
            caller_origin=b"",
            cookies=self._cookies,
            shown=False,
        )
        switched = b"Connection: Upgrade\r\nUpgrade: %b\r\n\r\n" % protocol
        call.write(b"HTTP/1.1 101 %b\r\n%b%b" % (response.reason, lines, switched), status=101)
        call.connection.tunnel(call)
        attempt.upload = spawn(_upload(call, exchange, Kept(0, self._budget), 0), name="tunnel")
        while piece := await exchange.read():
            call.write(piece)
            await call.drain()


def _drop_what_is_not_sent(call: Call, attempt: SentRequest) -> None:
    """Reads and drops content that Krebit takes no more. A caller that sends all of it first gets the response then."""
    if call.content.complete:
        return
    if attempt.upload is None:
        call.content.drop()
    else:
        attempt.upload.add_done_callback(lambda _: call.content.drop())


def _challenges(response: ResponseHead) -> list[bytes]:
    return [response.fields[place][1] for place in response.names.at.get(b"www-authenticate", ())]


def _chunk(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece)


async def _upload(call: Call, exchange: Exchange, kept: Kept, patience: float) -> ProxyError | None:
    """Sends content as it arrives from the caller. If it is malformed or late, aborts the exchange and returns why.

    `patience`: seconds after the head that content is kept for a replay, even if more of it is waiting.
    """
    content = call.content
    started = monotonic()
    try:
        while await content.ready():
            if kept.complete and not kept.fits(content.next_size):
                await asyncio.sleep(max(0, started + patience - monotonic()))
            piece = content.take()
            kept.add(piece)
            exchange.send(piece)
            await exchange.drain()
        exchange.finish()
    except ProxyError as error:
        exchange.abort()
        return error
    except UpstreamBroken:
        pass  # `Exchange.response` or `read` raises it too
    return None


_NO_HEAD: Final = ResponseHead("1.1", 0, b"", NO_NAMES, [], None, False, False, False)
