"""Whatever happens while an answer is made, the connection ends in an answer or a close."""

import asyncio
import gc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from krebit_proxy.core.connection import IllegalStep
from krebit_proxy.metrics import Metrics
from krebit_proxy.upstream import Exchange
from krebit_proxy.web import bridge, connection, problems, server
from krebit_proxy.web.api import Api
from krebit_proxy.web.call import Call
from krebit_proxy.web.connection import Connection
from krebit_proxy.web.flow import Flow
from krebit_proxy.web.request_reader import RequestReader
from krebit_proxy.web.seats import Seats
from krebit_proxy.web.server import Server
from tests.fakes.client import Ended
from tests.fakes.door import ask, ask_in_tls, speaking_tls
from tests.fakes.proxy import StartProxy
from tests.fakes.upstream import Upstream, answer
from tests.fakes.waiting import eventually

BreakDown = Callable[[], AbstractContextManager[None]]

ELSEWHERE = "https://elsewhere.example/back"
HOST = b"Host: localhost\r\n"


def fail(*_args: Any, **_more: Any) -> Any:
    raise ZeroDivisionError("marker")


@pytest.mark.parametrize("redirect_uri", [ELSEWHERE, "http://localhost:8321/setup/callback"])
@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"GET / HTTP/1.1\r\nBad Header\r\n\r\n", "bad_request"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: \0\r\n\r\n", "bad_request"),
        (b"GET ftp://a/ HTTP/1.1\r\n" + HOST + b"\r\n", "bad_request"),
        (b"GET ftp://a/ HTTP/1.1\r\nAccept: text/html\r\n" + HOST + b"\r\n", "bad_request"),
        (b"GET http:// HTTP/1.1\r\n" + HOST + b"\r\n", "bad_request"),
        (b"GET http://a@localhost/ HTTP/1.1\r\n" + HOST + b"\r\n", "bad_request"),
        (b"GET http://localhost:99999/healthz HTTP/1.1\r\n" + HOST + b"\r\n", "bad_request"),
        (b"GET /healthz HTTP/1.1\r\nHost: localhost:99999\r\n\r\n", "bad_request"),
        (b"GET * HTTP/1.1\r\n" + HOST + b"\r\n", "bad_request"),
        (b"GET / HTTP/1.1\r\n\r\n", "host_not_allowed"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "host_not_allowed"),
        (b"GET http://evil.example/ HTTP/1.1\r\n" + HOST + b"\r\n", "host_not_allowed"),
        (b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", "method_not_allowed"),
        (b"GET / HTTP/2.0\r\n" + HOST + b"\r\n", "version_not_supported"),
        (b"\x16\x03\x01\x02\x00\x01", "bad_request"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n", "request_timeout"),  # half a head
        (b"G", "request_timeout"),
    ],
)
async def test_what_is_no_good_request_is_answered_wherever_the_redirect_uri_leads(
    start: StartProxy, redirect_uri: str, sent: bytes, code: str
) -> None:
    proxy = await start(redirect_uri=redirect_uri, limits={"header_timeout": 0.2})
    client = await proxy.connect()
    await client.send(sent)

    assert (await client.response()).code == code
    assert (await ask(proxy, "GET", "/healthz")).status == 200


