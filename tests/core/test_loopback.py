import pytest

from krebit_proxy.core.loopback import is_loopback


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LocalHost.",
        "app.localhost",
        "my_app.x.localhost.",
        "127.0.0.1",
        "127.0.0.1.",
        "127.8.255.3",
        "::1",
        "[::1]",
    ],
)
def test_this_computer(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    [
        "",
        ".",
        ".localhost",
        "a..localhost",
        "localhost..",
        "notlocalhost",
        "localhost.example",
        "localhost\n",
        "l\N{LATIN SMALL LETTER LONG S}ocalhost",
        "localho\N{LATIN SMALL LETTER LONG S}t",
        "127.0.0.1.example",
        "128.0.0.1",
        "127.1",
        "127.0.0.01",
        "127.0.0.256",
        "127.0.0.\N{ARABIC-INDIC DIGIT ONE}",
        "2130706433",
        "0x7f.0.0.1",
        "0.0.0.0",
        "::",
        "[::1",
        "0:0:0:0:0:0:0:1",
        "::ffff:127.0.0.1",
        "[127.0.0.1]",
    ],
)
def test_another_computer_or_no_host(host: str) -> None:
    assert not is_loopback(host)
