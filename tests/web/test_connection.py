"""One caller's connection, and what it needs of aiohttp."""

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from aiohttp import web

from krebit_proxy.config import Settings
from krebit_proxy.core import connection as phases
from krebit_proxy.core.access import Rules
from krebit_proxy.core.secret import Secret
from krebit_proxy.metrics import Metrics
from krebit_proxy.web.call import Call
from krebit_proxy.web.connection import Connection
from krebit_proxy.web.server import Server
from tests.fakes.client import Client
from tests.fakes.waiting import eventually

HEAD = b"HTTP/1.1 200 OK\r\n"


class Stage:
    """A server whose API does what a test says, and what its calls came to."""

    server: Server
    port: int

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.clients: list[Client] = []
        self.ended: list[Call] = []
        self.cancelled = self.aborted = 0
        self.go = asyncio.Event()

    def begin(self, call: Call) -> bool:
        if call.request.target == b"/api/fault-begin":
            raise ZeroDivisionError
        if call.request.target == b"/api/fault-complete":
            call.connection.relay()
            return True
        if call.request.target == b"/api/lost":
            return True
        if call.request.target == b"/api/leave":
            call.attempt = cast("Any", self)
            call.connection.cut(silent=True)
        return False

    def abort(self) -> None:
        self.aborted += 1

    def complete(self, _call: Call) -> bool:
        raise ZeroDivisionError

    async def forward(self, call: Call) -> None:
        self.calls.append(call)
        try:
            if call.request.target == b"/api/wait":
                await self.go.wait()
            if call.request.target == b"/api/fault":
                raise ZeroDivisionError
            if call.request.target == b"/api/fault-within":
                call.write(HEAD + b"Content-Length: 9\r\n\r\n1234", status=200)
                raise ZeroDivisionError
            if call.request.target == b"/api/unframed-fault":
                call.write(HEAD + b"Connection: close\r\n\r\n1234", status=200)
                raise ZeroDivisionError
            if call.request.target == b"/api/late":
                call.write(HEAD + call.connection_field() + b"Content-Length: 2\r\n\r\n", status=200)
                await self.go.wait()
                call.write(b"ok")
                return
            if call.request.target == b"/api/big":
                call.write(HEAD + b"Content-Length: 300000\r\n\r\n" + bytes(300_000), status=200)
                return
            if call.request.target == b"/api/flood":
                call.write(HEAD + b"Content-Length: 1000000000\r\n\r\n", status=200)
                while True:
                    call.write(bytes(1 << 16))
                    await call.drain()
            call.write(HEAD + call.connection_field() + b"Content-Length: 2\r\n\r\nok", status=200)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    @property
    def connection(self) -> Connection:
        (connection,) = self.server.seats.all()
        assert isinstance(connection, Connection)
        return connection

    async def client(self, **options: Any) -> Client:
        self.clients.append(await Client.connect(self.port, **options))
        return self.clients[-1]


@pytest.fixture
async def stage(request: pytest.FixtureRequest) -> AsyncIterator[Stage]:
    """`@pytest.mark.parametrize("stage", [{"keepalive": 0.2}], indirect=True)` sets limits."""
    settings = Settings.model_validate(
        {
            "organization": "acme",
            "client_id": "tests",
            "client_secret": Secret("x"),
            "limits": getattr(request, "param", {}),
            "upstream": {"idle_timeout": 0.5},
        }
    )
    stage = Stage()

    async def page(request: web.BaseRequest) -> web.Response:
        return web.Response(text=f"{request.method} {request.path_qs} {await request.text()}")

    async def host(request: web.BaseRequest) -> web.Response:
        return web.Response(text=f"{request.raw_path} {request.host} {request.headers['X-A']}")

    server = Server(
        settings,
        rules=Rules(),
        api=cast("Any", stage),
        pages={"/setup/paste": page, "/healthz": page, "/host": host},
        metrics=Metrics(),
        observe=stage.ended.append,
    )
    accepting = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    stage.server, stage.port = server, accepting.sockets[0].getsockname()[1]
    yield stage
    for client in stage.clients:
        client.close()
    accepting.close()
    await server.shutdown(0.1)


# What a connection does


async def test_requests_are_answered_in_order_on_one_connection(stage: Stage) -> None:
    client = await stage.client()
    await client.send(client.request("GET", "/api/x") * 40)
    answers = [await client.response() for _ in range(40)]

    assert [answer.content for answer in answers] == [b"ok"] * 40
    assert len(stage.calls) == 40


async def test_a_caller_that_leaves_before_the_task_takes_its_call_leaves_nothing_behind(stage: Stage) -> None:
    client = await stage.client()
    await client.send(client.request("GET", "/api/leave"))
    await eventually(lambda: stage.ended)

    assert [call.outcome.code for call in stage.ended] == ["caller_left"]
    assert (stage.aborted, stage.calls) == (1, [])


