"""One-time keys that open setup."""

from hashlib import sha256
from urllib.parse import quote

from hypothesis import given
from hypothesis import strategies as st

from krebit_proxy.core.secret import Secret
from krebit_proxy.core.setup_key import KEY_LIFETIME, check_key, mint_key, term_of

NOW = 1_700_000_000.0
SECRET = Secret("client secret")
TERM = term_of("run-1", 0.0)


def key_of(secret: Secret = SECRET, term: str = TERM) -> str:
    return mint_key(secret, term=term, now=NOW, nonce=b"n" * 16)


def expiry(key: str, *, now: float = NOW) -> float | None:
    return check_key(SECRET, key, term=TERM, now=now)


def test_a_key_opens_for_fifteen_minutes() -> None:
    key = key_of()

    assert expiry(key) == NOW + KEY_LIFETIME
    assert expiry(key, now=NOW + KEY_LIFETIME - 1) == NOW + KEY_LIFETIME
    assert expiry(key, now=NOW + KEY_LIFETIME) is None
    assert quote(key) == key


def test_a_key_of_another_secret_is_none() -> None:
    assert expiry(key_of(Secret("other"))) is None


def test_a_key_of_an_earlier_run_or_from_before_another_authorization_is_none() -> None:
    for run, authorized_at in (("run-0", 0.0), ("run-1", NOW), ("run-1", 1e-9)):
        assert expiry(key_of(term=term_of(run, authorized_at))) is None


def test_a_key_gives_nothing_of_the_secret_away() -> None:
    key = key_of()

    assert sha256(SECRET.reveal().encode()).hexdigest() not in key
    assert SECRET.reveal() not in key


@given(st.data())
def test_a_key_changed_anywhere_is_none(data: st.DataObject) -> None:
    key = key_of()
    at = data.draw(st.integers(0, len(key)))
    changed = key[:at] + data.draw(st.text(max_size=2)) + key[at + data.draw(st.integers(0, 2)) :]

    assert changed == key or expiry(changed) is None


@given(st.text())
def test_no_other_text_is_a_key(text: str) -> None:
    assert expiry(text) is None
