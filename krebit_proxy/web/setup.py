"""The setup pages: send a person's browser to Krebit, and take the authorization response (RFC 6749, 4.1).

- While setup is needed, a browser on this computer may start it.
- From another computer, or if setup is done already, a browser needs a one-time key.
- A key admits only the browser that used it first, until the key expires.
- Once a person has authorized the proxy or logged out, by any way, all older keys and attempts are void.
"""

import asyncio
import hmac
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qs, urlencode, urlsplit

import structlog
from aiohttp import web

from krebit_proxy.config import Settings
from krebit_proxy.core.authorization import (
    ATTEMPT_LIFETIME,
    ENDED,
    AuthorizationResponse,
    SetupAttempt,
    authorization_url,
    begin,
    browser_mark,
    cautions,
    explain,
    pasted_query,
    read_response,
    verdict,
    will_stop,
)
from krebit_proxy.core.origin import own_origin, serves
from krebit_proxy.core.secret import Secret
from krebit_proxy.core.setup_key import check_key, mint_key, term_of
from krebit_proxy.core.token_response import Issued, Outcome, Refusal
from krebit_proxy.credentials import Credentials
from krebit_proxy.errors import SETUP_CODES, ProxyError, Refused, StoreError
from krebit_proxy.tasks import spawn
from krebit_proxy.token_endpoint import TokenEndpoint
from krebit_proxy.web.bridge import VISIT, Page
from krebit_proxy.web.pages import allow, example_call, page, see_other

LONGEST_PASTE: Final = 16 * 1024  # bytes of a form
_KEY_HINT: Final = (
    "Run `krebit-proxy setup` where the proxy runs. It prints a link that works once, for fifteen minutes."
)
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Settled:
    """The last attempt that got a response. `result` is None after success."""

    attempt: SetupAttempt
    result: asyncio.Task[ProxyError | None]


