"""Listeners whose callers are told who they are taken for."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any, cast

from krebit_proxy.config import Settings
from krebit_proxy.core.access import Rules
from krebit_proxy.core.secret import Secret
from krebit_proxy.web.admission import peer_of
from krebit_proxy.web.handshake import handshaking
from krebit_proxy.web.listeners import Listeners, open_listeners
from krebit_proxy.web.seats import Seats
from krebit_proxy.web.tls import server_certificate
from tests.fakes.waiting import DEADLINE


def settings(*listen: str, **overrides: Any) -> Settings:
    given = {"organization": "acme", "client_id": "a", "client_secret": Secret("s"), "listen": listen}
    return Settings.model_validate(given | overrides)


class Greeter(asyncio.Protocol):
    """Tells each caller who it is taken for."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(repr(peer_of(transport, self._rules)).encode())
        transport.write_eof() if transport.can_write_eof() else transport.close()


class Greeters:
    """Makes a greeter for each caller, of whom there are never too many."""

    draining = False

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.seats = Seats(1000, 1)
        self.time = asyncio.get_running_loop().time

    def __call__(self) -> Greeter:
        return Greeter(self.rules)


@asynccontextmanager
async def serving(settings: Settings, rules: Rules | None = None) -> AsyncIterator[Listeners]:
    listeners = open_listeners(settings)
    greeters, certificate = Greeters(rules or Rules()), server_certificate(settings)
    encrypted = handshaking(cast("Any", greeters), certificate.context, patience=30) if certificate else None
    following = asyncio.ensure_future(certificate.follow(lambda: None, pause=0.01)) if certificate else None
    try:
        await listeners.serve(greeters, encrypted)
        yield listeners
        await listeners.refuse()
    finally:
        listeners.close()
        if following:
            following.cancel()


async def greeting(connecting: Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]) -> str:
    reader, writer = await connecting
    try:
        return (await asyncio.wait_for(reader.read(), DEADLINE)).decode()
    finally:
        writer.close()


def port_of(listeners: Listeners) -> int:
    return int(listeners.sockets[0].getsockname()[1])
