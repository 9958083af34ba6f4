"""The authorization server: authorization endpoint with a consent page, token and revocation endpoint.

It accepts everything that RFC 6749 allows, and refuses everything that the RFC forbids. So a client that works here is
correct.
"""

import asyncio
import hmac
import secrets
import time
from base64 import b64decode
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, unquote_plus, urlencode, urlsplit

from aiohttp import web

from krebit_proxy.sandbox.faults import Faults, TokenEndpointFault
from krebit_proxy.sandbox.grants import Grants, OAuthError, Pair, RefreshTokenDead
from krebit_proxy.sandbox.journal import Journal
from krebit_proxy.sandbox.pages import page
from krebit_proxy.sandbox.token_answers import (
    NOT_STORED,
    broken_answer,
    dead_token_response,
    error_response,
    token_response,
)

_OPEN_CONSENTS: Final = 100  # consent pages that may be open at once; a new one closes the oldest


@dataclass(frozen=True, slots=True)
class Client:
    """The one registered app."""

    organization: str
    name: str
    client_id: str
    client_secret: str
    redirect_uri: str


@dataclass(frozen=True, slots=True)
class Consent:
    """An authorization request whose consent page is open."""

    redirect_uri: str | None  # None: the request had none
    state: str | None
    challenge: str | None


class AuthorizationServer:
    """Asks a person for consent, issues codes, and exchanges codes and refresh tokens for access tokens."""

    def __init__(self, client: Client, grants: Grants, faults: Faults, journal: Journal) -> None:
        self._client = client
        self._grants = grants
        self._faults = faults
        self._journal = journal
        self._consents: OrderedDict[str, Consent] = OrderedDict()

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/oauth/authorize", self.authorize, allow_head=False),
            web.post("/oauth/authorize", self.decide),
            web.post("/api/oauth/token", self.token),
            web.post("/oauth/revoke", self.revoke),
        ]

    async def authorize(self, request: web.Request) -> web.Response:
        """The consent page for an authorization request (RFC 6749, 4.1.1)."""
        pairs = list(request.query.items())
        given = {name: value for name, value in pairs if value}
        if problem := self._untrusted(given):
            # RFC 6749 4.1.2.1: "the authorization server [...] MUST NOT automatically redirect the user-agent to the
            # invalid redirection URI."
            return page("refused.html", status=400, problem=problem, given=given, client=self._client)
        try:
            _check_authorization_request(pairs)
        except OAuthError as error:
            answer = {"error": error.error, "error_description": error.description}
            return self._back(given.get("redirect_uri"), given.get("state"), answer)
        ticket = secrets.token_urlsafe(16)
        self._consents[ticket] = Consent(given.get("redirect_uri"), given.get("state"), given.get("code_challenge"))
        if len(self._consents) > _OPEN_CONSENTS:
            self._consents.popitem(last=False)
        return page(
            "consent.html",
            # Chromium applies form-action to every redirect after the form's POST too.
            form_action=f"'self' {_origin(self._client.redirect_uri)}",
            client=self._client,
            scopes=given.get("scope", "").split(),
            ticket=ticket,
        )

    def _untrusted(self, given: dict[str, str]) -> str:
        if given.get("client_id") != self._client.client_id:
            return "client_id"
        # RFC 6749 3.1.2.3: "compare the two URIs using simple string comparison".
        if given.get("redirect_uri", self._client.redirect_uri) != self._client.redirect_uri:
            return "redirect_uri"
        return ""

    async def decide(self, request: web.Request) -> web.Response:
        """Takes the person's decision and redirects to the app (RFC 6749, 4.1.2)."""
        form = await request.post()
        consent = self._consents.pop(str(form.get("ticket")), None)
        if consent is None:
            return page("refused.html", status=400, problem="ticket", given={}, client=self._client)
        if form.get("decision") != "allow":
            self._journal.note("denied", "Somebody pressed Deny on the consent page.")
            answer = {"error": "access_denied", "error_description": "The person pressed Deny."}
        else:
            self._journal.note("authorizations", "Somebody pressed Allow on the consent page.")
            answer = {"code": self._grants.code(consent.redirect_uri, consent.challenge, time.time())}
        return self._back(consent.redirect_uri, consent.state, answer)

    def _back(self, redirect_uri: str | None, state: str | None, answer: dict[str, str]) -> web.Response:
        target = redirect_uri or self._client.redirect_uri
        # RFC 6749 4.1.2: state is "REQUIRED if the "state" parameter was present in the client authorization request".
        query = urlencode(answer | ({} if state is None else {"state": state}))
        location = f"{target}{'&' if '?' in target else '?'}{query}"
        return web.Response(status=303, headers={"Location": location, "Referrer-Policy": "no-referrer", **NOT_STORED})

    async def token(self, request: web.Request) -> web.Response:
        """The token endpoint (RFC 6749, 3.2)."""
        self._journal.note("token_requests")
        fault = self._faults.take_token_endpoint()
        if fault not in {"ok", "lost", "refuse"}:
            return await self._broken(request, fault)
        try:
            form = await self._authenticated_form(request)
            answer = token_response(self._issue(form, fault), self._faults, time.time())
        except RefreshTokenDead as error:
            self._journal.note("token_refusals", f"The token endpoint refused the refresh token. {error.description}")
            answer = dead_token_response(error, self._faults)
        except OAuthError as error:
            self._journal.note("token_refusals", f"The token endpoint refused: {error.error}. {error.description}")
            answer = error_response(error, request)
        if fault == "lost":
            self._journal.note("token_faults", "The token endpoint issued tokens, but its response was lost.")
            _hang_up(request)
        return answer

    async def _broken(self, request: web.Request, fault: TokenEndpointFault) -> web.Response:
        self._journal.note("token_faults", f"The token endpoint met the fault '{fault}'.")
        if fault == "hang":
            await asyncio.Event().wait()
        if fault == "away":
            _hang_up(request)
        return broken_answer(fault, self._faults.retry_after)

    def _issue(self, form: dict[str, str], fault: TokenEndpointFault) -> Pair:
        grant_type = _required(form, "grant_type")
        lifetime, terms, now = self._faults.token_lifetime, self._faults.terms(), time.time()
        if grant_type == "authorization_code":
            code, redirect_uri, verifier = _required(form, "code"), form.get("redirect_uri"), form.get("code_verifier")
            pair = self._grants.exchange(code, redirect_uri, verifier, terms=terms, now=now)
            self._journal.note("exchanges", f"The app got its tokens. The access token lasts {lifetime:g} s.")
        elif grant_type == "refresh_token":
            refresh_token = _required(form, "refresh_token")
            if fault == "refuse":
                raise RefreshTokenDead("The fault 'refuse' is on.")
            pair = self._grants.refresh(refresh_token, terms=terms, now=now)
            self._journal.note("refreshes", f"The app renewed its access token. It lasts {lifetime:g} s.")
        else:
            raise OAuthError("unsupported_grant_type", "Use authorization_code or refresh_token.")
        return pair

    async def revoke(self, request: web.Request) -> web.Response:
        """The revocation endpoint (RFC 7009)."""
        self._journal.note("revocation_requests")
        try:
            form = await self._authenticated_form(request)
            self._grants.revoke(_required(form, "token"))
        except OAuthError as error:
            return error_response(error, request)
        self._journal.note("revocations", "The app revoked a token.")
        # RFC 7009 2.2: "Note: invalid tokens do not cause an error response".
        return web.Response(headers=NOT_STORED)

    async def _authenticated_form(self, request: web.Request) -> dict[str, str]:
        if request.content_type != "application/x-www-form-urlencoded":
            raise OAuthError("invalid_request", "The body must be application/x-www-form-urlencoded.")
        form = _single(parse_qsl(await request.text()))
        client_id, client_secret = _client_credentials(request, form)
        known = self._client
        if client_id != known.client_id or not _same(client_secret, known.client_secret):
            raise OAuthError("invalid_client", "The client id or the client secret is wrong.")
        return form


