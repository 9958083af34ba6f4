"""What the access settings may be, what is compiled from them, and who a peer is."""

import pytest

from krebit_proxy.core.access import Caller, Peer, Rules, allowed_client, allowed_host, allowed_origin


@pytest.mark.parametrize(
    ("value", "taken"),
    [
        ("A.example.", "a.example"),
        ("krebit_proxy", "krebit_proxy"),
        ("192.0.2.1", "192.0.2.1"),
        ("2001:DB8:0::1", "[2001:db8::1]"),
        ("[::1]", "[::1]"),
    ],
)
def test_a_host_is_taken_as_callers_write_it(value: str, taken: str) -> None:
    assert allowed_host(value) == taken
    assert Rules.compiled(allowed_hosts=[value]).hosts == {taken.encode()}


@pytest.mark.parametrize(
    "value", ["", "localhost:80", "a b", "*", "*.example", "https://a", "fe80::1%eth0", "å.example"]
)
def test_what_can_be_no_host_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="is not a host name"):
        allowed_host(value)


@pytest.mark.parametrize(
    "value",
    [
        "https://a.example",
        "http://localhost:3000",
        "http://my_app:80",
        "http://[::1]:1",
        "tauri://localhost",
        "chrome-extension://hfjbmaddmnpcffkhlmllikcknhgeacmo",
        "moz-extension://5b3a-1",
        "app://obsidian.md",
        "vscode-webview://" + "0" * 70,
        "capacitor://localhost",
    ],
)
def test_an_origin_may_be_of_a_site_an_extension_or_an_app(value: str) -> None:
    assert allowed_origin(value) == value


@pytest.mark.parametrize(
    "value",
    [
        "",
        "null",
        "*",
        "a.example",
        "https://",
        "file://",
        "http://a/x",
        "https://a/",
        "https://A.example",
        "http://a b",
        "https://me@a",
        "http://a:65536",
        "http://a:",
        "http://-a",
        "http://[zz]",
        "chrome-extension://*",
        "http://a\n",
    ],
)
def test_what_is_no_origin_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="is not an origin"):
        allowed_origin(value)


def test_a_client_is_a_network_or_an_owner_of_a_process() -> None:
    assert str(allowed_client("10.0.0.1")) == "10.0.0.1/32"
    assert allowed_client("uid:1000") == "uid:1000"


