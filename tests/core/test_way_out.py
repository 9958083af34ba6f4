"""Which way out a URL takes."""

import pytest

from krebit_proxy.core.way_out import WayOut

KREBIT = "https://acme.krebit.se"


def way(**environ: str) -> WayOut:
    return WayOut.from_environment(environ)


def test_the_setting_is_for_https_only() -> None:
    setting = WayOut.from_setting("http://me:secret@proxy.example:3128")

    assert setting.proxy_to(f"{KREBIT}/api/") == "http://me:secret@proxy.example:3128"
    assert setting.proxy_to("http://localhost:1") is None
    assert setting.described(KREBIT) == "through proxy.example:3128 (upstream.proxy)"
    assert WayOut.from_setting("http://[::1]").described(KREBIT) == "through [::1]:80 (upstream.proxy)"


@pytest.mark.parametrize("value", [None, "none"])
def test_without_a_proxy_the_way_is_direct(value: str | None) -> None:
    assert WayOut.from_setting(value).described(KREBIT) == "direct"
    assert way().described(KREBIT) == "direct"


@pytest.mark.parametrize(
    ("environ", "taken"),
    [
        ({"HTTPS_PROXY": "http://a:1"}, "a:1 (HTTPS_PROXY)"),
        ({"https_proxy": "http://b:1", "HTTPS_PROXY": "http://a:1"}, "b:1 (https_proxy)"),
        ({"https_proxy": "", "HTTPS_PROXY": "http://a:1"}, "a:1 (HTTPS_PROXY)"),
        ({"HTTPS_PROXY": "", "all_proxy": "http://d:1"}, "d:1 (all_proxy)"),
        ({"ALL_PROXY": "http://c:1", "HTTPS_PROXY": "http://a:1"}, "a:1 (HTTPS_PROXY)"),
        ({"all_proxy": "http://d:1", "ALL_PROXY": "http://c:1"}, "d:1 (all_proxy)"),
        ({"HTTPS_PROXY": "a:3128"}, "a:3128 (HTTPS_PROXY)"),
        ({"HTTPS_PROXY": "a"}, "a:1080 (HTTPS_PROXY)"),
        ({"HTTPS_PROXY": "http://me:secret@a/"}, "a:1080 (HTTPS_PROXY)"),
        ({"HTTPS_PROXY": "http://a:"}, "a:1080 (HTTPS_PROXY)"),
    ],
)
def test_the_environment_is_read_as_curl_reads_it(environ: dict[str, str], taken: str) -> None:
    assert way(**environ).described(KREBIT) == f"through {taken}"
    assert way(**environ).problem == ""


@pytest.mark.parametrize(
    "environ",
    [
        {"http_proxy": "http://a:1"},
        {"https_proxy": " ", "all_proxy": "http://a:1"},
    ],
)
def test_these_variables_name_no_proxy(environ: dict[str, str]) -> None:
    assert way(**environ).described(KREBIT) == "direct"


@pytest.mark.parametrize(
    ("listed", "direct", "through"),
    [
        ("krebit.se", ["acme.krebit.se", "krebit.se", "ACME.Krebit.SE."], ["notkrebit.se", "krebit.se.example"]),
        (".krebit.se", ["acme.krebit.se", "krebit.se"], ["akrebit.se"]),
        ("KREBIT.se.", ["acme.krebit.se"], []),
        ("a.example, acme.krebit.se b.example", ["acme.krebit.se", "x.b.example"], ["beta.krebit.se"]),
        ("*", ["acme.krebit.se", "192.0.2.1"], []),
        ("*.krebit.se, .", [], ["acme.krebit.se"]),
        ("acme.krebit.se:443", [], ["acme.krebit.se"]),
        ("192.0.2.1", ["192.0.2.1"], ["192.0.2.10", "1.192.0.2.1.example"]),
        ("192.0.2.77/24", ["192.0.2.1"], ["192.0.3.1", "acme.krebit.se"]),
        ("192.0.2.0/33, 2001:db8::/32", ["[2001:db8::1]"], ["192.0.2.0", "[2001:db9::1]"]),
        ("[2001:db8::1]", ["[2001:DB8:0::1]"], ["[2001:db8::2]"]),
        ("", ["localhost", "127.0.0.1", "[::1]", "krebit.localhost"], ["acme.krebit.se"]),
    ],
)
def test_exceptions_are_reached_directly(listed: str, direct: list[str], through: list[str]) -> None:
    out = way(HTTPS_PROXY="http://a:1", NO_PROXY=listed)

    assert [host for host in direct if out.proxy_to(f"https://{host}/")] == []
    assert [host for host in through if not out.proxy_to(f"https://{host}/")] == []


def test_exceptions_in_small_letters_come_first_unless_empty() -> None:
    assert way(HTTPS_PROXY="http://a:1", no_proxy="b", NO_PROXY="*").proxy_to(KREBIT) == "http://a:1"
    assert way(HTTPS_PROXY="http://a:1", no_proxy="", NO_PROXY="*").proxy_to(KREBIT) is None


@pytest.mark.parametrize("value", ["socks5://me:secret@a:1", "https://me:secret@a:1"])
def test_a_proxy_of_another_kind_is_a_problem_that_shows_no_value(value: str) -> None:
    problem = way(HTTPS_PROXY=value).problem

    assert problem.startswith("names a proxy that is not supported; set upstream.proxy to one that starts with http://")
    assert "secret" not in problem


@pytest.mark.parametrize("value", ["http://me:secret@[::1", "http://a:secret", "http://", "http://me:sec ret@a b:1"])
def test_a_proxy_that_is_none_is_a_problem_that_shows_no_value(value: str) -> None:
    assert way(HTTPS_PROXY=value).problem == "is not the URL of a proxy; correct it, or set upstream.proxy: none"