async def test_a_caller_that_leaves_cancels_what_is_done_for_it(stage: Stage) -> None:
    client = await stage.client()
    await client.send(client.request("GET", "/api/wait"))
    await eventually(lambda: stage.calls)
    client.close()

    await eventually(lambda: stage.cancelled)
    assert stage.calls[0].outcome.code == "caller_left"


@pytest.mark.parametrize("path", ["fault-within", "unframed-fault"])
async def test_a_fault_after_the_head_is_a_broken_transfer(stage: Stage, path: str) -> None:
    client = await stage.client()
    await client.send(client.request("GET", f"/api/{path}"))
    end = await client.rest()

    assert end.reset
    assert end.got.endswith(b"\r\n\r\n1234")


@pytest.mark.parametrize("path", ["fault", "fault-begin", "fault-complete"])
async def test_a_fault_before_the_head_ends_the_connection_and_nothing_else(stage: Stage, path: str) -> None:
    client = await stage.client()
    await client.send(client.request("GET", f"/api/{path}"))

    assert (await client.rest()).got == b""
    assert (await (await stage.client()).ask("GET", "/api/x")).status == 200


async def test_a_caller_that_takes_nothing_is_ended(stage: Stage) -> None:
    client = await stage.client(receive_buffer=4096)
    await client.send(client.request("GET", "/api/flood"))

    await eventually(lambda: stage.cancelled)


@pytest.mark.parametrize("stage", [{"keepalive": 0.2}], indirect=True)
async def test_an_idle_connection_is_closed_quietly(stage: Stage) -> None:
    client = await stage.client()
    await client.ask("GET", "/api/x")
    end = await client.rest()

    assert (end.got, end.reset) == (b"", False)


@pytest.mark.parametrize("stage", [{"body_timeout": 0.2}], indirect=True)
async def test_content_of_an_answered_request_is_not_waited_for_without_end(stage: Stage) -> None:
    client = await stage.client()
    await client.send(client.request("POST", "/api/x", b"Content-Length: 5") + b"abc")

    assert (await client.response()).status == 200
    assert (await client.rest()).got == b""


async def test_content_that_is_left_is_read_before_the_next_request(stage: Stage) -> None:
    client = await stage.client()
    await client.send(client.request("POST", "/api/x", b"Content-Length: 5"))
    await client.response()
    await client.send(b"hello" + client.request("GET", "/api/y"))
    await client.response()

    assert [call.request.target for call in stage.calls] == [b"/api/x", b"/api/y"]


async def test_much_content_that_is_left_ends_the_connection_after_the_answer(stage: Stage) -> None:
    client = await stage.client()
    await client.send(client.request("POST", "/api/x", b"Content-Length: 10000000") + b"abc")
    answer = await client.response()

    assert answer.closes
    await client.send(b"x" * 100_000)  # would be answered with a reset by a socket that was closed at once
    assert not (await client.rest()).reset


async def test_what_is_sent_ahead_is_bounded(stage: Stage) -> None:
    client = await stage.client()
    await client.send(client.request("GET", "/api/wait"))
    await eventually(lambda: stage.calls)
    connection = stage.connection
    sending = asyncio.ensure_future(client.pump(client.request("GET", "/api/x") * 100, 1000))

    await eventually(lambda: connection.transport and not connection.transport.is_reading())
    stage.go.set()
    await eventually(lambda: len(stage.calls) > 1000)
    sending.cancel()


async def test_much_that_follows_an_offer_is_answered_when_the_offer_is_declined(stage: Stage) -> None:
    client = await stage.client()
    offer = client.request("GET", "/api/wait", b"Connection: Upgrade", b"Upgrade: websocket")
    await client.send(offer)
    await eventually(lambda: stage.calls)
    connection = stage.connection
    following = client.request("GET", "/api/x", b"X-Pad: " + b"x" * 2000)
    sending = asyncio.ensure_future(client.pump(following * 10, 50))
    await eventually(lambda: connection.transport and not connection.transport.is_reading())
    stage.go.set()

    for _ in range(501):
        assert (await client.response()).status == 200
    await sending


async def test_our_pages_are_aiohttps(stage: Stage) -> None:
    client = await stage.client()
    got = await client.ask("POST", "/setup/paste?a=%20b", content=b"hello")
    await client.send(client.request("HEAD", "/setup/paste"))
    head = await client.response("HEAD")

    assert got.content == b"POST /setup/paste?a=%20b hello"
    assert got.values(b"server") == [b"krebit-proxy"]
    assert (head.status, head.content) == (200, b"")
    await client.still_open()


async def test_a_page_sees_the_admitted_authority_as_its_host(stage: Stage) -> None:
    client = await stage.client()
    await client.send(b"GET http://localhost:7/host HTTP/1.1\r\nHost: evil.example\r\nX-A: b\r\n\r\n")

    assert (await client.response()).content == b"/host localhost:7 b"


