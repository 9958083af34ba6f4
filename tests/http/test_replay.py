"""A request that met a 401 is sent once more, whole, or the caller is told."""

import asyncio

import pytest

from krebit_proxy.tasks import spawn
from tests.fakes.client import Client, Response
from tests.fakes.proxy import StartProxy
from tests.fakes.upstream import Call, Step, Upstream, answer, raw, response, unauthorized
from tests.fakes.waiting import DEADLINE, eventually

CHUNKED = b"Transfer-Encoding: chunked"
LIMIT = 64 << 10  # `replay.max_body` in the tests that set it


def head_without_token(call: Call) -> bytes:
    return call.head.raw.replace(call.token, b"")


def whole(got: Response) -> tuple[int, str, bytes]:
    return got.status, got.code, got.content


async def test_a_rejected_token_is_renewed_and_the_request_sent_again(client: Client, upstream: Upstream) -> None:
    upstream.script = [unauthorized]
    got = await client.ask("PUT", "/api/a%2Fb?", b"X-M: 1", b"User-Agent: t", b"X-M: 2", content=b"hello")
    first, second = upstream.calls

    assert whole(got) == (200, "", b"ok")
    assert (first.token, second.token) == (b"token-1", b"token-2")
    assert head_without_token(first) == head_without_token(second)
    assert bytes(first.content) == bytes(second.content) == b"hello"
    assert len(upstream.tokens.requests) == 1


async def test_a_second_401_is_relayed(client: Client, upstream: Upstream) -> None:
    second = answer(401, b"WWW-Authenticate: Bearer realm=second", b"X-S: 2", content=b"again", reason=b"Still No")
    upstream.script = [unauthorized, second]
    got = await client.ask("GET", "/api/x")

    assert (got.status, got.reason, got.content) == (401, b"Still No", b"again")
    assert got.values(b"www-authenticate") == [b"Bearer realm=second"]
    assert got.values(b"x-s") == [b"2"]
    assert [call.token for call in upstream.calls] == [b"token-1", b"token-2"]
    await client.still_open()


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("size", [LIMIT - 1, LIMIT, LIMIT + 1])
async def test_content_is_replayed_up_to_the_bound(
    start_proxy: StartProxy, upstream: Upstream, size: int, chunked: bool
) -> None:
    upstream.script = [unauthorized]
    client = await (await start_proxy(replay={"max_body": LIMIT})).connect()
    content = b"c" * size
    if chunked:
        await client.send(client.request("POST", "/api/x", CHUNKED) + b"%x\r\n%s\r\n0\r\n\r\n" % (size, content))
        got = await client.response()
    else:
        got = await client.ask("POST", "/api/x", content=content)

    assert all(bytes(call.content) == content for call in upstream.calls)
    if size <= LIMIT:
        assert whole(got) == (200, "", b"ok")
        assert [call.token for call in upstream.calls] == [b"token-1", b"token-2"]
    else:
        assert (got.status, got.code) == (503, "not_replayed")
        assert got.values(b"retry-after")[0].isdigit()
        assert len(upstream.calls) == 1
        again = await client.ask("POST", "/api/x", content=content)
        assert whole(again) == (200, "", b"ok")
        assert upstream.calls[1].token == b"token-2"
    assert len(upstream.tokens.requests) == 1


async def test_chunked_content_is_replayed_whole(client: Client, upstream: Upstream) -> None:
    upstream.script = [unauthorized]
    pieces = [b"%d" % number * 100 for number in range(10)]
    await client.send(client.request("POST", "/api/x", CHUNKED))
    for piece in pieces:
        await client.send(b"%x\r\n%s\r\n" % (len(piece), piece))
    await client.send(b"0\r\n\r\n")
    got = await client.response()

    assert got.status == 200
    assert [bytes(call.content) for call in upstream.calls] == [b"".join(pieces)] * 2
    assert [call.values(b"transfer-encoding") for call in upstream.calls] == [[b"chunked"]] * 2