@pytest.mark.parametrize("sent", [b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", b"\0", b"GET / HTTP/1.1\r\n: \r\n\r\n"])
async def test_refused_requests_never_use_up_the_connections(start: StartProxy, sent: bytes) -> None:
    proxy = await start(redirect_uri=ELSEWHERE, limits={"connections": 4})
    for _ in range(12):
        await (await proxy.connect()).send(sent)

    assert (await ask(proxy, "GET", "/healthz")).status == 200


# A fault anywhere on the way. Each of these is a place at which an answer is made.
PLACES = [
    (RequestReader, "feed"),
    (Server, "begin"),
    (Server, "_admit"),
    (Server, "refuse"),
    (Server, "_respond"),
    (Server, "answer"),
    (Server, "done"),
    (Api, "begin"),
    (Api, "complete"),
    (Api, "forward"),
    (Call, "connection_field"),
    (Call, "log"),
    (Exchange, "whole"),
    (Exchange, "release"),
    (Metrics, "request"),
    (Metrics, "refused"),
    (problems, "error_page"),
    (problems, "_details"),
    (server, "problem"),
    (server, "admit"),
    (server, "own_path"),
    (connection, "step"),
    (connection, "peer_of"),
    (Connection, "_begin"),
    (Connection, "_answered"),
    (Connection, "_skip"),
    (Connection, "_linger"),
    (Flow, "begin"),
    (Seats, "take"),
    (server, "takes_form"),
    (connection._log, "error"),
    (bridge, "_rewritten"),
    (bridge._Wire, "write"),
]
ASKED = [
    ("GET", "/api/x"),
    ("POST", "/api/x"),
    ("GET", "/healthz"),
    ("POST", "/setup/paste"),
    ("GET", "/nowhere"),
    ("OPTIONS", "*"),
    ("GET", "ftp://a/"),
]


@pytest.fixture(params=PLACES, ids=lambda place: f"{getattr(place[0], '__name__', 'log')}.{place[1]}")
def break_down(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], AbstractContextManager[None]]:
    """Breaks one place for as long as the context lasts."""

    @contextmanager
    def broken() -> Iterator[None]:
        with monkeypatch.context() as patch:
            owner, name = request.param
            patch.setattr(owner, name, fail)
            yield

    return broken


@pytest.mark.parametrize("fields", [[], [b"Accept: text/html"]], ids=["JSON", "page"])
async def test_a_fault_at_any_place_ends_in_an_answer_or_a_close(
    start: StartProxy, upstream: Upstream, break_down: BreakDown, fields: list[bytes]
) -> None:
    proxy = await start(limits={"connections": len(ASKED)})
    upstream.script = [answer()] * 10
    with break_down():
        for method, target in ASKED:
            client = await proxy.connect()
            content = b"12345" if method == "POST" else b""
            await client.send(client.request(method, target, *fields, content=content))
            try:
                got = await client.response()
            except Ended:
                pass
            else:
                assert 200 <= got.status < 600
            client.close()

    assert (await ask(proxy, "GET", "/api/x")).status == 200
    assert (await ask(proxy, "GET", "/healthz")).status == 200
    assert "marker" not in proxy.written()


@pytest.mark.parametrize("fault", [ZeroDivisionError, IllegalStep, asyncio.InvalidStateError, RecursionError])
async def test_a_log_that_fails_while_a_fault_is_told_of_does_not_keep_the_connection(
    start: StartProxy, monkeypatch: pytest.MonkeyPatch, fault: type[Exception]
) -> None:
    proxy = await start()
    client = await proxy.connect()

    async def broken(*_: object) -> None:
        raise fault

    monkeypatch.setattr(Api, "forward", broken)
    monkeypatch.setattr(connection._log, "error", fail)
    await client.send(client.request("POST", "/api/x", content=b"x"))

    assert (await client.rest()).got == b""


@pytest.mark.parametrize("target", ["/api/x", "/healthz"])
async def test_a_task_that_is_cancelled_by_somebody_else_ends_its_connection(
    start: StartProxy, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    async def cancelled(*_: object) -> None:
        raise asyncio.CancelledError

    monkeypatch.setattr(Server, "answer", cancelled)
    proxy = await start()
    client = await proxy.connect()
    await client.send(client.request("POST", target, content=b"x"))

    assert (await client.rest()).got == b""
    await eventually(lambda: proxy.events("request.failed"))


@pytest.mark.parametrize(
    "place", [(connection, "peer_of"), (Seats, "take"), (Seats, "squeeze"), (Connection, "_sit_down")]
)
async def test_a_connection_that_finds_no_place_by_a_fault_is_closed_even_if_it_says_nothing(
    start: StartProxy, monkeypatch: pytest.MonkeyPatch, place: tuple[Any, str]
) -> None:
    proxy = await start(limits={"connections": 1})
    with monkeypatch.context() as broken:
        broken.setattr(*place, fail)
        if place[1] == "squeeze":
            broken.setattr(Seats, "take", lambda *_: False)
        assert (await (await proxy.connect()).rest()).got == b""

    assert (await ask(proxy, "GET", "/healthz")).status == 200
    assert proxy.events("request.failed")


async def test_a_fault_in_a_handshake_gives_its_seat_back(
    start: StartProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls, context = speaking_tls(tmp_path)
    proxy = await start(**tls)
    gc.unfreeze()
    (server,) = [thing for thing in gc.get_objects() if isinstance(thing, Server) and not thing.draining]
    with monkeypatch.context() as broken:
        broken.setattr(asyncio.get_running_loop(), "connect_accepted_socket", fail)
        with suppress(OSError):
            assert await ask_in_tls(proxy.port, context) == b""

    assert server.seats.all() == []
    assert (await ask_in_tls(proxy.port, context)).startswith(b"HTTP/1.1 200 ")


async def test_a_deadline_that_cannot_be_looked_at_does_not_stop_the_clock_of_others(
    start: StartProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = await start(limits={"keepalive": 0.3})
    first, second = await proxy.connect(), await proxy.connect()
    await first.ask("GET", "/healthz")
    await second.ask("GET", "/healthz")
    with monkeypatch.context() as once:
        once.setattr(connection.Connection, "_end_early", fail)
        await first.rest()
    third = await proxy.connect()
    await third.ask("GET", "/healthz")

    assert (await third.rest()).got == b""
    assert proxy.events("connection.failed")
