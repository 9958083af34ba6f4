"""The door over real sockets: what is refused never reaches the upstream, and what plain tools send always does."""

import asyncio
import json
import os
import re
import socket
import ssl
from pathlib import Path

import pytest

from krebit_proxy.cli.running_proxy import ask as ask_proxy
from krebit_proxy.errors import ProxyError
from tests.fakes.certificates import Authority
from tests.fakes.client import Client
from tests.fakes.door import ask, ask_in_tls, own_address, speaking_tls
from tests.fakes.proxy import StartProxy, proxy_process, running_command, running_proxy
from tests.fakes.upstream import Upstream, answer
from tests.fakes.waiting import DEADLINE, eventually

EVIL = b"Origin: http://evil.example"
CROSS = b"Sec-Fetch-Site: cross-site"


@pytest.mark.parametrize(
    ("request_line", "fields", "code"),
    [
        (("GET", "/api/x"), [EVIL], "cross_site"),
        (("GET", "/api/x"), [b"Origin: null"], "cross_site"),
        (("GET", "/api/x"), [CROSS], "cross_site"),
        (("GET", "/api/x"), [b"Sec-Fetch-Site: same-site"], "cross_site"),
        (("GET", "/api/x"), [b"sec-fetch-site: none", b"Sec-Fetch-Site: none"], "cross_site"),
        (("POST", "/api/x"), [EVIL, CROSS], "cross_site"),
        (("GET", "/api/x"), [EVIL, b"Connection: Upgrade", b"Upgrade: websocket"], "cross_site"),
        (("OPTIONS", "/api/x"), [EVIL, b"Access-Control-Request-Method: GET"], "cross_site"),
        (("OPTIONS", "/api/x"), [b"Access-Control-Request-Method: GET"], "cross_site"),
        (("GET", "/metrics"), [EVIL], "cross_site"),
        (("GET", "/"), [CROSS, b"Sec-Fetch-Mode: navigate", b"Sec-Fetch-Dest: iframe"], "cross_site"),
        (("GET", "/setup"), [CROSS, b"Sec-Fetch-Mode: no-cors"], "cross_site"),
        (("GET", "/api/x"), [b"Referer: http://evil.example/page"], "cross_site"),
        (("POST", "/api/x"), [b"Referer: http://evil.example/page"], "cross_site"),
        (("GET", "/setup"), [b"Referer: http://evil.example/page", b"Accept: image/*"], "cross_site"),
        (("GET", "/api/x"), [b"Service-Worker: script", b"Sec-Fetch-Site: same-origin"], "cross_site"),
        (("GET", "http://evil.example/api/x"), [], "host_not_allowed"),
        (("GET", "/api/../x"), [], "forbidden_path"),
        (("GET", "/api/%2e%2e/x"), [], "forbidden_path"),
        (("GET", "/api/oauth/token"), [], "forbidden_path"),
        (("TRACE", "/api/x"), [], "method_not_allowed"),
    ],
)
async def test_what_is_refused_is_told_and_never_reaches_the_upstream(
    start: StartProxy, upstream: Upstream, request_line: tuple[str, str], fields: list[bytes], code: str
) -> None:
    proxy = await start()
    got = await ask(proxy, *request_line, *fields)
    assert got.code == code
    assert not got.values(b"access-control-allow-origin")
    assert got.values(b"cross-origin-resource-policy") == [b"same-origin"]
    assert (await ask(proxy, "GET", "/api/canary")).status == 200
    assert [call.target for call in upstream.calls] == [b"/api/canary"]
    (event,) = [event for event in proxy.events("request.done") if event.get("code")]
    assert (event["code"], event["caller"], event["peer"]) == (code, "loopback", "127.0.0.1")


@pytest.mark.parametrize("host", [b"evil.example", b"localhost.evil.example", b"127.0.0.1.nip.io", b"0.0.0.0", b""])
async def test_a_rebound_host_is_refused_on_every_route(start: StartProxy, upstream: Upstream, host: bytes) -> None:
    proxy = await start()
    for target in (b"/api/x", b"/", b"/setup", b"/healthz", b"/readyz", b"/metrics"):
        client = await proxy.connect()
        await client.send(b"GET %b HTTP/1.1\r\nHost: %b\r\n\r\n" % (target, host))
        got = await client.response()
        assert (got.status, got.code) == (421, "host_not_allowed")
    assert upstream.calls == []