OAUTH_ERROR = b"Content-Type: application/json"


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (response(400, OAUTH_ERROR, content=b'{"error":"invalid_grant"}'), "reauthorization_required"),
        (response(401, OAUTH_ERROR, content=b'{"error":"invalid_client"}'), "misconfigured"),
        (response(503, b"Retry-After: 7", content=b"later"), "token_unavailable"),
    ],
    ids=["invalid_grant", "invalid_client", "unavailable"],
)
async def test_a_refresh_that_fails_is_our_answer(
    client: Client, upstream: Upstream, failure: bytes, code: str
) -> None:
    upstream.script = [unauthorized]
    upstream.tokens.always = failure
    got = await client.ask("GET", "/api/x")

    assert (got.status, got.code) == (503, code)
    if code == "token_unavailable":
        assert got.values(b"retry-after")[0].isdigit()
    assert len(upstream.tokens.requests) == 1
    assert len(upstream.calls) == 1
    await client.still_open()


async def test_ten_parallel_401s_are_one_refresh(start_proxy: StartProxy, upstream: Upstream) -> None:
    together = asyncio.Barrier(10)

    async def reject(call: Call) -> None:
        await together.wait()
        await unauthorized(call)

    upstream.script = [reject] * 10
    proxy = await start_proxy()
    clients = [await proxy.connect() for _ in range(10)]
    answers = await asyncio.gather(*(client.ask("POST", "/api/x", content=b"hello") for client in clients))

    assert {whole(got) for got in answers} == {(200, "", b"ok")}
    assert sorted(call.token for call in upstream.calls) == [b"token-1"] * 10 + [b"token-2"] * 10
    assert len(upstream.tokens.requests) == 1


async def test_a_late_401_uses_the_token_that_is_there(start_proxy: StartProxy, upstream: Upstream) -> None:
    go = asyncio.Event()

    async def late(call: Call) -> None:
        await go.wait()
        await unauthorized(call)

    upstream.script = [late, unauthorized]
    proxy = await start_proxy()
    one, other = await proxy.connect(), await proxy.connect()
    await one.send(one.request("GET", "/api/late"))
    await upstream.called()
    assert (await other.ask("GET", "/api/x")).status == 200
    go.set()
    got = await one.response()

    assert got.status == 200
    assert len(upstream.tokens.requests) == 1
    assert [call.token for call in upstream.calls if call.target == b"/api/late"] == [b"token-1", b"token-2"]


async def test_a_path_under_suspicion_still_gets_a_newer_token(start_proxy: StartProxy, upstream: Upstream) -> None:
    go = asyncio.Event()

    async def late(call: Call) -> None:
        await go.wait()
        await unauthorized(call)

    proxy = await start_proxy()
    one, other = await proxy.connect(), await proxy.connect()
    upstream.script = [unauthorized, unauthorized]
    assert (await one.ask("GET", "/api/late")).status == 401  # twice: from now on it causes no refresh
    assert (await one.ask("GET", "/api/x")).status == 200  # the new token is accepted
    upstream.script = [late, unauthorized]
    await one.send(one.request("GET", "/api/late"))
    await upstream.called(4)
    assert (await other.ask("GET", "/api/x")).status == 200
    go.set()

    assert (await one.response()).status == 200
    assert len(upstream.tokens.requests) == 2


@pytest.mark.parametrize("form", ["/api/x", "http://localhost/api/x"])
async def test_a_path_that_was_answered_again_is_under_suspicion_no_more(
    start_proxy: StartProxy, upstream: Upstream, form: str
) -> None:
    proxy = await start_proxy()
    client = await proxy.connect()
    upstream.script = [unauthorized, unauthorized]
    assert (await client.ask("GET", "/api/x")).status == 401
    assert (await client.ask("GET", form)).status == 200
    upstream.script = [unauthorized]

    assert (await client.ask("GET", "/api/x")).status == 200
    assert len(upstream.tokens.requests) == 2