async def test_too_much_content_for_a_page_is_refused(stage: Stage) -> None:
    client = await stage.client()
    got = await client.ask("POST", "/setup/paste", content=b"x" * 100_000)

    assert (got.status, got.code) == (400, "bad_request")


async def test_http_1_0_is_closed_unless_it_asks(stage: Stage) -> None:
    client = await stage.client()
    await client.send(b"GET /api/x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    kept = await client.response()
    await client.send(b"GET /api/x HTTP/1.0\r\n\r\n")

    assert kept.values(b"connection") == [b"keep-alive"]
    assert (await client.response()).closes
    assert (await client.rest()).got == b""


async def test_answers_that_were_not_taken_for_a_while_come_all_and_in_order(stage: Stage) -> None:
    client = await stage.client(receive_buffer=4096)
    await client.send(client.request("GET", "/api/big") * 60 + client.request("GET", "/api/x"))
    await eventually(lambda: stage.calls and stage.connection.phase is phases.UNREAD)

    for _ in range(60):
        assert len((await client.response()).content) == 300_000
    assert (await client.response()).content == b"ok"


async def test_a_malformed_form_is_refused(stage: Stage) -> None:
    client = await stage.client()
    await client.send(client.request("POST", "/setup/paste", b"Transfer-Encoding: chunked") + b"5\r\nhello\r\nZ\r\n")

    assert (await client.response()).code == "bad_request"


@pytest.mark.parametrize(("path", "phase"), [("/api/lost", phases.SENT), ("/api/wait", phases.WORKING)])
async def test_a_call_that_nobody_answers_is_answered_by_the_deadline_of_its_phase(
    stage: Stage, path: str, phase: phases.ConnectionPhase
) -> None:
    stage.server.deadlines[phase] = 0.2
    client = await stage.client()
    await client.send(client.request("GET", path))

    assert (await client.response()).code == "upstream_timeout"
    await client.still_open()


async def test_a_caller_that_never_closes_is_dropped_after_its_last_answer(stage: Stage) -> None:
    client = await stage.client()
    await client.send(b"garbage\r\n\r\n")
    assert (await client.response()).code == "bad_request"

    await eventually(lambda: not stage.server.seats.all())


# The server over all connections


@pytest.mark.parametrize("stage", [{"connections": 2}], indirect=True)
async def test_the_longest_idle_connection_makes_room(stage: Stage) -> None:
    first, second = await stage.client(), await stage.client()
    await first.ask("GET", "/api/x")
    await second.ask("GET", "/api/x")
    third = await stage.client()

    assert (await third.ask("GET", "/api/x")).status == 200
    assert (await first.rest()).got == b""
    await second.still_open()


@pytest.mark.parametrize("stage", [{"connections": 1}], indirect=True)
async def test_when_all_are_busy_one_more_is_told_so(stage: Stage) -> None:
    busy = await stage.client()
    await busy.send(busy.request("GET", "/api/wait"))
    await eventually(lambda: stage.calls)
    one_more = await stage.client()
    refused = await one_more.response()
    stage.go.set()

    assert (refused.status, refused.code, refused.values(b"retry-after")) == (503, "overloaded", [b"1"])
    assert (await busy.response()).status == 200


async def test_a_shutdown_lets_calls_end_and_closes_idle_connections(stage: Stage) -> None:
    idle, busy = await stage.client(), await stage.client()
    await idle.ask("GET", "/api/x")
    await busy.send(busy.request("GET", "/api/wait"))
    await eventually(lambda: len(stage.calls) == 2)
    stopping = asyncio.ensure_future(stage.server.shutdown(5))

    assert (await idle.rest()).got == b""
    stage.go.set()
    assert (await busy.response()).closes
    await stopping
    assert stage.server.seats.all() == []


async def test_a_shutdown_ends_a_connection_whose_answer_had_promised_to_keep_it(stage: Stage) -> None:
    client = await stage.client()
    await client.send(client.request("GET", "/api/late"))
    assert not (await client.head()).closes
    stopping = asyncio.ensure_future(stage.server.shutdown(5))
    await asyncio.sleep(0)
    stage.go.set()

    assert (await client.rest()).got == b"ok"
    await stopping


async def test_a_shutdown_cuts_what_takes_too_long(stage: Stage) -> None:
    busy = await stage.client()
    await busy.send(busy.request("GET", "/api/wait"))
    await eventually(lambda: stage.calls)
    await stage.server.shutdown(0.05)

    assert (await busy.rest()).reset
    assert stage.cancelled == 1


async def test_a_connection_in_the_middle_of_a_reset_is_let_go(stage: Stage) -> None:
    for _ in range(20):
        sock = socket.create_connection(("127.0.0.1", stage.port))
        sock.send(b"GET /api/x HTTP/1.1\r\nHost: localhost\r\n\r\nGET")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sock.close()

    await eventually(lambda: not stage.server.seats.all())
