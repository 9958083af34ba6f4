"""Callers are taken from a listening socket: all that wait, whenever some do."""

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop

from krebit_proxy.web.listeners import open_listeners
from tests.web.greeters import settings


@pytest.mark.parametrize("new_loop", [asyncio.SelectorEventLoop, uvloop.new_event_loop])
@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_callers_that_come_together_get_in_together(
    new_loop: Callable[[], asyncio.AbstractEventLoop], kind: str, tmp_path: Path
) -> None:
    """And not one in each turn of the loop, which may have a thousand others to serve."""

    async def turns_to_let_in(count: int) -> int:
        made: list[asyncio.BaseTransport] = []
        turns = 0

        class Arrival(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                made.append(transport)

        listeners = open_listeners(settings("127.0.0.1:0" if kind == "tcp" else f"unix:{tmp_path}/socket"))
        await listeners.serve(Arrival)
        callers = [socket.socket(listeners.sockets[0].family) for _ in range(count)]
        for caller in callers:
            caller.connect(listeners.sockets[0].getsockname())  # the kernel takes it: the loop stands still meanwhile
        while len(made) < count:
            await asyncio.sleep(0)
            turns += 1
        await listeners.refuse()
        listeners.close()
        for transport, caller in zip(made, callers, strict=True):
            transport.close()
            caller.close()
        return turns

    with asyncio.Runner(loop_factory=new_loop) as runner:
        assert runner.run(turns_to_let_in(200)) < 50
