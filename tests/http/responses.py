"""What tests of responses share."""

from tests.fakes.client import Client, Response
from tests.fakes.upstream import Upstream, raw

CHUNKS = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"3\r\nabc\r\n",
    b"A;x=y\r\n0123456789\r\n",
    b"0\r\n\r\n",
)


async def relayed(
    client: Client, upstream: Upstream, *pieces: bytes, method: str = "GET", close: bool = False
) -> Response:
    """What the client gets of these bytes of the upstream."""
    upstream.script = [raw(*pieces, close=close)]
    return await client.ask(method, "/api/x")


def assert_ours(got: Response, status: int, *codes: str) -> None:
    assert got.status == status, got
    assert got.code in codes, got
    assert b"token-1" not in got.content + got.raw
    assert b"marker" not in got.content + got.raw
