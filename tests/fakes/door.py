"""How callers come to the door of a proxy: in plain HTTP, in TLS, from beyond loopback."""

import asyncio
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.certificates import Authority
from tests.fakes.client import Response
from tests.fakes.proxy import RunningProxy


async def ask(proxy: RunningProxy, method: str, target: str, *fields: bytes, content: bytes = b"") -> Response:
    """One request on a connection of its own."""
    client = await proxy.connect()
    await client.send(client.request(method, target, *fields, content=content))
    got = await client.response(method)
    client.close()
    return got


def speaking_tls(folder: Path) -> tuple[dict[str, Any], ssl.SSLContext]:
    """Settings for a proxy that speaks TLS as localhost, and what a caller needs to trust it."""
    authority = Authority(folder)
    authority.server("localhost")
    (folder / "localhost.pem").chmod(0o600)
    return {"tls_cert_file": str(folder / "localhost.pem")}, ssl.create_default_context(cafile=str(authority.ca_file))


async def ask_in_tls(port: int, context: ssl.SSLContext, fields: bytes = b"", *, target: str = "/api/x") -> bytes:
    """The whole answer to a request over TLS."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
    try:
        writer.write(b"GET %b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n%b\r\n" % (target.encode(), fields))
        return await reader.read()
    finally:
        writer.close()


def own_address(family: socket.AddressFamily = socket.AF_INET) -> str:
    """An address of this machine that is not loopback; the test is skipped where there is none."""
    elsewhere = "192.0.2.1" if family == socket.AF_INET else "2001:db8::1"
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((elsewhere, 9))  # sends nothing; it only asks for the route
        except OSError:
            pytest.skip("this machine has no address beyond loopback")
        return str(probe.getsockname()[0])
