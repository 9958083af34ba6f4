"""The way to a host: a TCP connection, or the request to a forward proxy for a tunnel."""

import asyncio
import base64
import socket
from typing import Any, Final
from urllib.parse import SplitResult, unquote

import aiohappyeyeballs

from krebit_proxy import USER_AGENT

DEFAULT_PORT: Final = {"https": 443, "http": 80}
_FAMILY_DELAY: Final = 0.25  # RFC 8305, 5: "One recommended value for a default delay is 250 milliseconds"


async def dial(addresses: list[Any]) -> socket.socket:
    """Connects to the first of `addresses` that answers. They are as `getaddrinfo` gives them. Raises OSError."""
    return await aiohappyeyeballs.start_connection(
        addresses, happy_eyeballs_delay=_FAMILY_DELAY, interleave=1, loop=asyncio.get_running_loop()
    )


def tunnel_request(target: str, proxy: SplitResult) -> bytes:
    """The request for a tunnel to `target`, which is `host:port`."""
    # RFC 9110, 9.3.6: the target of CONNECT is "only the host and port number of the tunnel destination".
    fields = "".join(f"{name}: {value}\r\n" for name, value in {"Host": target, **proxy_fields(proxy)}.items())
    return f"CONNECT {target} HTTP/1.1\r\n{fields}\r\n".encode("ascii")


def tunnel_refusal(status: int, challenges: str) -> str:
    """Why a forward proxy gave no tunnel. `challenges`: the value of its Proxy-Authenticate fields."""
    if status == 407 and challenges and "basic" not in challenges.lower():
        return (
            "the forward proxy requires another login than Basic, such as Negotiate or NTLM, but krebit-proxy supports "
            "only Basic; run a helper such as px or cntlm, and set upstream.proxy to it"
        )
    if status == 407:
        return (
            "the forward proxy requires a login (status 407); write it into upstream.proxy: http://USER:PASSWORD@HOST"
        )
    return f"the forward proxy refused the tunnel{f' (status {status})' if status else ''}"


def proxy_fields(proxy: SplitResult) -> dict[str, str]:
    """The fields for a forward proxy: who asks, and the login if its URL has one."""
    fields = {"User-Agent": USER_AGENT}
    if proxy.username is not None:
        pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}".encode()
        fields["Proxy-Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
    return fields