async def test_a_stranger_decides_nothing_of_what_pages_errors_and_the_log_say(
    upstream: Upstream, tmp_path: Path
) -> None:
    """Before setup, with a redirect URI that leads elsewhere: nothing but requests shows where the proxy is."""
    config = {
        "organization": "acme",
        "client_id": "tests",
        "client_secret": "marker-client-secret",
        "redirect_uri": "https://old.example/cb",
        "listen": ["127.0.0.1:0"],
        "upstream": {"url": upstream.url},
        "log": {"format": "json"},
    }
    evil = b"Host: evil.example\r\nX-Forwarded-Host: evil.example\r\nForwarded: host=evil.example\r\n"
    heads = [
        b"GET http://localhost/setup HTTP/1.1\r\n%bVia: x\r\n",
        b"GET http://localhost:6666/setup HTTP/1.1\r\n%bVia: x\r\n",
        b"GET http://localhost/ HTTP/1.1\r\n%bAccept: application/json\r\n",
        b"GET http://localhost/api/x HTTP/1.1\r\n%b",
        b"GET http://localhost/setup/nowhere HTTP/1.1\r\n%bAccept: text/html\r\n",
        b"GET /setup HTTP/1.1\r\n%b",
        b"GET /api/x HTTP/1.1\r\n%bHost: localhost\r\n",
        b"GET http://evil.example/setup HTTP/1.1\r\nHost: localhost\r\n%.0b",
        b"GET /setup HTTP/1.0\r\nVia: x\r\nX-Forwarded-Host: evil.example\r\n%.0b",
        b"POST /api/x HTTP/1.0\r\nX-Forwarded-Host: evil.example\r\n%.0b",
        b"GET /setup HTTP/1.1\r\n%bBad Header\r\n",
    ]
    async with running_command(config, tmp_path) as proxy:
        for head in heads:
            client = await proxy.connect()
            await client.send(head % evil + b"\r\n")
            got = await client.response()
            said = got.raw + got.content
            # A refusal may name the host that it refuses, which is then no link.
            assert b"://evil" not in said.lower()
            assert b"evil.example" not in said.replace(b"does not answer requests for evil.example", b"")
            client.close()
        await eventually(lambda: proxy.log_file.read_text().count('"request.done"') == len(heads))
        written = proxy.log_file.read_text()
    events = [json.loads(line) for line in written.splitlines()]
    assert "evil" not in written
    links = [event["open"] for event in events if "open" in event]
    assert len(links) == 4
    assert {link.partition("/setup")[0] for link in links} == {f"http://127.0.0.1:{proxy.port}"}


async def test_an_allowed_host_and_the_literal_addresses_are_served(start: StartProxy) -> None:
    proxy = await start(access={"allowed_hosts": ["proxy.example"]})
    for host in (b"proxy.example:80", b"LOCALHOST", b"x.localhost:1", b"127.0.0.9", b"[::1]:5"):
        client = await proxy.connect()
        await client.send(b"GET /api/x HTTP/1.1\r\nHost: %b\r\n\r\n" % host)
        assert (await client.response()).status == 200


