"""An app that is registered with the sandbox, and does what RFC 6749 has it do."""

from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from aiohttp import ClientSession

from krebit_proxy.sandbox import Sandbox
from krebit_proxy.sandbox.visitor import Visitor

Answer = tuple[int, dict[str, Any]]


class App:
    def __init__(self, sandbox: Sandbox, http: ClientSession) -> None:
        self.sandbox = sandbox
        self.http = http

    def authorize_url(self, **changes: str | None) -> str:
        query: dict[str, str | None] = {
            "response_type": "code",
            "client_id": self.sandbox.client_id,
            "redirect_uri": self.sandbox.options.redirect_uri,
            "state": "s/ +&",
        }
        query |= changes
        return f"{self.sandbox.url}/oauth/authorize?{urlencode({k: v for k, v in query.items() if v is not None})}"

    async def code(self, **changes: str | None) -> str:
        async with Visitor() as visitor:
            location = await visitor.consent(self.authorize_url(**changes))
        return parse_qs(urlsplit(location).query)["code"][0]

    async def token(self, **form: str) -> Answer:
        secrets = {"client_id": self.sandbox.client_id, "client_secret": self.sandbox.client_secret}
        async with self.http.post(f"{self.sandbox.url}/api/oauth/token", data=secrets | form) as response:
            return response.status, await response.json()

    async def exchange(self, code: str, **form: str) -> Answer:
        given = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self.sandbox.options.redirect_uri,
        }
        return await self.token(**given | form)

    async def refresh(self, refresh_token: str) -> Answer:
        return await self.token(grant_type="refresh_token", refresh_token=refresh_token)

    async def authorized(self) -> dict[str, Any]:
        status, tokens = await self.exchange(await self.code())
        assert status == 200
        return tokens

    async def call(self, access_token: str, path: str = "/api/me") -> int:
        headers = {"Authorization": f"Bearer {access_token}"}
        async with self.http.get(f"{self.sandbox.url}{path}", headers=headers) as response:
            return response.status