async def test_nothing_is_replayed_for_a_caller_that_left(start_proxy: StartProxy, upstream: Upstream) -> None:
    upstream.script = [unauthorized]
    upstream.tokens.open.clear()
    proxy = await start_proxy()
    client, other = await proxy.connect(), await proxy.connect()
    await client.send(client.request("POST", "/api/x", content=b"hello"))
    await eventually(lambda: upstream.tokens.requests)
    client.reset()
    await other.still_open()  # the proxy has looked at its sockets since
    upstream.tokens.open.set()
    got = await other.ask("GET", "/api/y")

    assert got.status == 200
    assert [call.target for call in upstream.calls] == [b"/api/x", b"/api/y"]
    assert len(upstream.tokens.requests) == 1


async def early(call: Call) -> None:
    """A step: 401 at the head, whatever follows; a server that reads on, as most do."""
    await call.send(response(401, b"WWW-Authenticate: Bearer", content=b"early", reason=b"No"))


@pytest.mark.parametrize("size", [1000, LIMIT, 10 * LIMIT], ids=["small", "bound", "beyond"])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_a_401_during_the_upload_is_replayed_whole(
    start_proxy: StartProxy, upstream: Upstream, size: int, chunked: bool
) -> None:
    """What was kept and the rest that the caller still sends make the replay, of any size."""
    upstream.script = [early]
    client = await (await start_proxy(replay={"max_body": LIMIT})).connect()
    content = bytes(number % 251 for number in range(size))
    framing = CHUNKED if chunked else b"Content-Length: %d" % size
    framed = [
        b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece
        for piece in (content[start : start + 500] for start in range(0, size, 500))
    ]
    await client.send(client.request("POST", "/api/x", framing) + framed[0])
    await upstream.called()
    await eventually(lambda: upstream.tokens.requests)
    pump = spawn(client.pump(b"".join(framed[1:]) + (b"0\r\n\r\n" if chunked else b""), 1), name="upload")
    got = await client.response()
    await pump

    assert whole(got) == (200, "", b"ok")
    assert len(upstream.calls) == 2
    assert bytes(upstream.calls[1].content) == content
    assert upstream.calls[1].token == b"token-2"
    assert (await client.ask("GET", "/api/next")).content == b"ok"


async def test_content_beyond_the_bound_that_comes_at_once_is_never_cut(
    start_proxy: StartProxy, upstream: Upstream
) -> None:
    """What is kept is held on to for a moment, since a 401 comes at once. Whoever comes first, nothing is cut."""
    upstream.script = [early]
    client = await (await start_proxy(replay={"max_body": LIMIT})).connect()
    content = b"c" * (10 * LIMIT)
    pump = spawn(client.pump(client.request("POST", "/api/x", content=content), 1), name="upload")
    got = await client.response()

    assert (got.status, got.code) in {(200, ""), (503, "not_replayed")}
    assert [bytes(call.content) for call in upstream.calls[1:]] == ([content] if got.status == 200 else [])
    client.close()
    pump.cancel()


@pytest.mark.parametrize("status", [400, 403, 407, 500, 503])
async def test_other_responses_are_relayed(client: Client, upstream: Upstream, status: int) -> None:
    upstream.script = [answer(status, content=b"mine", reason=b"Mine")]
    got = await client.ask("GET", "/api/x")

    assert (got.status, got.content, got.code) == (status, b"mine", "")
    assert len(upstream.calls) == 1
    assert not upstream.tokens.requests


@pytest.mark.parametrize("size", [1 << 20, 8 << 20])
async def test_a_large_401_does_not_hold_up_the_replay(client: Client, upstream: Upstream, size: int) -> None:
    async def large(call: Call) -> None:
        await call.read()
        await call.send(response(401, content=b"x" * size, reason=b"No"))

    upstream.script = [large]
    got = await client.ask("GET", "/api/x")

    assert whole(got) == (200, "", b"ok")
    assert len(upstream.connections) == 2


