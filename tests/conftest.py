"""What all tests share: two sizes of every property test, and no task may outlive its test."""

import asyncio
import inspect
import os
import signal
from collections.abc import AsyncIterator, Callable

import pytest
from hypothesis import HealthCheck, settings

pytest.register_assert_rewrite("tests.http.shooting_range", "tests.http.responses")

# Bounded by default; KREBIT_TEST_PROFILE=deep runs every property and mutation test for long.
settings.register_profile("fast", max_examples=60, deadline=None, derandomize=True)
settings.register_profile("deep", max_examples=20_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
PROFILE = os.environ.get("KREBIT_TEST_PROFILE", "fast")
settings.load_profile(PROFILE)


def pytest_configure() -> None:
    """A shell has what runs in its background ignore SIGINT, and so would whatever is started from here."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What runs for long on purpose has no limit of time."""
    if PROFILE == "deep":
        for item in items:
            item.add_marker(pytest.mark.timeout(0))


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_auto_num_workers() -> int:
    """Two for each core: many tests wait for something, a limit of time or another process."""
    return 2 * (os.cpu_count() or 1)


@pytest.fixture(scope="session")
def effort() -> Callable[[int, int], int]:
    """Chooses a size by the profile: `effort(fast, deep)`."""
    return lambda fast, deep: deep if PROFILE == "deep" else fast


@pytest.fixture(autouse=True)
def _no_task_outlives_its_test(request: pytest.FixtureRequest) -> None:
    """Asks for the check below where a test has an event loop; the first fixture is the last to be torn down."""
    function = request.function
    inner = getattr(getattr(function, "hypothesis", None), "inner_test", function)
    if inspect.iscoroutinefunction(inner):
        request.getfixturevalue("_leaked_tasks")


@pytest.fixture
async def _leaked_tasks() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    mine = asyncio.current_task()
    left = {task for task in asyncio.all_tasks() - before if task is not mine}
    if left:
        _, left = await asyncio.wait(left, timeout=1)
    assert not left, f"tasks that outlive the test: {[task.get_name() for task in left]}"
