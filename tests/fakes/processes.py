"""Real processes that hold or use a grant, forked from a server that has everything loaded, so that they start fast.

What they get is plain text and numbers, since a `Secret` is not handed to another process.
"""

import asyncio
import multiprocessing
import os
import signal
from collections.abc import Callable, Coroutine
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, Final

from krebit_proxy.config import Settings
from krebit_proxy.core.secret import Secret
from tests.fakes.waiting import eventually

# A program takes plain settings, its end of a pipe, and what else it needs.
Program = Callable[..., Coroutine[Any, Any, None]]
_CONTEXT: Final = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["pytest", "aiohttp", "krebit_proxy.credentials", "tests.fakes.programs"])


class Process:
    """One process that runs a program of `tests.fakes.programs`."""

    def __init__(self, program: Program, *arguments: Any) -> None:
        self._pipe, theirs = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=_run, args=(program, theirs, *arguments), daemon=True)
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    async def heard(self, timeout: float = 20) -> Any:
        """The next thing it says; None when it has ended without a word."""
        await eventually(self._pipe.poll, what="the process says something", deadline=timeout)
        with suppress(EOFError):
            return self._pipe.recv()
        return None

    def say(self, word: str) -> None:
        self._pipe.send(word)

    async def ended(self) -> int:
        """Waits for its end. Gives its exit status, negative for a signal."""
        await eventually(lambda: self._process.exitcode is not None, what="the process ends")
        status = self._process.exitcode
        assert status is not None
        self._pipe.close()
        self._process.close()
        return status

    async def kill(self) -> None:
        """SIGKILL: it gets no chance to say or free anything."""
        os.kill(self.pid, signal.SIGKILL)
        await self.ended()


def settings_of(plain: dict[str, Any]) -> Settings:
    """The settings in a process of its own."""
    return Settings.model_validate(plain | {"client_secret": Secret(plain["client_secret"])})


def plain(settings: Settings) -> dict[str, Any]:
    """The settings as what can be handed to a process."""
    document = settings.model_dump(exclude_defaults=True)
    return document | {"client_secret": settings.client_secret.reveal()}


def _run(program: Program, pipe: Connection, *arguments: Any) -> None:
    asyncio.run(program(pipe, *arguments))
