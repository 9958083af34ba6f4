"""A thread between the event loop and a disk that may hang."""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from threading import Lock, Thread
from typing import Any, Final, TypeVar

T = TypeVar("T")


class Disk:
    """Calls functions in order, in one thread that exists only while there is something to do.

    A hanging file system (NFS, a dying disk) blocks the thread that uses it, and a thread cannot be stopped. So the
    event loop never touches the disk. A caller gives up after `patience` seconds. Until the hanging call returns, new
    calls fail at once. They do not overtake it, so it still holds the lock that it started with when it returns. The
    thread is a daemon: unlike those of `asyncio.to_thread`, it does not keep the process from ending.
    """

    patience = 5.0  # seconds for one call

    def __init__(self) -> None:
        self._calls: Final[deque[tuple[Future[Any], Callable[[], Any]]]] = deque()
        self._guard: Final = Lock()
        self._working = False
        self._given_up: Future[Any] | None = None

    async def call(self, function: Callable[[], T]) -> T:
        """Returns or raises what `function` does. Raises TimeoutError after `patience` seconds; it may still run."""
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
        """Queues `function`, and waits for it for `patience` seconds at most. Raises nothing."""
        future = self.begin(function)
        if not self._hangs:
            await asyncio.wait([asyncio.wrap_future(future)], timeout=self.patience)

    async def rest(self) -> None:
        """Waits until all calls have returned, for `patience` seconds at most: also those that nobody waits for."""
        if self._working:
            await self.settle(lambda: None)

    def begin(self, function: Callable[[], T]) -> "Future[T]":
        """Queues `function` behind all earlier calls, also behind one that hangs."""
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
                continue  # the caller gave up before it started
            try:
                future.set_result(function())
            except BaseException as error:  # raised again where the result is awaited
                future.set_exception(error)
