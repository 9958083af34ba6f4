"""A thread between the event loop and a disk that may hang."""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from threading import Lock, Thread
from typing import Any, Final, TypeVar

T = TypeVar("T")


class Disk:
    """Calls functions one after the other, in a thread that is there while there is something to do.

    A file system that hangs (NFS, a dying disk) blocks the thread that uses it, and no thread can be stopped. So the
    loop never uses it: whoever waits gives up after `patience` seconds, and while the call that hangs has not come back
    nobody else waits at all. Nothing overtakes it: what it does late it does under the lock that it began with. It does
    not keep the process from ending either, as the threads of `asyncio.to_thread` would.
    """

    patience = 5.0  # seconds for one call

    def __init__(self) -> None:
        self._calls: Final[deque[tuple[Future[Any], Callable[[], Any]]]] = deque()
        self._guard: Final = Lock()
        self._working = False
        self._given_up: Future[Any] | None = None

    async def call(self, function: Callable[[], T]) -> T:
        """What `function` returns or raises; TimeoutError if that takes too long. It may still happen, later."""
        if self._hangs:
            raise TimeoutError
        future = self.begin(function)
        try:
            async with asyncio.timeout(self.patience):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            self._given_up = future
            raise

    async def settle(self, function: Callable[[], object]) -> None:
        """Has `function` called after all that was asked for before. Waits for it, but no longer than `patience`."""
        future = self.begin(function)
        if not self._hangs:
            await asyncio.wait([asyncio.wrap_future(future)], timeout=self.patience)

    def begin(self, function: Callable[[], T]) -> "Future[T]":
        """Has `function` called after all that was asked for before."""
        future: Future[T] = Future()
        with self._guard:
            self._calls.append((future, function))
            if not self._working:
                self._working = True
                Thread(target=self._work, name="grant store", daemon=True).start()
        return future

    @property
    def _hangs(self) -> bool:
        return self._given_up is not None and not self._given_up.done()

    def _work(self) -> None:
        while True:
            with self._guard:
                if not self._calls:
                    self._working = False
                    return
                future, function = self._calls.popleft()
            if not future.set_running_or_notify_cancel():
                continue  # whoever asked for it has given up before it began
            try:
                future.set_result(function())
            except BaseException as error:  # it is raised where the result is awaited
                future.set_exception(error)