@pytest.mark.parametrize(
    "lines",
    [
        [b"GET /api/x HTTP/1.1", b"Host: localhost:8321", b"User-Agent: curl/8.5.0", b"Accept: */*"],
        [b"GET /api/x HTTP/1.1", b"Host: localhost", b"User-Agent: Wget/1.24", b"Connection: Keep-Alive"],
        [b"GET /api/x HTTP/1.1", b"host: localhost", b"sec-fetch-mode: cors", b"user-agent: node"],
        [b"GET http://localhost:8321/api/x HTTP/1.1", b"Host: localhost:8321", b"Proxy-Connection: keep-alive"],
        [
            b"GET /api/x HTTP/1.1",
            b"Connection: Upgrade, HTTP2-Settings",
            b"Host: localhost",
            b"HTTP2-Settings: AAEAAEAA",
            b"Upgrade: h2c",
            b"User-Agent: Java-http-client/21",
        ],
        [b"GET /api/x HTTP/1.1", b"Host: localhost", b"Referer: http://localhost/api/", b"User-Agent: WWW-Mechanize"],
        [b"GET /api/x HTTP/1.0", b"User-Agent: ab"],
        [b"GET /api/x HTTP/1.0", b"Host: localhost", b"Authorization: Basic Og=="],
    ],
)
async def test_plain_tools_need_no_setting(start: StartProxy, upstream: Upstream, lines: list[bytes]) -> None:
    client = await (await start()).connect()
    await client.send(b"\r\n".join(lines) + b"\r\n\r\n")
    assert (await client.response()).status == 200
    assert upstream.calls[0].target == b"/api/x"
    assert upstream.calls[0].token == b"token-1"


async def test_an_allowed_origin_reads_answers_and_errors_by_our_own_cors(
    start: StartProxy, upstream: Upstream
) -> None:
    proxy = await start(access={"allowed_origins": ["http://app.example"]})
    upstream.default = answer(200, b"Access-Control-Allow-Origin: *", b"Access-Control-Allow-Credentials: true")
    app = b"Origin: http://app.example"
    got = await ask(proxy, "GET", "/api/x", app, CROSS)
    assert got.values(b"access-control-allow-origin") == [b"http://app.example"]
    assert not got.values(b"access-control-allow-credentials")
    assert not got.values(b"cross-origin-resource-policy")
    assert got.values(b"vary") == [b"Origin"]

    wants = (b"Access-Control-Request-Method: PUT", b"Access-Control-Request-Headers: content-type")
    preflight = await ask(proxy, "OPTIONS", "/api/x", app, *wants)
    assert preflight.status == 204
    assert preflight.values(b"access-control-allow-methods") == [b"PUT"]
    assert preflight.values(b"access-control-allow-headers") == [b"content-type"]
    assert len(upstream.calls) == 1

    refused = await ask(proxy, "GET", "/api/../x", app)
    assert refused.code == "forbidden_path"
    assert refused.values(b"access-control-allow-origin") == [b"http://app.example"]
    assert (await ask(proxy, "GET", "/api/x", b"Origin: http://app.example.evil")).code == "cross_site"


