"""Hostile callers of all kinds at once, from two addresses, beside one who behaves well. How does that one fare?

    python tests/benchmarks/hostile.py --minutes 15

The proxy listens beyond loopback, wants a client key, and has room for 200 connections. Each kind of attack tries to
hold ten connections from each address, without a key, and begins anew whenever one ends. Meanwhile one caller with a
key calls twenty times a second, on new connections and on kept ones, and a probe asks for /healthz once a second. At
the end: what both waited, what failed, and what memory the proxy has before, at most, and ten seconds after.
"""

import argparse
import asyncio
import random
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[2]))

from krebit_proxy.cli.demo import free_port
from tests.fakes.client import Client, Ended
from tests.fakes.proxy import ProxyProcess, proxy_process
from tests.fakes.upstream import Call, Step, Upstream

KEY: Final = "steady-caller-0123456789abcdef"
EACH: Final = 10  # connections of each kind from each address
ROOM: Final = 200  # limits.connections
RATE: Final = 20  # calls a second of the one who behaves well
LATE: Final = 30.0  # seconds after which a call counts as failed
ESTABLISHED: Final = b"\x01"  # tcpi_state of Linux
REST: Final = 10  # seconds after the attack, until the memory is looked at again

Sending = AsyncIterator[bytes]
HOST: Final = b"Host: localhost\r\n"
GET: Final = b"GET /api/x HTTP/1.1\r\n" + HOST


async def slowly(data: bytes, seconds: float, then: bytes = b"") -> Sending:
    """`data`, one byte each so many seconds after another, after `then`."""
    if then:
        yield then
    for at in range(len(data)):
        yield data[at : at + 1]
        await asyncio.sleep(seconds)


async def at_once(*parts: bytes) -> Sending:
    for part in parts:
        yield part


def keys(number: int) -> bytes:
    return b"".join(b"X-Api-Key: %d\r\n" % guess for guess in range(number))


def odd_head() -> bytes:
    """A head of 16 kB that no other is equal to."""
    names = b"".join(b"X-%x: %x\r\n" % (random.getrandbits(64), random.getrandbits(64)) for _ in range(380))
    return GET + names + b"\r\n"


FORM: Final = b"POST /setup/paste HTTP/1.1\r\n" + HOST + b"Content-Type: application/x-www-form-urlencoded\r\n"
CHUNKED: Final = b"POST /api/x HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
FOREIGN: Final = b"Origin: https://evil.example\r\nReferer: https://evil.example/\r\n"

# What each kind sends; afterwards it stays and reads nothing, until it is ended.
ATTACKS: Final[dict[str, Callable[[], Sending]]] = {
    "says nothing": at_once,
    "half a head": lambda: at_once(GET),
    "a head by the byte": lambda: slowly(b"X-A: " + b"a" * 500, 0.5, then=GET),
    "a byte each 1.5 s after a refusal": lambda: slowly(
        b"x" * 1000, 1.5, then=b"POST /api/x HTTP/1.1\r\n" + HOST + b"Content-Length: 60000\r\n\r\n"
    ),
    "content for a page": lambda: slowly(
        b"x" * 1000, 1.5, then=b"POST /healthz HTTP/1.1\r\n" + HOST + b"Content-Length: 60000\r\n\r\n"
    ),
    "a form by the byte": lambda: slowly(b"a" * 1000, 1.5, then=FORM + b"Content-Length: 2000\r\n\r\n"),
    "chunks by the byte": lambda: slowly(b"1\r\nx\r\n" * 500, 0.2, then=CHUNKED),
    "tiny chunks": lambda: at_once(CHUNKED + b"1\r\nx\r\n" * 20_000),
    "wrong keys": lambda: at_once((GET + keys(1) + b"\r\n") * 20),
    "900 keys": lambda: at_once(GET + keys(900) + b"\r\n"),
    "pages that nobody takes": lambda: at_once((b"GET / HTTP/1.1\r\n" + HOST + b"\r\n") * 2000),
    "refusals that nobody takes": lambda: at_once((GET + b"\r\n") * 5000),
    "rebinding": lambda: at_once(b"GET /api/x HTTP/1.1\r\nHost: evil.example\r\n\r\n"),
    "absolute": lambda: at_once(b"GET http://localhost/setup HTTP/1.1\r\nHost: evil.example\r\nVia: x\r\n\r\n"),
    "another site": lambda: at_once(GET + FOREIGN + b"\r\n"),
    "no target": lambda: at_once(b"GET ftp://a/ HTTP/1.1\r\n" + HOST + b"\r\n"),
    "no port": lambda: at_once(b"GET http://localhost:99999/healthz HTTP/1.1\r\n" + HOST + b"\r\n"),
    "another protocol": lambda: at_once(b"SOURCE /api/a ICE/1.0\r\n" + HOST + b"\r\n"),
    "HTTP/2": lambda: at_once(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "TLS": lambda: at_once(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500)),
    "garbage": lambda: at_once(random.randbytes(3000)),
    "odd heads": lambda: at_once(odd_head()),
    "cookies": lambda: at_once(b"GET /setup HTTP/1.1\r\n" + HOST + b"Cookie: " + b"a=b; " * 4000 + b"\r\n\r\n"),
    "an upgrade": lambda: at_once(GET + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n", b"\x81\x05hello" * 100),
    "a target of 15 kB": lambda: at_once(b"GET /api/" + b"%2525" * 3000 + b" HTTP/1.1\r\n" + HOST + b"\r\n"),
    "content for an OPTIONS": lambda: slowly(
        b"x" * 1000, 1.5, then=b"OPTIONS * HTTP/1.1\r\n" + HOST + b"Content-Length: 60000\r\n\r\n"
    ),
}


async def attack(host: str, port: int, sending: Callable[[], Sending]) -> None:
    """One connection of an attacker after the other, for ever. They leave in different ways."""
    loop = asyncio.get_running_loop()
    while True:
        with socket.socket() as sock:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(60):
                    await loop.sock_connect(sock, (host, port))
                    async for data in sending():
                        await loop.sock_sendall(sock, data)
                    await gone(sock)
        await asyncio.sleep(random.uniform(0.1, 0.5))


async def gone(sock: socket.socket) -> None:
    """Waits until the other side has ended the connection, without taking what it sent."""
    while sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) == ESTABLISHED:
        await asyncio.sleep(0.2)


