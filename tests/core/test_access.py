"""The access settings, compiled: every problem at once, and who a peer is."""

import pytest

from krebit_proxy.core.access import Caller, Peer, Rules
from krebit_proxy.errors import SettingsError


def test_every_problem_is_told_at_once() -> None:
    with pytest.raises(SettingsError) as error:
        Rules.compiled(
            allowed_hosts=["localhost:80", "a b"],
            allowed_origins=["null", "http://a/x"],
            allow_clients=["10.0.0.1/8", "uid:x"],
            require_header="X Y",
            allow=[([], ["/x", "/api/a**"], [])],
        )
    starts = [problem.partition(":")[0] for problem in error.value.problems]
    assert starts == [
        "access.allowed_hosts",
        "access.allowed_hosts",
        "access.allowed_origins",
        "access.allowed_origins",
        "access.require_header",
        "access.allow_clients",
        "access.allow_clients",
        "access.allow",
        "access.allow",
    ]


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
        Caller("loopback"), allowed=True, loopback=True, here=True, local=b"[::1]", address="::1", site="::/64"
    )


def test_one_place_is_an_ipv4_address_or_an_ipv6_network() -> None:
    addresses = ("192.0.2.1", "::ffff:192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::ffff:1", "2001:db8:0:1::1")
    sites = [Rules().peer(address, "::1").site for address in addresses]
    assert sites == ["192.0.2.1", "192.0.2.1", "192.0.2.2", "2001:db8::/64", "2001:db8::/64", "2001:db8:0:1::/64"]


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
