"""A secret is given out by `reveal` and in no other way."""

import copy
import pickle

import pytest

from krebit_proxy.core.secret import Secret


def test_no_way_to_text_shows_it() -> None:
    secret = Secret("hunter2")

    shown = [repr(secret), str(secret), f"{secret}", f"{secret:>40}", "%s %r" % (secret, secret), repr([secret])]  # noqa: UP031
    assert all("hunter2" not in text for text in shown)
    assert secret.reveal() == "hunter2"


def test_an_empty_one_is_false_and_says_so() -> None:
    assert not Secret("")
    assert Secret("x")
    assert repr(Secret("")) == "Secret()"


def test_equal_secrets_are_equal_and_nothing_else_is() -> None:
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a")}) == 1
    assert Secret("a").matches("a")


def test_the_fingerprint_tells_two_apart_and_is_short() -> None:
    assert Secret("a").fingerprint() != Secret("b").fingerprint()
    assert len(Secret("a").fingerprint()) == 8


def test_it_is_not_pickled_and_a_copy_is_the_same_object() -> None:
    secret = Secret("a")

    with pytest.raises(TypeError):
        pickle.dumps(secret)
    assert copy.copy(secret) is secret
    assert copy.deepcopy(secret) is secret
