"""One POST to the token endpoint; foreign errors become ours."""

import base64
import time
from typing import Final
from urllib.parse import quote_plus

import aiohttp

from krebit_proxy.config import Settings
from krebit_proxy.core.secret import Secret
from krebit_proxy.core.token_answer import read_answer
from krebit_proxy.core.token_response import NotSent, Outcome, Unclear
from krebit_proxy.trust import client_context

TOTAL_TIMEOUT: Final = 60.0  # seconds for one token request; long, since giving up early may lose the answer
_LONGEST_ANSWER: Final = 64 * 1024
_SECRETS: Final = frozenset({"code", "code_verifier", "refresh_token"})


class TokenEndpoint:
    """Speaks to the token endpoint and, where one is set, the revocation endpoint. Never raises for what they do."""

    def __init__(self, settings: Settings) -> None:
        """Raises SettingsError when `upstream.ca_file` cannot be used."""
        self._settings = settings
        encrypted = any(url and url.startswith("https:") for url in (settings.token_url, settings.oauth.revoke_url))
        self._tls = client_context(settings.upstream.ca_file) if encrypted else True

    async def exchange(self, code: Secret, verifier: Secret | None) -> Outcome:
        """Exchanges an authorization code, once (RFC 6749, 4.1.3).

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
        """Spends a refresh token (RFC 6749, 6). No scope is sent: the one that was granted stays."""
        form = {"grant_type": "refresh_token", "refresh_token": refresh_token.reveal()}
        return await self._token_request(form, previous=refresh_token)

    async def revoke(self, token: Secret) -> bool:
        """Revokes a token (RFC 7009); best effort. Returns whether the server said so."""
        if self._settings.oauth.revoke_url is None:
            return False
        try:
            status, _, _ = await self._post(self._settings.oauth.revoke_url, {"token": token.reveal()})
        except (aiohttp.ClientError, OSError, TimeoutError):
            return False
        return status == 200

    async def _token_request(self, form: dict[str, str], *, previous: Secret | None) -> Outcome:
        sent_at = time.time()
        try:
            status, content, retry_after = await self._post(self._settings.token_url, form)
        except (
            aiohttp.ClientConnectorError,  # no address, refused, no TLS, the corporate proxy unreachable
            aiohttp.ClientHttpProxyError,
            aiohttp.ConnectionTimeoutError,
            aiohttp.InvalidURL,
        ) as error:
            return NotSent(_reason(error))
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            return Unclear(_reason(error))
        secret = self._settings.client_secret
        sent = [
            secret.reveal(),
            _basic(self._settings.client_id, secret),
            *(form[name] for name in _SECRETS & form.keys()),
        ]
        return read_answer(status, content, retry_after, sent_at=sent_at, previous=previous, sent=sent)

    async def _post(self, url: str, form: dict[str, str]) -> tuple[int, bytes, str | None]:
        """One POST on a connection of its own: a stale connection is the commonest way to lose an answer."""
        settings = self._settings
        fields = {"Accept": "application/json", "Accept-Encoding": "identity"}
        # RFC 6749 2.3: "The client MUST NOT use more than one authentication method in each request."
        if settings.oauth.client_auth == "basic":
            fields["Authorization"] = "Basic " + _basic(settings.client_id, settings.client_secret)
        else:
            form |= {"client_id": settings.client_id, "client_secret": settings.client_secret.reveal()}
        timeout = aiohttp.ClientTimeout(total=TOTAL_TIMEOUT, connect=settings.upstream.connect_timeout)
        connector = aiohttp.TCPConnector(force_close=True, ssl=self._tls)
        # Not from the environment: a .netrc would add an Authorization field. No redirect: the content is a secret.
        async with (
            aiohttp.ClientSession(
                connector=connector, timeout=timeout, trust_env=False, cookie_jar=aiohttp.DummyCookieJar()
            ) as session,
            session.post(
                url, data=form, headers=fields, allow_redirects=False, proxy=settings.upstream.proxy_to(url)
            ) as response,
        ):
            content = await _read(response)
            return response.status, content, response.headers.get("Retry-After")


async def _read(response: aiohttp.ClientResponse) -> bytes:
    content = bytearray()
    async for chunk in response.content.iter_any():
        content += chunk
        if len(content) > _LONGEST_ANSWER:
            msg = "longer than 64 KiB"
            raise ValueError(msg)
    return bytes(content)


def _basic(client_id: str, client_secret: Secret) -> str:
    """By RFC 6749 2.3.1: both parts "encoded using the "application/x-www-form-urlencoded" encoding algorithm"."""
    pair = f"{quote_plus(client_id)}:{quote_plus(client_secret.reveal())}"
    return base64.b64encode(pair.encode()).decode()


def _reason(error: BaseException) -> str:
    """A short reason. Only our words: a foreign text could quote what was sent."""
    for kind, text in _REASONS:
        if isinstance(error, kind):
            return text
    return "the exchange broke off"


_REASONS: Final[tuple[tuple[type[BaseException], str], ...]] = (
    (aiohttp.ClientConnectorDNSError, "its host name has no address"),
    (aiohttp.ClientConnectorCertificateError, "its certificate is not trusted"),
    (aiohttp.ClientSSLError, "no TLS connection"),
    (aiohttp.ClientProxyConnectionError, "no connection to upstream.proxy"),
    (aiohttp.ClientHttpProxyError, "upstream.proxy refused the connection"),
    (aiohttp.ClientConnectorError, "no connection"),
    (aiohttp.ConnectionTimeoutError, "no connection in time"),
    (aiohttp.InvalidURL, "its URL is not valid"),
    (TimeoutError, "no answer in time"),
    (ValueError, "an answer that is too long"),
)
