"""A sandbox, and a folder with settings for it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from krebit_proxy.cli.demo import free_port
from krebit_proxy.sandbox import Options, Sandbox
from tests.cli.site import write


@pytest.fixture
async def port() -> int:
    return free_port(0)


@pytest.fixture
async def sandbox(port: int) -> AsyncIterator[Sandbox]:
    """With our redirect URI, and tokens that outlive every test."""
    stand_in = Sandbox(Options(redirect_uri=f"http://localhost:{port}/setup/callback"))
    await stand_in.start()
    yield stand_in
    await stand_in.stop()


@pytest.fixture
async def folder(sandbox: Sandbox, port: int, tmp_path: Path) -> Path:
    """A folder with settings for the sandbox."""
    write(tmp_path, sandbox, port)
    return tmp_path
