"""A grant at rest, encrypted."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krebit_proxy.core.grant import Grant
from krebit_proxy.core.secret import Secret
from krebit_proxy.errors import StoreError
from krebit_proxy.stores.encryption import LONGEST_CONTENT, Sealing, new_key
from tests.stores.conftest import Place

GRANT = Place("").grant(3)
KEY = new_key()


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(f"# made today\n\n{new_key()}\n")
    return path


def sealing(key_file: Path | None, **changes: object) -> Sealing:
    return Sealing("acme", "app", key_file=key_file, **changes)  # type: ignore[arg-type]


def refused(opener: Sealing, content: bytes, generation: int | None = None) -> StoreError:
    with pytest.raises(StoreError) as error:
        opener.open(content, "file /x", generation=generation)
    assert "file /x" in error.value.detail
    return error.value


def test_without_a_key_a_grant_is_plain_json() -> None:
    content = sealing(None).seal(GRANT)

    assert json.loads(content)["generation"] == 3
    assert sealing(None).open(content, "file /x") == GRANT


def test_a_sealed_grant_shows_nothing(key_file: Path) -> None:
    content = sealing(key_file).seal(GRANT)

    assert all(word not in content for word in (b"access-3", b"refresh-1", b"acme"))
    assert sealing(key_file).open(content, "file /x", generation=3) == GRANT


def test_the_first_key_encrypts_and_each_decrypts(key_file: Path) -> None:
    old = sealing(key_file).seal(GRANT)
    newest = new_key()
    key_file.write_text(f"{newest}\n{key_file.read_text()}")
    new = sealing(key_file).seal(GRANT)

    assert sealing(key_file).open(old, "file /x") == GRANT
    assert Sealing("acme", "app", keys=Secret(newest)).open(new, "file /x") == GRANT


def test_keys_are_read_again_each_time_so_that_a_rotation_needs_no_restart(key_file: Path) -> None:
    running = sealing(key_file)
    running.seal(GRANT)
    key_file.write_text(f"{new_key()}\n")
    content = sealing(key_file).seal(GRANT)

    assert running.open(content, "file /x") == GRANT


def test_keys_may_come_without_a_file_between_spaces(key_file: Path) -> None:
    keys = [new_key(), new_key()]
    content = Sealing("acme", "app", keys=Secret(keys[1])).seal(GRANT)

    assert Sealing("acme", "app", keys=Secret(" ".join(keys))).open(content, "file /x") == GRANT


def test_with_another_key_the_grant_is_kept_and_the_person_told(key_file: Path) -> None:
    content = sealing(key_file).seal(GRANT)
    key_file.write_text(new_key())
    error = refused(sealing(key_file), content)

    assert "another key" in error.detail
    assert str(key_file) in error.hint
    assert error.code == "misconfigured"


def test_without_its_key_an_encrypted_grant_is_no_new_store(key_file: Path) -> None:
    content = sealing(key_file).seal(GRANT)

    assert "there is no key" in refused(sealing(None), content).detail
    assert "damaged" in refused(sealing(None), b"noise").detail


@pytest.mark.parametrize("keys", [True, False])
def test_a_sealed_grant_cut_short_anywhere_is_an_error(key_file: Path, keys: bool) -> None:
    content = sealing(key_file).seal(GRANT)
    opener = sealing(key_file if keys else None)
    for length in range(len(content)):
        refused(opener, content[:length])


def test_every_flipped_byte_is_found(key_file: Path) -> None:
    content, opener = sealing(key_file).seal(GRANT), sealing(key_file)
    for place in range(0, len(content) - 4, 7):
        flipped = bytearray(content)
        flipped[place] ^= 1
        refused(opener, bytes(flipped))


@pytest.mark.parametrize("owner", [("globex", "app"), ("acme", "other")])
def test_a_record_moved_from_somewhere_else_is_refused(key_file: Path, owner: tuple[str, str]) -> None:
    content = Sealing(*owner, key_file=key_file).seal(Grant(1, *owner, None))

    assert "another place" in refused(sealing(key_file), content).detail


def test_an_old_record_under_a_newer_number_is_refused(key_file: Path) -> None:
    assert "another place" in refused(sealing(key_file), sealing(key_file).seal(GRANT), generation=4).detail


def test_a_plain_record_is_taken_over_only_where_that_is_wanted(key_file: Path) -> None:
    plain = sealing(None).seal(GRANT)

    assert sealing(key_file, takes_plain=True).open(plain, "file /x") == GRANT
    assert "not encrypted" in refused(sealing(key_file), plain).detail


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "There is no key"),
        (b"# nothing\n", "There is no key"),
        (b"short\n", "Key 1 in"),
        (new_key().encode() + b"\n" + b"A" * 43 + b"\n", "Key 2 in"),
        (b"\xff\xfe", "it is not text"),
        (None, "No such file"),
    ],
    ids=["empty", "comment", "short", "second", "binary", "missing"],
)
def test_keys_that_are_none_are_said_to_be(key_file: Path, content: bytes | None, problem: str) -> None:
    if content is None:
        key_file.unlink()
    else:
        key_file.write_bytes(content)
    for attempt in (sealing(key_file).check, lambda: sealing(key_file).seal(GRANT)):
        with pytest.raises(StoreError, match=problem) as error:
            attempt()
        assert str(key_file) in error.value.detail


def test_without_keys_there_is_nothing_to_check() -> None:
    sealing(None).check()


async def test_the_wrong_key_keeps_the_stored_record_and_the_right_one_opens_it_again(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(right := new_key())
    place = Place(f"file:{tmp_path / 'grant'}", keys)
    store = place.open()
    await store.write(0, place.grant(1))
    keys.write_text(new_key())
    for attempt in (store.read(), store.write(1, place.grant(2)), store.probe()):
        with pytest.raises(StoreError, match="another key"):
            await attempt
    keys.write_text(right)

    assert await store.read() == place.grant(1)


@given(st.binary() | st.text().map(str.encode) | st.binary().map(b"{%b}".__mod__) | st.binary().map(b"gAAAA%b".__mod__))
def test_whatever_is_found_in_a_store_is_a_grant_or_an_error_for_people(content: bytes) -> None:
    opener = Sealing("acme", "app", keys=Secret(KEY))
    refused(opener, content)
    refused(opener, opener._fernet().encrypt(content))


def test_a_record_that_is_too_long_is_damaged(key_file: Path) -> None:
    assert "too long" in refused(sealing(key_file), b"gAAAA" + bytes(LONGEST_CONTENT)).detail
