"""A clock for the ages of connections: it goes on while the computer sleeps.

The clock of the event loop may stand still then. After eight hours of sleep, all idle connections would look fresh.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

# On Linux, CLOCK_BOOTTIME counts the time of sleep. On macOS, CLOCK_MONOTONIC does, and `time.monotonic` does not. On
# Windows, there is neither, and `time.monotonic` does.
_sleepless: Any = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))

# Seconds since some moment before the start of the program.
elapsed: Callable[[], float] = time.monotonic if _sleepless is None else partial(time.clock_gettime, _sleepless)