async def test_a_401_without_end_does_not_hold_up_the_replay(client: Client, upstream: Upstream) -> None:
    async def endless(call: Call) -> None:
        await call.send(b"HTTP/1.1 401 No\r\nContent-Length: 10\r\n\r\npart")
        await call.gone()

    upstream.script = [endless]
    got = await client.ask("GET", "/api/x")

    assert whole(got) == (200, "", b"ok")
    assert len(upstream.connections) == 2


@pytest.mark.parametrize("lose", [raw(close=True), raw(reset=True)], ids=["closed", "reset"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_replay_that_loses_its_connection_is_the_last(
    client: Client, upstream: Upstream, method: str, lose: Step
) -> None:
    upstream.script = [unauthorized, lose, lose, lose]
    got = await client.ask(method, "/api/x", content=b"hello" if method == "POST" else b"")

    assert got.status == 502
    assert len(upstream.calls) == 2
    await client.still_open()


async def test_an_early_refresh_delays_nobody(start_proxy: StartProxy, upstream: Upstream) -> None:
    upstream.tokens.open.clear()
    client = await (await start_proxy(grant={"expires_in": 100})).connect()
    got = await client.ask("GET", "/api/x")

    assert got.status == 200
    assert upstream.calls[0].token == b"token-1"
    await eventually(lambda: upstream.tokens.requests, what="the early refresh")
    upstream.tokens.open.set()
    async with asyncio.timeout(DEADLINE):
        while upstream.calls[-1].token != b"token-2":
            assert (await client.ask("GET", "/api/x")).status == 200


@pytest.mark.parametrize("framing", [CHUNKED, b"Content-Length: 5000000"], ids=["chunked", "length"])
async def test_a_large_upload_waits_for_a_token_that_lasts(
    start_proxy: StartProxy, upstream: Upstream, framing: bytes
) -> None:
    """More than can be kept, or of unknown length: first a token that is not about to expire."""
    upstream.tokens.open.clear()
    proxy = await start_proxy(grant={"expires_in": 100})
    client = await proxy.connect()
    await client.send(client.request("POST", "/api/x", framing) + b"5\r\nhello\r\n")
    await eventually(lambda: upstream.tokens.requests, what="the refresh")
    upstream.tokens.open.set()
    call = await upstream.called()

    assert call.token == b"token-2"
    client.close()


async def test_what_all_requests_keep_is_bounded(start_proxy: StartProxy, upstream: Upstream) -> None:
    go = asyncio.Event()

    async def reject(call: Call) -> None:
        await call.read()
        await go.wait()
        await unauthorized(call)

    upstream.script = [reject] * 3
    proxy = await start_proxy(replay={"max_body": LIMIT, "max_total": 2 * LIMIT})
    clients = [await proxy.connect() for _ in range(3)]
    for number, client in enumerate(clients):
        await client.send(client.request("POST", f"/api/{number}", content=b"c" * LIMIT))
        call = await upstream.called(number + 1)
        await eventually(lambda call=call: call.complete)  # type: ignore[misc]
    go.set()
    answers = [await client.response() for client in clients]

    assert [(got.status, got.code) for got in answers] == [(200, ""), (200, ""), (503, "not_replayed")]
    # And it is given back: the next one is kept again.
    upstream.script = [unauthorized]
    assert (await clients[0].ask("POST", "/api/x", content=b"c" * LIMIT)).status == 200


async def test_the_token_is_renewed_although_nothing_is_replayed(start_proxy: StartProxy, upstream: Upstream) -> None:
    upstream.script = [unauthorized]
    client = await (await start_proxy(replay={"max_body": 10})).connect()
    got = await client.ask("POST", "/api/x", content=b"c" * 11)
    again = await client.ask("POST", "/api/x", content=b"c" * 11)

    assert (got.status, got.code, again.status) == (503, "not_replayed", 200)
    assert [call.token for call in upstream.calls] == [b"token-1", b"token-2"]


async def test_an_expectation_is_held_back_until_the_token_is_good(start_proxy: StartProxy, upstream: Upstream) -> None:
    """Replay of any size without keeping a byte: the content was never asked for with the rejected token."""

    async def accept(call: Call) -> None:
        assert [value.lower() for value in call.values(b"expect")] == [b"100-continue"]
        await call.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await call.read()
        await call.send(response(content=b"%d" % len(call.content)))

    async def refuse(call: Call) -> None:
        await call.send(response(401, b"WWW-Authenticate: Bearer", content=b"early", reason=b"No"))
        await call.gone()

    upstream.script = [refuse, accept]
    client = await (await start_proxy(replay={"max_body": LIMIT})).connect()
    size = 10 * LIMIT
    await client.send(client.request("PUT", "/api/x", b"Expect: 100-continue", b"Content-Length: %d" % size))
    assert (await client.head()).status == 100
    await client.send(b"c" * size)
    got = await client.response()

    assert (got.status, got.content, got.interim) == (200, b"%d" % size, [])
    assert [call.token for call in upstream.calls] == [b"token-1", b"token-2"]
    assert bytes(upstream.calls[0].content) == b""


async def test_a_path_that_always_says_401_does_not_renew_for_ever(client: Client, upstream: Upstream) -> None:
    upstream.default = unauthorized
    answers = [await client.ask("GET", f"/api/denied?n={number}") for number in range(10)]

    assert {got.status for got in answers} == {401}
    assert len(upstream.tokens.requests) <= 2
    upstream.default = answer()
    assert (await client.ask("GET", "/api/allowed")).status == 200


async def test_the_connection_of_a_small_401_is_used_again(client: Client, upstream: Upstream) -> None:
    upstream.script = [unauthorized]
    await client.ask("POST", "/api/x", content=b"hello")

    assert len(upstream.calls) == 2
    assert len(upstream.connections) == 1


async def test_a_replay_is_framed_as_the_first_was(start_proxy: StartProxy, upstream: Upstream) -> None:
    upstream.script = [unauthorized]
    client = await (await start_proxy()).connect()
    content = b"c" * 200_000
    await client.ask("POST", "/api/x", b"Content-Encoding: gzip", content=content)

    assert [call.values(b"content-length") for call in upstream.calls] == [[b"200000"]] * 2
    assert [bytes(call.content) for call in upstream.calls] == [content] * 2


@pytest.mark.parametrize("method", ["POST", "PATCH"])
async def test_a_lost_connection_is_no_reason_to_send_again(client: Client, upstream: Upstream, method: str) -> None:
    async def lose(call: Call) -> None:
        await call.receive()
        call.connection.reset()

    upstream.script = [lose]
    got = await client.ask(method, "/api/x", content=b"hello")

    assert got.status == 502
    assert len(upstream.calls) == 1


@pytest.mark.parametrize(
    ("challenge", "replayed"),
    [
        (b'Bearer error="insufficient_scope", scope="x"', False),
        (b'Bearer realm="a", error="invalid_token"', True),
        (b"Bearer", True),
        (b'Basic realm="insufficient"', True),
    ],
)
async def test_the_challenge_decides_about_a_replay(
    client: Client, upstream: Upstream, challenge: bytes, replayed: bool
) -> None:
    upstream.script = [answer(401, b"WWW-Authenticate: " + challenge, content=b"no", reason=b"No")]
    got = await client.ask("GET", "/api/x")

    assert got.status == (200 if replayed else 401)
    assert len(upstream.calls) == (2 if replayed else 1)
    assert len(upstream.tokens.requests) == (1 if replayed else 0)


async def test_a_401_without_a_challenge_is_replayed(client: Client, upstream: Upstream) -> None:
    upstream.script = [answer(401, content=b"no", reason=b"No")]

    assert (await client.ask("GET", "/api/x")).status == 200
