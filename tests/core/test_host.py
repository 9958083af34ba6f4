"""Names and addresses of hosts."""

import pytest

from krebit_proxy.core.host import bracketed, is_host


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "A.example",
        "a.example.",
        "krebit_proxy",
        "_dns.a-b.example",
        "xn--nd-yia.example",
        "a" * 63,
        "192.0.2.1",
        "::1",
        "2001:db8::1",
        "fe80::1%eth0",
        ".".join(["a" * 62] * 4),
    ],
)
def test_what_can_be_a_host(text: str) -> None:
    assert is_host(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "a..b",
        ".a",
        "-a",
        "a-",
        "a b",
        "*",
        "*.example",
        "a:80",
        "[::1]",
        "å.example",
        "a" * 64,
        "a\n",
        "a/b",
        ".".join(["a" * 63] * 4),
    ],
)
def test_what_can_not(text: str) -> None:
    assert not is_host(text)


@pytest.mark.parametrize(("host", "text"), [("::1", "[::1]"), ("192.0.2.1", "192.0.2.1"), ("a.example", "a.example")])
def test_only_ipv6_addresses_are_in_brackets(host: str, text: str) -> None:
    assert bracketed(host) == text
