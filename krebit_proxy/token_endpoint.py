"""Sends requests to the token endpoint and the revocation endpoint. A failure becomes an outcome, too."""

import base64
import time
from typing import Final
from urllib.parse import quote_plus

from krebit_proxy.config import Settings
from krebit_proxy.core.http_answer import HttpAnswer
from krebit_proxy.core.secret import Secret
from krebit_proxy.core.token_answer import read_answer
from krebit_proxy.core.token_response import NotSent, Outcome
from krebit_proxy.post import NotReached, post
from krebit_proxy.trust import client_context

TOTAL_TIMEOUT: Final = 60.0  # seconds for one token request; long, since an early end may lose the response
_SECRETS: Final = frozenset({"code", "code_verifier", "refresh_token"})


class TokenEndpoint:
    """The client of both endpoints. Its methods raise nothing if a server or the network fails: see `Outcome`."""

    def __init__(self, settings: Settings) -> None:
        """Raises SettingsError if `upstream.ca_file` cannot be used."""
        self._settings = settings
        encrypted = any(url and url.startswith("https:") for url in (settings.token_url, settings.oauth.revoke_url))
        self._tls = client_context(settings.upstream.ca_file) if encrypted else None

    async def exchange(self, code: Secret, verifier: Secret | None) -> Outcome:
        """Exchanges an authorization code (RFC 6749, 4.1.3). Never call it twice for one code.

        "redirect_uri REQUIRED, if the "redirect_uri" parameter was included in the authorization request [...] and
        their values MUST be identical."
        """
        form = {
            "grant_type": "authorization_code",
            "code": code.reveal(),
            "redirect_uri": self._settings.redirect_uri,
        }
        if verifier is not None:
            form["code_verifier"] = verifier.reveal()
        return await self._token_request(form, previous=None)

    async def refresh(self, refresh_token: Secret) -> Outcome:
        """Spends a refresh token (RFC 6749, 6). It sends no scope, so the granted scope stays."""
        form = {"grant_type": "refresh_token", "refresh_token": refresh_token.reveal()}
        return await self._token_request(form, previous=refresh_token)

    async def revoke(self, token: Secret) -> bool:
        """Revokes a token (RFC 7009), if `oauth.revoke_url` is set. Returns whether the server confirmed it."""
        if self._settings.oauth.revoke_url is None:
            return False
        try:
            answer = await self._post(self._settings.oauth.revoke_url, {"token": token.reveal()})
        except NotReached:
            return False
        return answer.status == 200

    async def _token_request(self, form: dict[str, str], *, previous: Secret | None) -> Outcome:
        secrets = [form[name] for name in _SECRETS & form.keys()]
        sent_at = time.time()
        try:
            answer = await self._post(self._settings.token_url, form)
        except NotReached as error:
            return NotSent(str(error))
        secret = self._settings.client_secret
        sent = [secret.reveal(), _basic(self._settings.client_id, secret), *secrets]
        return read_answer(answer, sent_at=sent_at, previous=previous, sent=sent)

    async def _post(self, url: str, form: dict[str, str]) -> HttpAnswer:
        settings = self._settings
        fields = {"Accept": "application/json"}
        # RFC 6749 2.3: "The client MUST NOT use more than one authentication method in each request."
        if settings.oauth.client_auth == "basic":
            fields["Authorization"] = "Basic " + _basic(settings.client_id, settings.client_secret)
        else:
            form = form | {"client_id": settings.client_id, "client_secret": settings.client_secret.reveal()}
        return await post(
            url,
            form,
            fields,
            tls=self._tls,
            proxy=settings.way_out.proxy_to(url),
            connect_timeout=settings.upstream.connect_timeout,
            total_timeout=TOTAL_TIMEOUT,
        )


def _basic(client_id: str, client_secret: Secret) -> str:
    """RFC 6749 2.3.1: both parts are "encoded using the "application/x-www-form-urlencoded" encoding algorithm"."""
    pair = f"{quote_plus(client_id)}:{quote_plus(client_secret.reveal())}"
    return base64.b64encode(pair.encode()).decode()