def _check_authorization_request(pairs: list[tuple[str, str]]) -> None:
    """Raises OAuthError for errors that go to the app by redirect (RFC 6749, 4.1.2.1)."""
    given = _single(pairs)
    if _required(given, "response_type") != "code":
        raise OAuthError("unsupported_response_type", "response_type must be code.")
    # RFC 7636 4.3: code_challenge_method "defaults to "plain" if not present", which this server does not support.
    if "code_challenge" in given and given.get("code_challenge_method") != "S256":
        raise OAuthError("invalid_request", "code_challenge_method must be S256.")


def _single(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    # RFC 6749 3.1 and 3.2: "Parameters sent without a value MUST be treated as if they were omitted from the request",
    # "Request and response parameters MUST NOT be included more than once."
    single: dict[str, str] = {}
    for name, value in pairs:
        if name in single:
            raise OAuthError("invalid_request", "The request has the same parameter more than once.")
        if value:
            single[name] = value
    return single


def _required(form: dict[str, str], name: str) -> str:
    if name not in form:
        raise OAuthError("invalid_request", f"{name} is missing.")
    return form[name]


def _client_credentials(request: web.Request, form: dict[str, str]) -> tuple[str, str]:
    """The client id and secret, from the Authorization field or the content (RFC 6749, 2.3.1)."""
    field = request.headers.get("Authorization")
    if field is None:
        return form.get("client_id", ""), form.get("client_secret", "")
    if "client_secret" in form:
        # RFC 6749 2.3: "The client MUST NOT use more than one authentication method in each request."
        raise OAuthError("invalid_request", "The request has the client secret twice: as Basic and in the body.")
    scheme, _, value = field.partition(" ")
    try:
        client_id, colon, client_secret = b64decode(value.strip(), validate=True).decode().partition(":")
    except ValueError:
        colon = ""
    if scheme.lower() != "basic" or not colon:
        raise OAuthError("invalid_client", "The Authorization header is not valid Basic authentication.")
    # RFC 6749 2.3.1: both "encoded using the "application/x-www-form-urlencoded" encoding algorithm".
    return unquote_plus(client_id), unquote_plus(client_secret)


def _same(given: str, known: str) -> bool:
    return hmac.compare_digest(given.encode(), known.encode())


def _hang_up(request: web.Request) -> None:
    """Aborts the connection, so that the response never arrives."""
    if request.transport is not None:
        request.transport.abort()


def _origin(uri: str) -> str:
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc}" if parts.netloc else f"{parts.scheme}:"