async def attackers(port: int, hosts: list[str]) -> None:
    await asyncio.gather(
        *(attack(host, port, sending) for host in hosts for sending in ATTACKS.values() for _ in range(EACH))
    )


@dataclass
class Waits:
    """How long somebody waited, in seconds, and what failed."""

    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    async def measure(self, call: Callable[[], Awaitable[None]]) -> None:
        start = time.perf_counter()
        try:
            async with asyncio.timeout(LATE):
                await call()
        except (OSError, Ended, AssertionError, TimeoutError) as error:
            self.failures.append(f"{time.strftime('%X')} {type(error).__name__} {error}")
        self.seconds.append(time.perf_counter() - start)

    def __str__(self) -> str:
        hundredths = statistics.quantiles(self.seconds, n=100)
        return (
            f"{len(self.seconds):,} calls, {len(self.failures)} failed; p50 {hundredths[49] * 1e3:.1f} ms, "
            f"p99 {hundredths[98] * 1e3:.1f} ms, at most {max(self.seconds) * 1e3:.0f} ms"
        )


class Steady:
    """The one who behaves well. A kept connection that was closed while it was idle is opened anew, as all tools do."""

    def __init__(self, proxy: ProxyProcess) -> None:
        self._proxy = proxy
        self._kept: Client | None = None
        self.reopened = 0

    async def on_a_new_connection(self) -> None:
        client = await self._proxy.connect()
        try:
            await self._ask(client)
        finally:
            client.close()

    async def on_a_kept_connection(self) -> None:
        if self._kept is not None:
            try:
                return await self._ask(self._kept)
            except (OSError, Ended) as error:
                self._kept.close()
                if isinstance(error, Ended) and error.got:
                    raise
                self.reopened += 1
        self._kept = await self._proxy.connect()
        return await self._ask(self._kept)

    async def _ask(self, client: Client) -> None:
        got = await client.ask("GET", "/api/x", b"X-Api-Key: " + KEY.encode())
        assert got.status == 200, got


async def probe(proxy: ProxyProcess) -> None:
    client = await proxy.connect()
    try:
        got = await client.ask("GET", "/healthz")
        assert got.status == 200, got
    finally:
        client.close()


async def regularly(pause: float, until: float, *measured: Callable[[], Awaitable[None]]) -> None:
    """Calls each in turn, `pause` seconds apart."""
    number = 0
    while time.perf_counter() < until:
        await asyncio.gather(measured[number % len(measured)](), asyncio.sleep(pause))
        number += 1


async def play(minutes: float, folder: Path) -> int:
    keys_file = folder / "keys"
    keys_file.write_text(f"steady:{KEY}\n")
    keys_file.chmod(0o600)
    access = {"expose": True, "client_keys_file": str(keys_file)}
    port, hosts = free_port(0), ["127.0.0.1", own_address()]
    listen = [f"{host}:{port}" for host in hosts]
    calls, probes = Waits(), Waits()
    async with (
        Upstream() as upstream,
        proxy_process(upstream, folder, listen=listen, access=access, limits={"connections": ROOM}) as proxy,
    ):
        upstream.default = forgetting(upstream, upstream.default)
        steady = Steady(proxy)
        for _ in range(200):
            await steady.on_a_new_connection()
        before = most = proxy.memory()
        hostile = await asyncio.create_subprocess_exec(sys.executable, __file__, "--attack", *map(str, (port, *hosts)))
        until = time.perf_counter() + minutes * 60

        async def watch() -> None:
            nonlocal most
            most = max(most, proxy.memory())

        await asyncio.gather(
            regularly(
                1 / RATE,
                until,
                lambda: calls.measure(steady.on_a_new_connection),
                lambda: calls.measure(steady.on_a_kept_connection),
            ),
            regularly(1, until, lambda: probes.measure(lambda: probe(proxy))),
            regularly(0.1, until, watch),
        )
        hostile.kill()
        await hostile.wait()
        await asyncio.sleep(REST)
        after = proxy.memory()
        print(f"the caller: {calls}; {steady.reopened} kept connections had made room and were opened anew")
        print(f"the probe:  {probes}")
        print(f"memory, MB: {before / 1e6:.0f} before, {most / 1e6:.0f} at most, {after / 1e6:.0f} after")
        print(f"log: {(folder / 'log').stat().st_size / 1e6:.0f} MB")
        failures = [*calls.failures, *probes.failures]
        print("\n".join(failures[:20]))
    return 1 if failures or after - before > 20e6 else 0


def forgetting(upstream: Upstream, step: Step) -> Step:
    """`step`, for a long run: nothing of the calls is kept."""

    async def answered(call: Call) -> None:
        upstream.calls.clear()
        call.connection.record = False
        await step(call)

    return answered


def own_address() -> str:
    """An address of this machine that is not loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        asked.connect(("192.0.2.1", 9))  # sends nothing; it only asks for the route
        return str(asked.getsockname()[0])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--attack", nargs="+", metavar=("PORT", "HOST"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.attack:
        port, *hosts = options.attack
        asyncio.run(attackers(int(port), hosts))
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(play(options.minutes, Path(folder)))


if __name__ == "__main__":
    sys.exit(main())
