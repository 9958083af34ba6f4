"""Waiting for what must come, with a deadline that only a broken program meets."""

import asyncio
from collections.abc import Callable
from typing import Final

DEADLINE: Final = 30.0  # seconds; for a slow machine, nothing is measured by it


async def eventually(condition: Callable[[], object], *, what: str = "", deadline: float = DEADLINE) -> None:
    """Returns as soon as `condition` holds. Raises AssertionError when it does not within `deadline` seconds."""
    loop = asyncio.get_running_loop()
    end = loop.time() + deadline
    while not condition():
        assert loop.time() < end, f"never happened: {what or condition}"
        await asyncio.sleep(0.002)


async def settled(measure: Callable[[], int], *, quiet: float = 0.3) -> int:
    """Returns what `measure` gives once it has not changed for `quiet` seconds: a flow has come to a stop."""
    loop = asyncio.get_running_loop()
    last, since = measure(), loop.time()
    end = since + 60
    while loop.time() - since < quiet:
        assert loop.time() < end, "it never came to rest"
        await asyncio.sleep(0.02)
        if (now := measure()) != last:
            last, since = now, loop.time()
    return last
