"""What an address of a database can say, by libpq's rules: TLS, passwords, and poolers that lend by transaction."""

import asyncio
import re
from pathlib import Path

import pytest

from krebit_proxy.errors import StoreError
from krebit_proxy.stores import Store
from krebit_proxy.stores.encryption import new_key
from tests.fakes.certificates import Authority
from tests.fakes.database import Database
from tests.fakes.pooler import PASSWORD, Pooler, needs_pooler
from tests.stores.conftest import Place

pytestmark = needs_pooler


@pytest.fixture
def place(postgres: Database, tmp_path: Path) -> Place:
    key_file = tmp_path / "keys"
    key_file.write_text(new_key())
    return Place(postgres.url, key_file)


@pytest.fixture
def passfile(running_pooler: Pooler, tmp_path: Path) -> Path:
    """A password file as `man libpq` has it."""
    path = tmp_path / "passwords"
    path.touch(0o600)
    path.write_text(f"127.0.0.1:{running_pooler.port}:*:proxy:{PASSWORD}\n")
    return path


async def probe(store: Store) -> None:
    try:
        await store.probe()
    finally:
        await store.close()


async def refusal(place: Place, address: str) -> str:
    with pytest.raises(StoreError) as refused:
        await probe(place.open(store=address))
    assert PASSWORD not in f"{refused.value.detail} {refused.value.hint}"
    return refused.value.detail


async def test_the_certificate_of_the_server_is_verified(place: Place, running_pooler: Pooler) -> None:
    await probe(place.open(store=running_pooler.address()))


async def test_a_certificate_of_an_unknown_authority_is_refused(
    place: Place, running_pooler: Pooler, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path).ca_file

    assert "certificate verify failed" in await refusal(place, running_pooler.address(sslrootcert=stranger))


async def test_a_certificate_for_another_name_is_refused_by_verify_full_only(
    place: Place, running_pooler: Pooler
) -> None:
    assert 'does not match host name "localhost"' in await refusal(place, running_pooler.address(host="localhost"))
    await probe(place.open(store=running_pooler.address(host="localhost", sslmode="verify-ca")))


async def test_a_server_that_wants_tls_is_told_of_without_it(place: Place, running_pooler: Pooler) -> None:
    assert "SSL required" in await refusal(place, running_pooler.address(sslmode="disable"))


async def test_a_wrong_password_is_told_of_without_being_shown(place: Place, running_pooler: Pooler) -> None:
    detail = await refusal(place, running_pooler.address(password="marker-wrong"))

    assert "authentication failed" in detail
    assert "marker-wrong" not in detail


async def test_a_password_file_can_be_named_in_the_address(
    place: Place, running_pooler: Pooler, passfile: Path
) -> None:
    await probe(place.open(store=running_pooler.address(password="", passfile=passfile)))


async def test_a_password_file_can_be_named_in_the_environment(
    place: Place, running_pooler: Pooler, passfile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSFILE", str(passfile))

    await probe(place.open(store=running_pooler.address(password="")))


async def test_a_password_file_that_others_may_read_is_not_used(
    place: Place, running_pooler: Pooler, passfile: Path
) -> None:
    passfile.chmod(0o644)

    assert "no password supplied" in await refusal(place, running_pooler.address(password="", passfile=passfile))


async def test_a_pooler_lends_one_connection_after_the_other_and_the_lock_stays_where_it_is(
    place: Place, running_pooler: Pooler, postgres: Database
) -> None:
    """The lock's transaction keeps its server connection; all the others take turns on what is left."""
    stores = [place.open(store=running_pooler.address()) for _ in range(6)]
    await stores[0].lock(5)
    await stores[0].write(0, place.grant(1))
    for generation in (1, 2, 3):
        await asyncio.gather(*(store.read() for store in stores))
        await stores[generation].write(generation, place.grant(generation + 1))
    await stores[0].confirm_lock()
    [[lent]] = postgres.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'krebit-proxy'")
    for store in stores:
        await store.close()

    assert lent < len(stores)  # or it has lent nothing, and this proves nothing


async def test_a_name_that_leads_elsewhere_is_verified_by_the_authorities_of_the_system(
    place: Place, running_pooler: Pooler, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SSL_CERT_FILE", str(running_pooler.ca_file))
    address = f"postgresql://proxy:{PASSWORD}@127.0.0.1:{running_pooler.port}/postgres?hostaddr=127.1"
    store = place.open(store=address)
    await store.probe()
    way = await store.describe()
    await store.close()
    monkeypatch.setenv("SSL_CERT_FILE", str(Authority(tmp_path).ca_file))

    assert way.endswith(", user proxy, TLS, server verified")
    assert "certificate verify failed" in await refusal(place, address)


async def test_a_connection_tells_how_it_is_protected(place: Place, running_pooler: Pooler, postgres: Database) -> None:
    ways = []
    for address in (postgres.url, running_pooler.address(sslmode="require", sslrootcert="")):
        store = place.open(store=address)
        ways.append(await store.describe())
        await store.close()

    assert re.fullmatch(r"PostgreSQL \d+\.\d+, user postgres, without TLS", ways[0])
    assert ways[1].endswith(", user proxy, TLS, server not verified")
