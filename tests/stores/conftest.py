"""Every kind of store, each with as many openers as a test wants."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest

from krebit_proxy.config import Settings
from krebit_proxy.core.grant import Grant, Tokens
from krebit_proxy.core.secret import Secret
from krebit_proxy.errors import StoreError
from krebit_proxy.stores import Store, open_store
from krebit_proxy.stores.encryption import new_key
from tests.fakes.database import Database, database
from tests.fakes.pooler import Pooler, needs_pooler, pooler


@dataclass
class Place:
    """Where one grant is kept. What is opened here is closed after the test."""

    store: str
    key_file: Path | None = None
    organization: str = "acme"
    client_id: str = "app"
    opened: list[Store] = field(default_factory=list)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for store in self.opened:
            await store.close()

    def settings(self, **changes: object) -> Settings:
        values = {
            "organization": self.organization,
            "client_id": self.client_id,
            "client_secret": Secret("s3cret"),
            "store": self.store,
            "encryption_key_file": self.key_file,
        }
        return Settings.model_validate(values | changes)

    def open(self, **changes: object) -> Store:
        store = open_store(self.settings(**changes))
        self.opened.append(store)
        return store

    def grant(self, generation: int = 1, *, refresh: str = "refresh-1") -> Grant:
        tokens = Tokens(Secret(f"access-{generation}"), Secret(refresh), 1000.0, 4600.0)
        return Grant(generation, self.organization, self.client_id, tokens, authorized_at=1000.0)


@pytest.fixture(scope="session")
def running_database() -> Iterator[Database]:
    with database() as running:
        yield running


@pytest.fixture
def postgres(running_database: Database) -> Iterator[Database]:
    """The database of this session, empty."""
    running_database.execute("DROP TABLE IF EXISTS krebit_proxy_grant, krebit_proxy_lock")
    yield running_database
    running_database.terminate()


@pytest.fixture(scope="session")
def running_pooler(running_database: Database) -> Iterator[Pooler]:
    with pooler(running_database) as running:
        yield running


@pytest.fixture(params=["file", "sealed", "postgres", pytest.param("pooler", marks=needs_pooler)])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    key_file = tmp_path / "keys"
    key_file.touch(0o600)
    key_file.write_text(new_key() + "\n")
    if request.param == "postgres":
        found = Place(request.getfixturevalue("postgres").url, key_file)
    elif request.param == "pooler":
        request.getfixturevalue("postgres")
        found = Place(request.getfixturevalue("running_pooler").address(), key_file)
    else:
        found = Place(f"file:{tmp_path / 'grant'}", key_file if request.param == "sealed" else None)
    async with found:
        yield found


@pytest.fixture
async def file_place(tmp_path: Path) -> AsyncIterator[Place]:
    """A folder. Modules about files alone say `place = file_place`."""
    async with Place(f"file:{tmp_path / 'grant'}") as found:
        yield found


@pytest.fixture
async def grant_file(place: Place, tmp_path: Path) -> Path:
    """The file of a store that holds generation 2, and its copy of generation 1."""
    store = place.open()
    await store.write(0, place.grant(1))
    await store.write(1, place.grant(2))
    (found,) = (tmp_path / "grant").glob("*.json")
    return found


async def failed(attempt: Any) -> StoreError:
    with pytest.raises(StoreError) as error:
        await attempt
    return error.value