@pytest.mark.parametrize(
    ("value", "told"),
    [("10.0.0.1/8", "did you mean 10.0.0.0/8"), ("uid:x", "is not an IP"), ("uid:\u0661", "is not an")],
)
def test_what_is_no_client_is_refused(value: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        allowed_client(value)


def test_names_of_fields_and_methods_are_tokens() -> None:
    assert Rules.compiled(require_header="X-A").require_header == b"x-a"
    for value in ("X Y", "", "X:", "Å"):
        with pytest.raises(ValueError, match="not a name that HTTP allows"):
            Rules.compiled(require_header=value)
        with pytest.raises(ValueError, match="not a name that HTTP allows"):
            Rules.compiled(allow=[([value], [], [])])


def test_rules_are_open_until_one_limits_callers_methods_or_paths() -> None:
    assert Rules.compiled(allowed_hosts=["a"], allowed_origins=["http://a"], allow_clients=["::/0"]).open
    assert not Rules.compiled(client_keys={"a": b""}).open
    assert not Rules.compiled(require_header="X").open
    assert not Rules.compiled(read_only=True).open
    assert not Rules.compiled(allow=[([], [], [])]).open


def test_a_peer_is_named_by_the_network_that_lets_it_in() -> None:
    rules = Rules.compiled(allow_clients=["10.1.0.0/16", "10.0.0.0/8", "fd00::/8"])
    assert rules.peer("10.1.2.3", "10.0.0.1").caller == Caller("10.1.0.0/16")
    assert rules.peer("10.2.2.3", "10.0.0.1").caller == Caller("10.0.0.0/8")
    assert rules.peer("fd00::1%eth0", "fd00::2").caller == Caller("fd00::/8")
    assert rules.peer("::ffff:10.2.2.3", "::ffff:10.0.0.1").local == b"10.0.0.1"
    assert rules.peer("10.2.2.3", "10.0.0.1", name="billing").caller == Caller("billing")
    assert not rules.peer("127.0.0.1", "127.0.0.1").allowed
    assert rules.peer("127.0.0.1", "127.0.0.1").loopback


def test_a_certificate_is_needed_where_the_rules_ask_for_one() -> None:
    rules = Rules.compiled(certificates=True, allow_clients=["10.0.0.0/8"])
    assert not rules.peer("10.0.0.1", "10.0.0.1").allowed
    assert not rules.peer("11.0.0.1", "10.0.0.1", name="billing").allowed
    assert rules.peer("10.0.0.1", "10.0.0.1", name="billing").allowed
    assert rules.peer("10.0.0.1", "10.0.0.1", name="").caller == Caller("10.0.0.0/8")


def test_without_networks_every_tcp_peer_is_let_in() -> None:
    peer = Rules().peer("192.0.2.1", "192.0.2.2", scheme=b"https")
    assert peer == Peer(
        Caller("network"),
        allowed=True,
        loopback=False,
        here=False,
        local=b"192.0.2.2",
        scheme=b"https",
        address="192.0.2.1",
        site="192.0.2.1",
    )
    assert Rules().peer("::1", "::1") == Peer(
        Caller("loopback"), allowed=True, loopback=True, here=True, local=b"[::1]", address="::1", site="this computer"
    )


def test_one_place_is_an_ipv4_address_or_an_ipv6_network() -> None:
    addresses = ("192.0.2.1", "::ffff:192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::ffff:1", "2001:db8:0:1::1")
    sites = [Rules().peer(address, "::1").site for address in addresses]
    assert sites == ["192.0.2.1", "192.0.2.1", "192.0.2.2", "2001:db8::/64", "2001:db8::/64", "2001:db8:0:1::/64"]


@pytest.mark.parametrize(
    "address",
    [
        "192.0.2.1",
        "::ffff:192.0.2.1",
        "2002:c000:201::1",  # 6to4 (RFC 3056)
        "64:ff9b::c000:201",  # NAT64 (RFC 6052)
        "2001:0:5ef5:79fd::3fff:fdfe",  # Teredo (RFC 4380): the client's address, inverted
    ],
)
def test_one_place_is_known_by_the_ipv4_address_within_an_ipv6_address(address: str) -> None:
    assert Rules().peer(address, "::1").site == "192.0.2.1"


@pytest.mark.parametrize("address", ["127.0.0.1", "192.0.2.1", "fd00::2", "fe80::1%eth0"])
def test_all_addresses_of_this_computer_are_one_place(address: str) -> None:
    assert Rules().peer(address, address).site == "this computer"


def test_a_peer_that_calls_from_our_own_address_is_on_this_computer() -> None:
    assert Rules().peer("192.0.2.7", "192.0.2.7").here
    assert Rules().peer("::ffff:192.0.2.7", "192.0.2.7").here
    assert not Rules().peer("192.0.2.8", "192.0.2.7").here


def test_a_unix_peer_is_judged_by_its_uid_and_gid_where_rules_name_any() -> None:
    assert Rules.compiled(allow_clients=["10.0.0.0/8"]).unix_peer(7, 8).allowed
    rules = Rules.compiled(allow_clients=["uid:7", "gid:33"])
    assert rules.unix_peer(7, 8) == Peer(Caller("uid:7"), allowed=True, loopback=True, here=True, unix=True)
    assert rules.unix_peer(9, 33).allowed
    assert not rules.unix_peer(33, 7).allowed
    assert not rules.peer("127.0.0.1", "127.0.0.1").allowed


def test_a_line_without_limits_covers_everything() -> None:
    (line,) = Rules.compiled(allow=[([], [], [])]).allow
    assert line.covers("anyone", b"DELETE", {b"/api/x"})
    assert line.text == "any method on any path"
