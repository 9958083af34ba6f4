"""A scripted token endpoint over real sockets: rotates refresh tokens, and misbehaves as told."""

import asyncio
import socket
import struct
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import parse_qsl

from aiohttp import web

from tests.fakes.token_answers import Said, written

RESET = "reset"  # the connection is reset after the request was read
HANG = "hang"  # no answer until the server is closed
HALF = "half"  # half an answer, then the end of the connection


@dataclass
class TokenRequest:
    """What the proxy sent, field by field."""

    form: dict[str, str]
    headers: dict[str, str]


@dataclass
class AuthorizationServer:
    """Start it with `async with`. `script` holds what comes before the normal answers, in order."""

    lifetime: Any = 3600
    rotates: bool = True
    status: int = 200  # of a token response
    extra: dict[str, Any] = field(default_factory=dict)  # further members of a token response, or others instead
    shape: str = "json"  # of `token_answers.written`
    refusal: Said | None = None  # the words for a refresh token that is not the newest, or at its end
    refresh_lifetime: float | None = None  # seconds, told as refresh_expires_in
    script: deque[Any] = field(default_factory=deque)  # RESET, HANG, HALF, or (status, content, headers)
    requests: list[TokenRequest] = field(default_factory=list)
    revoked: list[str] = field(default_factory=list)
    refresh_token: str = "refresh-1"
    issued: int = 1
    issued_at: float = float("inf")  # of the newest refresh token, by the loop's clock
    url: str = ""

    async def __aenter__(self) -> Self:
        self._gate = asyncio.Event()
        self._asked = asyncio.Condition()
        app = web.Application()
        app.router.add_post("/api/oauth/token", self._token)
        app.router.add_post("/oauth/revoke", self._revoke)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.release()
        await self._runner.cleanup()

    def release(self) -> None:
        """Ends every hang; they then get the normal answer."""
        self._gate.set()

    async def asked(self, count: int) -> None:
        """Waits until `count` token requests have come in."""
        async with self._asked:
            await asyncio.wait_for(self._asked.wait_for(lambda: len(self.requests) >= count), 20)

    async def _token(self, request: web.Request) -> web.StreamResponse:
        form = dict(parse_qsl(await request.text(), keep_blank_values=True))
        async with self._asked:
            self.requests.append(TokenRequest(form, dict(request.headers)))
            self._asked.notify_all()
        act = self.script.popleft() if self.script else None
        if act == HANG:
            await self._gate.wait()
        elif act == RESET:
            return self._cut(request, b"", reset=True)
        elif act == HALF:
            return self._cut(request, b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"access', reset=False)
        elif act is not None:
            status, content, headers = act
            return web.Response(status=status, text=content, headers=headers)
        return self._issue(form)

    def _issue(self, form: dict[str, str]) -> web.Response:
        now = asyncio.get_running_loop().time()
        if form.get("grant_type") == "refresh_token":
            ended = self.refresh_lifetime is not None and now >= self.issued_at + self.refresh_lifetime
            if form.get("refresh_token") != self.refresh_token or ended:
                said = self.refusal or Said(400, {"error": "invalid_grant"})
                return web.json_response(said.document, status=said.status)
        elif form.get("code") != "good-code":
            return web.json_response({"error": "invalid_grant", "error_description": "no such code"}, status=400)
        self.issued += 1
        self.issued_at = now
        answer: dict[str, Any] = {"access_token": f"access-{self.issued}", "token_type": "Bearer"}
        if self.lifetime is not None:
            answer["expires_in"] = self.lifetime
        if self.rotates:
            self.refresh_token = answer["refresh_token"] = f"refresh-{self.issued}"
        if self.refresh_lifetime is not None:
            answer["refresh_expires_in"] = self.refresh_lifetime
        content = written(answer | self.extra, self.shape)
        return web.Response(body=content, content_type="application/json", status=self.status)

    async def _revoke(self, request: web.Request) -> web.Response:
        self.revoked.append(str((await request.post())["token"]))
        return web.Response()

    def _cut(self, request: web.Request, written: bytes, *, reset: bool) -> web.StreamResponse:
        transport = request.transport
        assert transport is not None
        if written:
            transport.write(written)
        connection: socket.socket = transport.get_extra_info("socket")
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()
        else:
            transport.close()
        return web.Response()