class Setup:
    """The pages /setup, /setup/paste, /setup/done, and the redirection endpoint. One attempt is pending at a time."""

    def __init__(self, settings: Settings, credentials: Credentials, token_endpoint: TokenEndpoint) -> None:
        self._settings = settings
        self._credentials = credentials
        self._token_endpoint = token_endpoint
        self._own = own_origin(settings.redirect_uri, settings.access.allowed_hosts)
        self._run = secrets.token_urlsafe(12)  # identifies this run of the proxy
        # RFC 6265 8.5: "Cookies do not provide isolation by port." So each proxy on a host has a name of its own.
        self._cookie = f"krebit-proxy-setup-{browser_mark(settings.redirect_uri)[:8]}"
        self._callback = urlsplit(settings.redirect_uri).path if self._own else "/setup/callback"
        self._attempt = ENDED
        self._settled: Settled | None = None
        self._used_keys: dict[str, float] = {}  # key -> when it expires
        self._admitted: tuple[str, float] = ("", 0)  # mark of the browser that used a key, and when the key expires
        self._begun = 0  # how many attempts
        self._begun_in = ""  # the term of `_attempt` and `_admitted`; both end with it
        self._issued: Issued | None = None
        self._origin = self._own  # for links in the log; never what a request says

    def term(self) -> str:
        """The term of one-time keys, see `core.setup_key`."""
        return term_of(self._run, self._credentials.authorized_at)

    def for_command(self) -> dict[str, object]:
        """What `krebit-proxy setup` asks for: the term of keys, and how many browsers have begun so far. Not secret."""
        return {"run": self.term(), "setups": self._begun}

    def routes(self) -> dict[str, Page]:
        """The pages by exact path. The redirection endpoint is one of them only if the redirect URI leads here."""
        pages = {"/setup": self._start, "/setup/paste": self._paste, "/setup/done": self._done}
        if self._own:
            pages[self._callback] = self._redirected
        return {path: self._with_log(answer) for path, answer in pages.items()}

    def announce(self, origin: str | None) -> None:
        """If setup is needed, logs where to open it, and the redirect URI that the app at Krebit must have.

        Args:
            origin: the origin of this proxy for a browser, in case the redirect URI leads elsewhere. None: no TCP.
        """
        self._origin = self._own or origin
        if not self._needed():
            return
        place = {"hint": "run: krebit-proxy setup --no-browser"}
        if self._origin:
            place = {"open": self._link(self._origin) if self._settings.access.expose else f"{self._origin}/setup"}
        _log.warning("setup.needed", **place, redirect_uri=self._settings.redirect_uri)

    async def close(self) -> None:
        """Waits for a running exchange, because its code works only once."""
        if self._settled:
            await asyncio.wait([self._settled.result])

    # Starting

    async def _start(self, request: web.BaseRequest) -> web.Response:
        _check_navigation(request)
        until = self._admit(request)
        key = {"key": request.query["key"]} if "key" in request.query else {}
        if self._own is None:
            return see_other(f"/setup/paste?{urlencode(key)}" if key else "/setup/paste")
        # Set the cookie on the host that the browser returns to: 127.0.0.1 and localhost do not share cookies. `moved`
        # stops a loop: behind a front proxy that changes Host, the two hosts may never match.
        if not serves(self._own, request[VISIT].authority) and "moved" not in request.query:
            return see_other(f"{self._own}/setup?{urlencode(key | {'moved': '1'})}")
        attempt, cookies = self._begin(request, until)
        return see_other(self._authorization_url(attempt), cookies)

    def _begin(self, request: web.BaseRequest, until: float) -> tuple[SetupAttempt, list[str]]:
        """Starts an attempt, which replaces the pending one. Also returns the cookies that bind it to the browser."""
        cookie, now = Secret(secrets.token_urlsafe(32)), time.time()
        attempt = begin(secrets.token_bytes, now=now, pkce=self._settings.oauth.pkce, browser=cookie)
        self._attempt, self._begun_in, self._begun = attempt, self.term(), self._begun + 1
        self._admitted = (browser_mark(cookie.reveal()), until)
        self._used_keys = {key: end for key, end in self._used_keys.items() if end > now}
        if until:
            self._used_keys[request.query.get("key", "")] = until
        _log.info("setup.started", peer=_peer(request))
        return attempt, self._cookies(cookie)

    def _cookies(self, cookie: Secret) -> list[str]:
        # Lax, not Strict: the browser must send the cookie when Krebit redirects it back.
        # Secure on https only: Safari refuses such cookies on http://localhost.
        attributes = f"Max-Age={ATTEMPT_LIFETIME}; HttpOnly; SameSite=Lax"
        if self._own and self._own.startswith("https:"):
            attributes += "; Secure"
        paths = {"/setup"} if self._callback.startswith("/setup/") else {"/setup", self._callback}
        return [f"{self._cookie}={cookie.reveal()}; Path={path}; {attributes}" for path in sorted(paths)]

    def _authorization_url(self, attempt: SetupAttempt) -> str:
        return authorization_url(
            self._settings.authorize_url,
            attempt,
            client_id=self._settings.client_id,
            redirect_uri=self._settings.redirect_uri,
            scope=self._settings.oauth.scope,
        )

    # Who may start

    def _admit(self, request: web.BaseRequest) -> float:
        """Raises Refused unless the browser may start. Returns when its key expires, 0 without a key."""
        key, now = request.query.get("key", ""), time.time()
        expires_at = check_key(self._settings.client_secret, key, term=self.term(), now=now)
        if expires_at and key not in self._used_keys:
            return expires_at
        mark, until = self._admitted
        same = hmac.compare_digest(mark, browser_mark(self._cookie_of(request)))
        if same and now < until and self._begun_in == self.term():
            return until
        if not self._needed():
            done = "Setup is done. To authorize again, you need a one-time key."
            if not self._credentials.status().ready:
                done = "Setup may be done. See the status page `/`. To authorize anyway, you need a one-time key."
            raise Refused("setup_closed", done, hint=_KEY_HINT)
        if not _is_local(request):
            old = "This one-time key was used before, has expired, or is older than the last setup or restart."
            new = "From another computer, setup needs a one-time key."
            raise Refused("setup_key_required", old if key else new, hint=_KEY_HINT)
        return 0

    def _needed(self) -> bool:
        return self._credentials.status().code in SETUP_CODES

    def _cookie_of(self, request: web.BaseRequest) -> str:
        return request.cookies.get(self._cookie, "")

    def _link(self, origin: str) -> str:
        key = mint_key(self._settings.client_secret, term=self.term(), now=time.time(), nonce=secrets.token_bytes(16))
        return f"{origin}/setup?{urlencode({'key': key})}"

    # Coming back

    async def _redirected(self, request: web.BaseRequest) -> web.Response:
        _check_navigation(request)
        return await self._finish(request, request.rel_url.raw_query_string)

    async def _paste(self, request: web.BaseRequest) -> web.Response:
        """For a redirect URI that leads elsewhere: a link to Krebit, and a field for the address after the redirect."""
        allow(request, "GET", "POST")
        if request.method == "POST":
            return await self._pasted(request)
        _check_navigation(request)
        if (attempt := self._attempt_of(request)) is None:
            attempt, cookies = self._begin(request, self._admit(request))
            return self._paste_page(attempt, cookies=cookies)
        return self._paste_page(attempt)  # a reload: a link that is open already stays valid

    async def _pasted(self, request: web.BaseRequest) -> web.Response:
        # Another site cannot forge this request: it would need the state, which only our page shows.
        if request.content_length is None or request.content_length > LONGEST_PASTE:
            raise Refused("bad_request", f"The form is larger than {LONGEST_PASTE >> 10} KiB. Paste only the address.")
        form = parse_qs((await request.read()).decode("ascii", "replace"))
        try:
            return await self._finish(request, pasted_query(form.get("address", [""])[0]))
        except Refused as error:
            if (attempt := self._attempt_of(request)) is None:
                raise
            self._log_refusal(request, error)
            return self._paste_page(attempt, error=error)

    @property
    def _pending(self) -> SetupAttempt:
        return self._attempt if self._begun_in == self.term() else ENDED

    def _attempt_of(self, request: web.BaseRequest) -> SetupAttempt | None:
        """The pending attempt, if it belongs to this browser and has not expired."""
        attempt, mark = self._pending, browser_mark(self._cookie_of(request))
        same = hmac.compare_digest(attempt.browser or "", mark)
        return attempt if same and time.time() < attempt.expires_at else None

    def _paste_page(
        self, attempt: SetupAttempt, *, error: Refused | None = None, cookies: Iterable[str] = ()
    ) -> web.Response:
        link = self._authorization_url(attempt)
        authorize = urlsplit(self._settings.authorize_url)
        response = page(
            "paste.html",
            status=error.status if error else 200,
            # Chromium applies form-action also to redirects after a form.
            form_action=f"{authorize.scheme}://{authorize.netloc}",
            settings=self._settings,
            link=link,
            error=error,
        )
        # With no-referrer a browser would send `Origin: null` with the form, which admission refuses as cross-site.
        response.headers["Referrer-Policy"] = "same-origin"
        if error:
            response.headers["X-Krebit-Proxy-Error"] = error.code
        response.headers.extend(("Set-Cookie", cookie) for cookie in cookies)
        return response

    async def _finish(self, request: web.BaseRequest, query: str) -> web.Response:
        """Takes an authorization response: exchanges its code, once, and stores the tokens. Raises ProxyError."""
        response, settled = read_response(query), self._settled
        if settled is None or not self._answers(settled.attempt, request, response):
            attempt = self._pending
            outcome = verdict(attempt, response, now=time.time(), browser=self._cookie_of(request))
            # Used up now, before the first await. So nothing else can use it.
            self._attempt = ENDED
            if response.names_issuer:
                _log.info("setup.issuer_ignored", reason="there is only one authorization server")
            exchange = self._exchange(outcome, attempt.verifier, _peer(request))
            settled = self._settled = Settled(attempt, spawn(exchange, name="setup.exchange"))
        # A reload or a second click gets the result of the same exchange. A browser that leaves does not cancel it.
        if error := await asyncio.shield(settled.result):
            raise error
        return see_other("/setup/done")

    def _answers(self, attempt: SetupAttempt, request: web.BaseRequest, response: AuthorizationResponse) -> bool:
        try:
            verdict(attempt, response, now=time.time(), browser=self._cookie_of(request))
        except Refused:
            return False
        return True

    async def _exchange(
        self, outcome: Secret | Refusal, verifier: Secret | None, peer: str | None
    ) -> ProxyError | None:
        """Exchanges the code, and stores the tokens. Returns the error, if any."""
        answer: Outcome = (
            await self._token_endpoint.exchange(outcome, verifier) if isinstance(outcome, Secret) else outcome
        )
        if not isinstance(answer, Issued):
            return explain(answer, redirect_uri=self._settings.redirect_uri)
        try:
            await self._credentials.authorized(answer.tokens)
        except StoreError as error:
            return error.discreet()  # the log has the rest already
        self._issued = answer
        generation = self._credentials.status().generation
        _log.info("setup.completed", peer=peer, organization=self._settings.organization, generation=generation)
        for caution in cautions(answer, scope=self._settings.oauth.scope):
            _log.warning("setup.caution", text=caution)
        return None

    async def _done(self, request: web.BaseRequest) -> web.Response:
        allow(request, "GET", "HEAD")
        status = self._credentials.status()
        if not (status.ready and (request[VISIT].may_call or self._finished_by(request))):
            return see_other("/")
        return page(
            "done.html",
            settings=self._settings,
            grant=status,
            will_stop=self._issued is not None and will_stop(self._issued.tokens),
            cautions=cautions(self._issued, scope=self._settings.oauth.scope) if self._issued else [],
            example=example_call(request, self._settings),
        )

    def _finished_by(self, request: web.BaseRequest) -> bool:
        """Whether the browser of this request has just authorized the proxy."""
        settled = self._settled
        if settled is None or not settled.result.done() or settled.result.result() is not None:
            return False
        return hmac.compare_digest(settled.attempt.browser or "", browser_mark(self._cookie_of(request)))

    # The log

    def _with_log(self, answer: Page) -> Page:
        """The page `answer` that also logs each refusal, without the query, which may contain a code."""

        async def logged(request: web.BaseRequest) -> web.Response:
            try:
                return await answer(request)
            except ProxyError as error:
                self._log_refusal(request, error)
                raise

        return logged

    def _log_refusal(self, request: web.BaseRequest, error: ProxyError) -> None:
        facts = {"peer": _peer(request), "path": request.path, "code": error.code, "reason": error.detail}
        if error.code == "setup_key_required" and self._origin:
            # A reader of the log may open setup. The one who asked may not, and must not choose where the key goes: the
            # Host that it sent may have the port of another program.
            facts["open"] = self._link(self._origin)
        _log.warning("setup.refused", **facts)


def _check_navigation(request: web.BaseRequest) -> None:
    """Raises Refused unless a person opened this page. A prefetch or a frame must not start or use up an attempt."""
    allow(request, "GET")
    fields = request.headers
    early = "prefetch" in fields.get("Sec-Purpose", "") + fields.get("Purpose", "")
    if early or fields.get("Sec-Fetch-Dest", "document") != "document":
        raise Refused(
            "setup_failed", "This page does not load in a frame or ahead of time. Open it in a window of its own."
        )


def _peer(request: web.BaseRequest) -> str:
    """The address of the caller, for the log."""
    return request[VISIT].peer.address or "unix socket"


def _is_local(request: web.BaseRequest) -> bool:
    """Whether the caller surely is on this computer. Behind a front proxy it may be anywhere."""
    if any(name in request.headers for name in ("Forwarded", "X-Forwarded-For", "X-Real-IP", "Via")):
        return False
    peer = request[VISIT].peer
    return peer.loopback and not peer.unix  # a front proxy may be behind a unix socket
