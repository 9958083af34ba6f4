"""A few seconds of coverage-guided fuzzing. `python -m tests.http.fuzz` goes on for as long as you like."""

import asyncio
import os
import sys
from importlib.util import find_spec

import pytest

TARGETS = ["request_head", "target", "response", "token_response"]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("atheris") is None and "CI" not in os.environ, reason="atheris is not installed")
@pytest.mark.parametrize("name", TARGETS)
async def test_no_input_breaks_a_rule(name: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.http.fuzz", name, "2", stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate()

    assert process.returncode == 0, said.decode(errors="replace")
    assert b"stat::number_of_executed_units" in said
