"""Tasks are held until they end, and one that fails is never lost."""

import asyncio
import gc
import weakref
from typing import Never

from structlog.testing import capture_logs

from krebit_proxy.tasks import spawn


async def test_a_task_that_nobody_holds_runs_to_its_end() -> None:
    """What only the task itself refers to is not there to wake it, once the garbage collector has seen it."""
    held: list[weakref.ref[asyncio.Future[None]]] = []
    done = asyncio.Event()

    async def work() -> None:
        waiting = asyncio.get_running_loop().create_future()
        held.append(weakref.ref(waiting))
        await waiting
        done.set()

    spawn(work(), name="work")
    await asyncio.sleep(0)
    gc.collect()
    waiting = held[0]()
    assert waiting is not None
    waiting.set_result(None)

    await asyncio.wait_for(done.wait(), 10)


async def test_a_failure_is_an_event_that_does_not_hold_its_text() -> None:
    async def fail() -> Never:
        raise ValueError("marker-secret")

    with capture_logs() as events:
        task = spawn(fail(), name="failing")
        await asyncio.wait({task})

    assert events == [{"event": "task.failed", "log_level": "error", "task": "failing", "error": "ValueError"}]


async def test_a_cancelled_task_is_no_failure() -> None:
    with capture_logs() as events:
        task = spawn(asyncio.Event().wait(), name="waiting")
        task.cancel()
        await asyncio.wait({task})

    assert task.cancelled()
    assert events == []


async def test_the_result_is_for_whoever_waits() -> None:
    async def answer() -> int:
        return 42

    assert await spawn(answer(), name="answer") == 42
