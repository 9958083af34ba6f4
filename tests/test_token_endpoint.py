"""One POST to the token endpoint: what is sent, and what each failure comes to."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from krebit_proxy.config import OAuth, Settings, UpstreamSettings
from krebit_proxy.core.secret import Secret
from krebit_proxy.core.token_response import Issued, NotSent, Outcome, Refusal, RefusalKind, Unclear
from krebit_proxy.token_endpoint import TokenEndpoint
from tests.fakes.authorization_server import HALF, RESET, AuthorizationServer
from tests.fakes.certificates import Authority


def endpoint(url: str, **oauth: object) -> TokenEndpoint:
    return TokenEndpoint(
        Settings(
            organization="acme",
            client_id="the app",
            client_secret=Secret("s3/cret"),
            redirect_uri="http://localhost:8321/setup/callback",
            upstream=UpstreamSettings(url=url, connect_timeout=2),
            oauth=OAuth.model_validate(oauth),
        )
    )


@asynccontextmanager
async def tls_server(authority: Authority) -> AsyncIterator[str]:
    runner = web.AppRunner(web.Application(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=authority.server("127.0.0.1")).start()
    try:
        yield f"https://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def said(outcome: Outcome) -> tuple[str, str, RefusalKind]:
    assert isinstance(outcome, Refusal)
    return outcome.error, outcome.description, outcome.kind


@pytest.fixture
async def server() -> AsyncIterator[AuthorizationServer]:
    async with AuthorizationServer() as running:
        yield running


async def test_a_code_is_exchanged_with_the_registered_redirect_uri_and_the_verifier(
    server: AuthorizationServer,
) -> None:
    outcome = await endpoint(server.url).exchange(Secret("good-code"), Secret("the-verifier"))

    assert isinstance(outcome, Issued)
    [request] = server.requests
    assert request.form == {
        "grant_type": "authorization_code",
        "code": "good-code",
        "redirect_uri": "http://localhost:8321/setup/callback",
        "code_verifier": "the-verifier",
        "client_id": "the app",
        "client_secret": "s3/cret",
    }
    assert request.headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert "Authorization" not in request.headers


async def test_without_pkce_no_verifier_is_sent(server: AuthorizationServer) -> None:
    await endpoint(server.url).exchange(Secret("good-code"), None)

    assert "code_verifier" not in server.requests[0].form


async def test_basic_authentication_is_the_only_one_when_it_is_asked_for(server: AuthorizationServer) -> None:
    await endpoint(server.url, client_auth="basic").refresh(Secret("refresh-1"))

    [request] = server.requests
    assert request.headers["Authorization"] == "Basic dGhlK2FwcDpzMyUyRmNyZXQ="  # the+app:s3%2Fcret
    assert request.form == {"grant_type": "refresh_token", "refresh_token": "refresh-1"}


async def test_an_error_response_comes_back_as_what_the_server_said(server: AuthorizationServer) -> None:
    outcome = await endpoint(server.url).exchange(Secret("bad-code"), None)

    assert said(outcome) == ("invalid_grant", "no such code", RefusalKind.VERDICT)


async def test_a_server_that_repeats_what_it_was_sent_gives_no_secret_away(server: AuthorizationServer) -> None:
    server.script.append((400, '{"error": "invalid_client", "error_description": "s3/cret and refresh-1?"}', {}))

    refusal = await endpoint(server.url).refresh(Secret("refresh-1"))

    assert said(refusal) == ("invalid_client", "*** and ***?", RefusalKind.CLIENT)


async def test_nor_does_one_that_repeats_the_credentials_of_its_client(server: AuthorizationServer) -> None:
    server.script.append((401, '{"error": "dGhlK2FwcDpzMyUyRmNyZXQ=", "error_description": "s3%2Fcret"}', {}))
    refusal = await endpoint(server.url, client_auth="basic").refresh(Secret("refresh-1"))

    assert said(refusal) == ("an error code that cannot be shown", "***", RefusalKind.OTHER)


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 201 Created\r\nContent-Type: text/html\r\nContent-Length: %d",
        b"HTTP/1.1 200 OK\r\nno colon\r\nNul: \0\r\nContent-Length: %d\r\nContent-Length: 7",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9%d",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x",
    ],
)
async def test_tokens_are_kept_whatever_else_is_wrong_with_the_answer(head: bytes) -> None:
    content = b'{"access_token":"a","refresh_token":"r","expires_in":60,"token_type":"BearerToken"}'

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"grant_type=refresh_token")
        writer.write(head % len(content) + (b"\r\n" if head.endswith(b"%x") else b"\r\n\r\n") + content)
        writer.close()

    async with await asyncio.start_server(play, "127.0.0.1", 0) as listener:
        url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        outcome = await endpoint(url).refresh(Secret("refresh-1"))

    assert isinstance(outcome, Issued)
    assert (outcome.tokens.access_token, outcome.tokens.refresh_token) == (Secret("a"), Secret("r"))
    assert outcome.warnings


@pytest.mark.parametrize("fault", [RESET, HALF, (500, "oops", {}), (200, "x" * 2_000_000, {})])
async def test_what_breaks_after_the_request_was_sent_is_unclear(server: AuthorizationServer, fault: object) -> None:
    server.script.append(fault)

    assert isinstance(await endpoint(server.url).refresh(Secret("refresh-1")), Unclear)
    assert len(server.requests) == 1  # and is not repeated here


async def test_a_refused_connection_has_spent_nothing() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        outcome = await endpoint(f"http://127.0.0.1:{closed.getsockname()[1]}").refresh(Secret("r"))

    assert outcome == NotSent("no connection")


async def test_a_certificate_that_is_not_trusted_has_spent_nothing(tmp_path: Path) -> None:
    async with tls_server(Authority(tmp_path)) as url:
        assert isinstance(await endpoint(url).refresh(Secret("r")), NotSent)


async def test_a_private_authority_is_trusted_when_it_is_set(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with tls_server(authority) as url:
        settings = Settings(
            organization="acme",
            client_id="app",
            client_secret=Secret("s"),
            upstream=UpstreamSettings(url=url, ca_file=authority.ca_file),
        )
        assert said(await TokenEndpoint(settings).refresh(Secret("r")))[0] == "HTTP status 404"


async def test_a_redirect_is_not_followed_with_the_secret_in_the_content(server: AuthorizationServer) -> None:
    server.script.append((307, "", {"Location": f"{server.url}/api/oauth/token"}))

    assert await endpoint(server.url).refresh(Secret("refresh-1")) == NotSent("HTTP status 307")
    assert len(server.requests) == 1


def behind_a_dead_proxy(url: str) -> TokenEndpoint:
    upstream = UpstreamSettings(url=url, proxy="http://127.0.0.1:1")
    return TokenEndpoint(Settings(organization="acme", client_id="app", client_secret=Secret("s"), upstream=upstream))


@pytest.mark.parametrize("url", ["https://krebit.example", "https://localhost:1"])
async def test_a_corporate_proxy_that_cannot_be_reached_has_spent_nothing(url: str) -> None:
    outcome = await behind_a_dead_proxy(url).refresh(Secret("r"))

    assert outcome == NotSent("no connection to the forward proxy")


async def test_no_proxy_sees_what_goes_unencrypted_to_this_computer(server: AuthorizationServer) -> None:
    assert isinstance(await behind_a_dead_proxy(server.url).refresh(Secret("refresh-1")), Issued)


async def test_revocation_is_best_effort(server: AuthorizationServer) -> None:
    assert await endpoint(server.url, revoke_url=f"{server.url}/oauth/revoke").revoke(Secret("refresh-1"))
    assert server.revoked == ["refresh-1"]
    assert not await endpoint(server.url).revoke(Secret("refresh-1"))
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        gone = f"http://127.0.0.1:{closed.getsockname()[1]}/revoke"
        assert not await endpoint(server.url, revoke_url=gone).revoke(Secret("refresh-1"))
