"""A wire between a client and a server that can be cut at a chosen word."""

import asyncio
from contextlib import suppress
from typing import Self


class Relay:
    """Passes bytes both ways. Start it with `async with`.

    Once `cut_at` is set, the first connection whose client says these bytes is cut: the server gets them, and its
    answer is lost. While it is `deaf`, who connects is taken and hears nothing.
    """

    def __init__(self, port: int) -> None:
        self._server_port = port
        self.port = 0
        self.cut_at: bytes | None = None
        self.deaf = False
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.deaf:
            await reader.read()
            writer.close()
            return
        answers, server = await asyncio.open_connection("127.0.0.1", self._server_port)
        back = asyncio.ensure_future(_pass(answers, writer))
        self._tasks.append(back)
        try:
            while data := await reader.read(65536):
                cut = self.cut_at is not None and self.cut_at in data
                if cut:
                    self.cut_at = None
                    back.cancel()
                    await asyncio.wait([back])
                server.write(data)
                if cut:
                    await answers.read(1)  # the server has done it
                    return
        except ConnectionError:
            pass
        finally:
            back.cancel()
            for end in (server, writer):
                end.close()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
    writer.close()
