"""Where a browser reaches this proxy."""

import pytest

from krebit_proxy.core.origin import own_origin, serves


@pytest.mark.parametrize(
    ("uri", "origin"),
    [
        ("http://localhost:8321/setup/callback", "http://localhost:8321"),
        ("http://127.0.0.1:8321/cb", "http://127.0.0.1:8321"),
        ("http://[::1]:8321/cb", "http://[::1]:8321"),
        ("http://app.localhost/cb", "http://app.localhost"),
        ("https://Proxy.Example/cb", "https://Proxy.Example"),
        ("https://[2001:db8::1]/cb", "https://[2001:db8::1]"),
        ("https://old.example/cb", None),
        ("http://192.168.1.5/cb", None),
        ("com.example.app:/cb", None),
        ("urn:ietf:wg:oauth:2.0:oob", None),
        ("http://[::1/cb", None),
        ("localhost", None),
    ],
)
def test_a_redirect_uri_is_ours_on_loopback_and_on_the_hosts_that_we_serve(uri: str, origin: str | None) -> None:
    assert own_origin(uri, ("proxy.example.", "[2001:db8::1]")) == origin


@pytest.mark.parametrize(
    ("origin", "authority", "same"),
    [
        ("http://localhost:8321", "localhost:8321", True),
        ("http://localhost:8321", "LOCALHOST.:8321", True),
        ("http://localhost:8321", "127.0.0.1:8321", False),
        ("http://localhost:8321", "localhost:9000", False),
        ("http://localhost", "localhost:80", True),
        ("https://proxy.example", "proxy.example", True),
        ("https://proxy.example", "proxy.example:443", True),
        ("https://proxy.example", "proxy.example:80", False),
        ("http://[::1]:8321", "[::1]:8321", True),
        ("http://localhost", "", False),
        ("http://localhost", "localhost:x", False),
    ],
)
def test_two_spellings_of_one_place_are_one_place(origin: str, authority: str, same: bool) -> None:
    assert serves(origin, authority) is same