async def test_keys_let_named_callers_in_and_stay_here(start: StartProxy, upstream: Upstream, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("billing:marker-key\n")
    keys.chmod(0o600)
    proxy = await start(access={"client_keys_file": keys})
    refused = await ask(proxy, "GET", "/api/x", b"X-Api-Key: wrong")
    assert (refused.status, refused.code) == (401, "client_key_required")
    assert refused.values(b"www-authenticate")
    for field in (
        b"X-Api-Key: marker-key",
        b"Authorization: Bearer marker-key",
        b"Authorization: Basic bWFya2VyLWtleTo=",
        b"Authorization: Basic dXNlcjptYXJrZXIta2V5",
    ):
        assert (await ask(proxy, "GET", "/api/x", field)).status == 200
    assert len(upstream.calls) == 4
    for call in upstream.calls:
        assert call.token == b"token-1"
        assert not call.values(b"x-api-key")
    assert "marker-key" not in proxy.written()
    assert [event["caller"] for event in proxy.events("request.done")] == ["loopback", *["billing"] * 4]
    metrics = await ask(proxy, "GET", "/metrics")
    assert b'krebit_proxy_caller_requests_total{caller="billing"} 4.0' in metrics.content


async def test_a_key_that_is_taken_out_of_the_file_opens_nothing_any_more(start: StartProxy, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("billing:key-1\nstock:key-2\n")
    keys.chmod(0o600)
    proxy = await start(access={"client_keys_file": keys})
    client = await proxy.connect()  # which stays connected meanwhile
    assert (await client.ask("GET", "/api/x", b"X-Api-Key: key-1")).status == 200
    keys.write_text("stock:key-2\nsales:key-3\n")
    await eventually(lambda: proxy.events("access.keys_read"))
    told = [(await client.ask("GET", "/api/x", b"X-Api-Key: key-%d" % number)).status for number in (1, 2, 3)]
    assert told == [401, 200, 200]


async def test_whoever_guesses_keys_is_slowed_down_and_nobody_else(
    start: StartProxy, upstream: Upstream, tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.write_text("billing:short\nstock:short-2\nsales:6f1b9c2d4e5a70836f1b9c2d4e5a7083\n")
    keys.chmod(0o600)
    proxy = await start(access={"client_keys_file": keys})
    client = await proxy.connect()
    assert (await client.ask("GET", "/api/x", b"X-Api-Key: short")).status == 200
    answers = [await client.ask("GET", "/api/x", b"X-Api-Key: guess-%d" % number) for number in range(200)]
    told = [got.status for got in answers]
    assert told[:10] == [401] * 10
    assert told.count(429) > 150  # all but a few, however slow this machine is
    slowed = answers[told.index(429)]
    assert slowed.code == "rate_limited"
    assert int(slowed.values(b"retry-after")[0]) >= 1
    assert (await client.ask("GET", "/api/x", b"X-Api-Key: short")).status == 200  # it was used from here before
    assert (await client.ask("GET", "/api/x", b"X-Api-Key: 6f1b9c2d4e5a70836f1b9c2d4e5a7083")).status == 200
    assert (await client.ask("GET", "/api/x")).status == 401  # without any key, nothing is guessed
    assert len(upstream.calls) == 3
    cautions = [event["text"] for event in proxy.events("settings.caution")]
    assert [caution.split()[5] for caution in cautions] == ["billing", "stock"]
    await proxy.stop()
    counts = [(event["peer"], event["count"]) for event in proxy.events("access.wrong_keys")]
    assert counts == [("this computer", 1), ("this computer", 199)]
    assert "guess-" not in proxy.written()


async def test_the_policy_is_by_what_a_path_means(start: StartProxy, upstream: Upstream) -> None:
    rules = [{"methods": ["GET"], "paths": ["/api/invoices/{id}"]}]
    proxy = await start(access={"allow": rules, "require_header": "X-Krebit-Proxy"})
    tool = b"X-Krebit-Proxy: 1"
    assert (await ask(proxy, "GET", "/api/invoices/7?x", tool)).status == 200
    assert (await ask(proxy, "GET", "/api/%69nvoices/7", tool)).status == 200
    assert (await ask(proxy, "GET", "/api/invoices/7")).code == "client_not_allowed"
    for target in ("/api/invoices/7%2Fpdf", "/api/invoices", "/api/invoices/7/pdf", "/api/other"):
        refused = await ask(proxy, "GET", target, tool)
        assert refused.code == "forbidden_path"
        assert b"To allow it, add to access.allow: " in refused.content
    assert (await ask(proxy, "POST", "/api/invoices/7", tool, b"X-HTTP-Method-Override: GET")).status == 405
    assert (await ask(proxy, "GET", "/api/invoices/7", tool, b"X-Original-Method: DELETE")).status == 405
    assert (await ask(proxy, "GET", "/api/invoices/7", tool, b"X-Rewrite-URL: /api/other")).status == 403
    assert len(upstream.calls) == 2


@pytest.mark.parametrize("method", ["PUT", "TRACE"])
async def test_a_method_that_a_page_does_not_know_is_told_with_those_that_it_does(
    start: StartProxy, method: str
) -> None:
    proxy = await start()
    pages = {
        "/": b"GET, HEAD",
        "/healthz": b"GET, HEAD",
        "/readyz": b"GET, HEAD",
        "/metrics": b"GET, HEAD",
        "/setup": b"GET",
        "/setup/paste": b"GET, POST",
        "/setup/done": b"GET, HEAD",
        "/setup/callback": b"GET",
    }
    answers = {path: await ask(proxy, method, path) for path in pages}
    assert {path: b", ".join(got.values(b"allow")) for path, got in answers.items()} == pages
    assert {got.status for got in answers.values()} == {405}


async def test_read_only_refuses_what_writes(start: StartProxy, upstream: Upstream) -> None:
    proxy = await start(access={"read_only": True})
    assert (await ask(proxy, "HEAD", "/api/x")).status == 200
    refused = await ask(proxy, "DELETE", "/api/x")
    assert (refused.status, refused.code) == (405, "method_not_allowed")
    assert refused.values(b"allow") == [b"GET, HEAD, OPTIONS"]
    assert len(upstream.calls) == 1


async def test_a_peer_outside_the_networks_is_refused_but_may_ask_how_things_stand(start: StartProxy) -> None:
    proxy = await start(access={"allow_clients": ["10.0.0.0/8"]})
    assert (await ask(proxy, "GET", "/api/x")).code == "client_not_allowed"
    assert (await ask(proxy, "GET", "/healthz")).status == 200


async def test_a_unix_socket_serves_its_owner_by_any_host(
    start: StartProxy, upstream: Upstream, tmp_path: Path
) -> None:
    path = tmp_path / "proxy.sock"
    await start(listen=(f"unix:{path}",), access={"allow_clients": [f"uid:{os.getuid()}"]})
    sock = socket.socket(socket.AF_UNIX)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, str(path))
    client = Client(sock, b"whatever.example")
    assert (await client.ask("GET", "/api/x")).status == 200
    upstream.default = answer(302, b"Location: %b/api/y" % upstream.url.encode())
    assert (await client.ask("GET", "/api/x")).values(b"location") == [b"/api/y"]
    status = await client.ask("GET", "/", b"Accept: application/json")
    assert (status.status, b"whatever" in status.content) == (200, False)
    assert (await client.ask("GET", "/api/x", b"Origin: http://whatever.example")).code == "host_not_allowed"
    client.close()


async def test_a_unix_socket_without_a_path_says_nothing_of_the_host_either(
    start: StartProxy, upstream: Upstream
) -> None:
    with socket.socket(socket.AF_UNIX) as passed:
        passed.bind("")  # an abstract address
        passed.listen()
        await start(listen=(f"fd:{os.dup(passed.fileno())}",), redirect_uri="https://old.example/cb")
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, passed.getsockname())
        client = Client(sock, b"evil.example")
        got = await client.ask("GET", "/", b"Accept: application/json")
        client.close()
    assert got.status == 200
    assert json.loads(got.content)["example"] == "curl http://localhost/api/"
    assert b"evil" not in got.content


async def test_a_caller_may_speak_tls(start: StartProxy, upstream: Upstream, tmp_path: Path) -> None:
    tls, context = speaking_tls(tmp_path)
    proxy = await start(**tls)
    upstream.default = answer(302, b"Location: %b/api/y" % upstream.url.encode())
    own = b"Origin: https://localhost\r\nSec-Fetch-Site: same-origin\r\n"
    got = await ask_in_tls(proxy.port, context, own)
    assert got.startswith(b"HTTP/1.1 302")
    assert b"\r\nLocation: https://localhost/api/y\r\n" in got


async def test_a_refused_caller_is_told_over_tls_too_that_this_is_the_end(start: StartProxy, tmp_path: Path) -> None:
    tls, context = speaking_tls(tmp_path)
    port = (await start(**tls)).port

    def send() -> bytes:
        """All that comes. An end without close_notify is an error."""
        with (
            socket.create_connection(("127.0.0.1", port), DEADLINE) as sock,
            context.wrap_socket(sock, server_hostname="localhost", suppress_ragged_eofs=False) as caller,
        ):
            caller.sendall(b"GET /api/x HTTP/9.9\r\n\r\n")
            return b"".join(iter(lambda: caller.recv(1 << 16), b""))

    assert (await asyncio.to_thread(send)).startswith(b"HTTP/1.1 505 ")


async def test_a_caller_keeps_its_rate(start: StartProxy, upstream: Upstream) -> None:
    proxy = await start(limits={"rate": 0.01, "burst": 2})
    answers = [await ask(proxy, "GET", "/api/x") for _ in range(3)]
    assert [got.status for got in answers] == [200, 200, 429]
    assert answers[2].code == "rate_limited"
    assert 0 < int(answers[2].values(b"retry-after")[0]) <= 100
    assert (await ask(proxy, "GET", "/healthz")).status == 200
    assert len(upstream.calls) == 2


async def test_the_process_leaves_no_core(upstream: Upstream, tmp_path: Path) -> None:
    async with proxy_process(upstream, tmp_path) as proxy:
        limits = (Path("/proc") / str(proxy.process.pid) / "limits").read_text()
    assert re.search(r"Max core file size +0 +0 ", limits)


async def test_the_commands_reach_a_proxy_that_speaks_tls_and_asks_for_certificates(
    start: StartProxy, upstream: Upstream, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    authority.server("proxy.example")
    (tmp_path / "proxy.example.pem").chmod(0o600)
    tls = {"tls_cert_file": tmp_path / "proxy.example.pem", "tls_client_ca_file": authority.ca_file}
    proxy = await start(**tls)
    reachable = proxy.settings.model_copy(update={"listen": (f"127.0.0.1:{proxy.port}",)})
    assert (await asyncio.to_thread(ask_proxy, reachable, "/healthz")).status == 200
    with pytest.raises(ProxyError, match="refuses the request: This client is not allowed"):
        await asyncio.to_thread(ask_proxy, reachable, "/api/x")
    assert upstream.calls == []


async def test_a_connection_ends_when_the_authority_that_let_it_in_is_gone(
    start: StartProxy, upstream: Upstream, tmp_path: Path
) -> None:
    (tmp_path / "new").mkdir()
    old, new = Authority(tmp_path), Authority(tmp_path / "new")
    for name in ("localhost", "caller.example"):
        old.server(name)
        (tmp_path / f"{name}.pem").chmod(0o600)
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(old.ca_file.read_bytes())
    proxy = await start(tls_cert_file=tmp_path / "localhost.pem", tls_client_ca_file=trusted)
    context = ssl.create_default_context(cafile=str(old.ca_file))
    context.load_cert_chain(tmp_path / "caller.example.pem")
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port, ssl=context, server_hostname="localhost")

    async def answered() -> bytes:
        writer.write(b"GET /api/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
        return await reader.readuntil(b"\r\n\r\n")

    assert b" 200 " in await answered()
    trusted.write_bytes(old.ca_file.read_bytes() + new.ca_file.read_bytes())
    await eventually(lambda: "tls.certificate_read" in proxy.written())
    assert b" 200 " in await answered()  # one more is no reason to end anything
    trusted.write_bytes(new.ca_file.read_bytes())
    async with asyncio.timeout(DEADLINE):
        await reader.read()
    writer.close()
    assert [event["event"] for event in proxy.events() if event["event"] == "tls.authority_gone"]
    assert len(upstream.calls) == 2


async def test_the_commands_reach_a_proxy_that_lets_others_in_but_not_this_computer(start: StartProxy) -> None:
    beyond = own_address()
    proxy = await start(listen=(f"{beyond}:0",), access={"expose": True, "allow_clients": ["198.51.100.0/24"]})
    reachable = proxy.settings.model_copy(update={"listen": (f"{beyond}:{proxy.port}",)})
    assert (await asyncio.to_thread(ask_proxy, reachable, "/healthz")).status == 200


async def test_pages_show_details_to_those_who_may_call_and_are_no_place_to_guess_keys(
    start: StartProxy, tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.write_text("billing:short\n")
    keys.chmod(0o600)
    proxy = await start(access={"client_keys_file": keys, "require_header": "X-Krebit-Proxy"})
    client = await proxy.connect()
    header, key, wish = b"X-Krebit-Proxy: 1", b"X-Api-Key: short", b"Accept: application/json"

    for fields in ([], [header], [key], [header, b"X-Api-Key: wrong"]):
        for got in (await client.ask("GET", "/", *fields), await client.ask("GET", "/", wish, *fields)):
            assert got.status == 200
            assert b"acme" not in got.content
    assert b'"organization": "acme"' in (await client.ask("GET", "/", wish, header, key)).content
    assert b"Connected to acme" in (await client.ask("GET", "/", header, key)).content
    told = [(await client.ask("GET", "/", header, b"X-Api-Key: guess-%d" % number)).status for number in range(50)]
    assert told.count(429) > 20  # all but a few, however slow this machine is
    assert [(await client.ask("GET", path, header)).status for path in ("/", "/readyz", "/healthz")] == [200] * 3


async def test_nobody_is_told_where_the_store_is(start: StartProxy, tmp_path: Path) -> None:
    proxy = await start(grant={"expires_in": -5})
    place = proxy.settings.store.removeprefix("file:")
    [file] = Path(place).glob("*.json")
    file.write_text("{")
    await eventually(lambda: proxy.events("grant.store_failed"))
    assert str(file) in proxy.written()
    for path in ("/api/x", "/", "/readyz", "/healthz", "/metrics", "/setup"):
        for accept in (b"Accept: text/html", b"Accept: application/json"):
            assert str(tmp_path).encode() not in (await ask(proxy, "GET", path, accept)).content


@pytest.mark.parametrize("method", [b"GET", b"POST"])
async def test_plain_http_on_a_port_that_speaks_tls_is_told_and_named_in_the_log(
    start: StartProxy, tmp_path: Path, method: bytes
) -> None:
    tls, context = speaking_tls(tmp_path)
    proxy = await start(**tls)
    for _ in range(2):
        client = await proxy.connect()
        await client.send(b"%b /api/x HTTP/1.1\r\nHost: localhost\r\n\r\n" % method)
        got = await client.response()
        assert (got.status, got.code) == (400, "bad_request")
        assert b"https://" in got.content
        await client.closed()
    (event,) = proxy.events("connection.wrong_protocol")
    assert event["reason"] == f"Plain HTTP was spoken to a TLS port: use https://localhost:{proxy.port}"
    assert {event["reason"] for event in proxy.events("connection.refused")} == {"plain HTTP was spoken to a TLS port"}
    assert (await ask_in_tls(proxy.port, context)).startswith(b"HTTP/1.1 200 ")


async def test_connect_is_told_that_an_http_url_works(start: StartProxy, upstream: Upstream) -> None:
    client = await (await start()).connect()
    await client.send(b"CONNECT yourcompany.krebit.se:443 HTTP/1.1\r\nHost: yourcompany.krebit.se:443\r\n\r\n")
    got = await client.response()
    assert (got.status, got.code) == (405, "method_not_allowed")
    assert b"Use an http:// URL" in got.content
    assert not upstream.calls


async def test_a_tool_that_has_us_as_its_http_proxy_reaches_the_api_by_krebits_name_and_nothing_else(
    tmp_path: Path,
) -> None:
    options = {"connect_timeout": 1}
    async with running_proxy("https://acme.krebit.invalid", tmp_path, upstream=options) as proxy:
        for target, host, code in (
            ("http://acme.krebit.invalid/api/x", b"acme.krebit.invalid", "upstream_unreachable"),  # it was let through
            ("http://acme.krebit.invalid/healthz", b"acme.krebit.invalid", "host_not_allowed"),
            ("http://acme.krebit.invalid/setup", b"acme.krebit.invalid", "host_not_allowed"),
            ("http://other.krebit.invalid/api/x", b"other.krebit.invalid", "host_not_allowed"),
            ("/api/x", b"acme.krebit.invalid", "host_not_allowed"),
        ):
            client = await proxy.connect()
            await client.send(b"GET %b HTTP/1.1\r\nHost: %b\r\n\r\n" % (target.encode(), host))
            assert (await client.response()).code == code, target


async def test_a_port_beyond_the_last_is_a_bad_request(start: StartProxy) -> None:
    proxy = await start()
    for target in ("http://localhost:99999/healthz", "http://localhost:99999/api/x"):
        got = await ask(proxy, "GET", target)
        assert (got.status, got.code) == (400, "bad_request")
