"""The names of all settings, and what a misspelt one was meant to be."""

import pytest

from krebit_proxy.config.names import fields, lists, nearest, texts


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("organisation", "organization"),
        ("limits.conections", "limits.connections"),
        ("access.readonly", "access.read_only"),
        ("access.allow[2].method", "access.allow.methods"),
        ("client-secret-file", "client_secret_file"),
        ("upstream_url", "upstream.url"),
        ("read_only", "access.read_only"),
        ("colour", None),
    ],
)
def test_a_misspelt_setting_is_recognized(written: str, meant: str | None) -> None:
    assert nearest(written) == meant


def test_each_setting_has_one_name() -> None:
    names = [name for name, _ in fields()]

    assert len(names) == len(set(names))
    assert {"organization", "limits.connections", "access.allow"} <= set(names)


def test_text_and_lists_of_text_are_known_so_that_variables_are_read_as_meant() -> None:
    assert {"client_id", "store", "client_secret_file", "log.level"} <= texts()
    assert {"listen", "access.allowed_hosts"} <= lists()
    assert not {"access.expose", "limits.connections", "access.allow"} & (texts() | lists())
