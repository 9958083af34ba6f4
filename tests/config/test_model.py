"""Values that can never work are refused before anything starts, alone or together."""

from pathlib import Path
from typing import Any

import pytest

from krebit_proxy.config import Settings, load
from krebit_proxy.config.addresses import split_listen
from krebit_proxy.errors import SettingsError
from krebit_proxy.web.admission import access_rules


def check(tmp_path: Path, **settings: Any) -> list[str]:
    """The problems of settings that are given as YAML in flow style."""
    values = {"organization": "acme", "client_id": "abc", "client_secret": "s3cret"} | settings
    path = tmp_path / "config.yaml"
    path.write_text("".join(f"{key}: {value}\n" for key, value in values.items()))
    path.chmod(0o600)
    try:
        load(path, {})
    except SettingsError as error:
        return [problem.split(": ", 1)[1] for problem in error.problems]
    return []


@pytest.mark.parametrize("organization", ["acme", "a", "a-b", "0x", "a" * 63])
def test_an_organization_is_a_dns_label(tmp_path: Path, organization: str) -> None:
    assert check(tmp_path, organization=f'"{organization}"') == []


@pytest.mark.parametrize(
    "organization", ["", "-a", "a-", "A", "a.b", "a_b", "evil.com/#", "x@evil", "a" * 64, "å", "a\\n"]
)
def test_an_organization_that_would_change_the_host_is_refused(tmp_path: Path, organization: str) -> None:
    (problem,) = check(tmp_path, organization=f'"{organization}"')

    assert problem.startswith("organization: must be the word before .krebit.se")


@pytest.mark.parametrize(
    "url",
    [
        "https://{organization}.krebit.se",
        "https://{organization}.krebit.se/",
        "https://krebit.example:8443",
        "http://localhost:1",
        "http://127.0.0.1:1",
        "http://[::1]:1",
        "http://krebit.localhost",
        "https://192.0.2.1",
        "https://a_b.example",
    ],
)
def test_an_upstream_is_an_origin(tmp_path: Path, url: str) -> None:
    assert check(tmp_path, upstream=f'{{url: "{url}"}}') == []


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://krebit.example", "uses plain http to another computer"),
        ("http://0.0.0.0:80", "uses plain http to another computer"),
        ("ftp://krebit.example", "must start with https://"),
        ("krebit.example", "must start with https://"),
        ("https://", "has no valid host name"),
        ("https://-a.example", "has no valid host name"),
        ("https://{org}.krebit.se", "is not a URL"),
        ("https://krebit.example/api", "must end after the host name and port"),
        ("https://krebit.example?x", "must end after the host name and port"),
        ("https://krebit.example#x", "must not contain a fragment"),
        ("https://me@krebit.example", "must not contain a user name"),
        ("https://krebit.example:99999", "is not a URL: its host or port"),
        ("https://[::1", "is not a URL: its host or port"),
        ("https://krebit example", "is not a URL: percent-encode its spaces"),
    ],
)
def test_an_upstream_that_can_never_work_is_refused(tmp_path: Path, url: str, problem: str) -> None:
    (found,) = check(tmp_path, upstream=f'{{url: "{url}"}}')

    assert found.startswith(f"upstream.url: {problem}")


@pytest.mark.parametrize(
    "uri",
    [
        "http://localhost:8321/setup/callback",
        "http://127.0.0.1/cb?tenant=1",
        "https://proxy.example/setup/callback",
        "https://elsewhere.example/",  # not served by this proxy, so its path is nobody's
        "https://elsewhere.example/api/cb",
    ],
)
def test_a_redirect_uri_that_can_work_is_taken(tmp_path: Path, uri: str) -> None:
    assert check(tmp_path, redirect_uri=f'"{uri}"', access="{allowed_hosts: [proxy.example]}") == []


@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        ("http://localhost:8321", "has the path /, which this proxy needs"),
        ("http://localhost:8321/", "has the path /, which this proxy needs"),
        ("http://localhost:8321/setup", "has the path /setup, which this proxy needs"),
        ("http://localhost:8321/setup/paste", "has the path /setup/paste, which this proxy needs"),
        ("http://localhost:8321/metrics", "has the path /metrics, which this proxy needs"),
        ("http://localhost:8321/api/cb", "has the path /api/cb, which this proxy needs"),
        ("http://localhost:8321/%61pi/cb", "has the path /%61pi/cb, which this proxy needs"),
        ("https://Proxy.example/healthz", "has the path /healthz, which this proxy needs"),
        ("http://localhost:8321/cb#", "must not contain a fragment"),
        ("http://proxy.example/cb", "uses plain http to another computer"),
        ("/setup/callback", "must start with https://"),
        ("myapp://callback", "must start with https://"),
    ],
)
def test_a_redirect_uri_that_can_never_work_is_refused(tmp_path: Path, uri: str, problem: str) -> None:
    (found,) = check(tmp_path, redirect_uri=f'"{uri}"', access="{allowed_hosts: [Proxy.example]}")

    assert found.startswith(f"redirect_uri: {problem}")


@pytest.mark.parametrize(
    ("uri", "problems"),
    [
        ("http://localhost:8321/setup/callback", 1),
        ("https://localhost:8321/setup/callback", 0),
        ("http://localhost:8322/setup/callback", 0),  # something else listens there
        ("https://elsewhere.example/cb", 0),
    ],
)
def test_a_browser_comes_back_in_the_language_that_the_port_speaks(tmp_path: Path, uri: str, problems: int) -> None:
    (tmp_path / "tls.pem").touch(0o600)
    found = check(tmp_path, redirect_uri=f'"{uri}"', tls_cert_file="tls.pem")
    assert len(found) == problems
    assert all(text.startswith("redirect_uri: must start with https://") for text in found)
    assert check(tmp_path, redirect_uri=f'"{uri}"') == []


@pytest.mark.parametrize("key", ["authorize_url", "token_url", "revoke_url"])
def test_an_oauth_url_never_sends_secrets_in_the_clear(tmp_path: Path, key: str) -> None:
    assert check(tmp_path, oauth=f'{{{key}: "https://a.example/x?y=z"}}') == []
    (found,) = check(tmp_path, oauth=f'{{{key}: "http://a.example/x"}}')

    assert found.startswith(f"oauth.{key}: uses plain http to another computer")


def test_oauth_urls_replace_the_derived_ones() -> None:
    settings = Settings.model_validate(
        {
            "organization": "acme",
            "client_id": "abc",
            "client_secret": "s",
            "oauth": {"authorize_url": "https://id.example/a", "token_url": "https://id.example/t"},
        }
    )

    assert settings.authorize_url == "https://id.example/a"
    assert settings.token_url == "https://id.example/t"


class TestListen:
    @pytest.mark.parametrize(
        "address",
        [
            "localhost:8321",
            "127.0.0.1:0",
            "[::1]:8321",
            "127.9.9.9:1",
            "proxy.localhost:1",
            "unix:/run/p.sock",
            "fd:3",
            "8321",
            "my_proxy.localhost:1",
        ],
    )
    def test_stays_on_this_computer(self, tmp_path: Path, address: str) -> None:
        assert check(tmp_path, listen=f'"{address}"') == []

    @pytest.mark.parametrize("address", ["0.0.0.0:8321", "[::]:8321", "192.0.2.1:1", "proxy.example:1"])
    def test_beyond_it_must_be_meant(self, tmp_path: Path, address: str) -> None:
        (found,) = check(tmp_path, listen=f'"{address}"')

        assert found.startswith(f"listen: listening on {address} lets other computers use your grant.")
        assert found.splitlines()[1:] == [
            "    expose: true",
            "    client_keys_file: client-keys        # one name:key per line; or allow_clients: [10.0.0.0/8]",
        ]

    def test_beyond_it_needs_both_lines(self, tmp_path: Path) -> None:
        listen = '"0.0.0.0:8321"'
        assert len(check(tmp_path, listen=listen, access="{expose: true}")) == 1
        assert len(check(tmp_path, listen=listen, access="{allow_clients: 10.0.0.0/8}")) == 1
        assert check(tmp_path, listen=listen, access="{expose: true, allow_clients: 10.0.0.0/8}") == []

    @pytest.mark.parametrize(
        ("address", "problem"),
        [
            ("port", "is not an address"),
            (":8321", "has '' as the host"),
            ("*:8321", "has '*' as the host"),
            ("::1:8321", "is not an address"),
            ("localhost:http", "is not an address"),
            ("localhost:65536", "has port 65536; the highest port is 65535"),
            ("unix:relative", "is not an address"),
        ],
    )
    def test_that_can_never_work_is_refused(self, tmp_path: Path, address: str, problem: str) -> None:
        (found,) = check(tmp_path, listen=f'"{address}"')

        assert found.startswith(f"listen[0]: {problem}")

    def test_twice_at_one_place_is_refused(self, tmp_path: Path) -> None:
        assert check(tmp_path, listen='["localhost:1", "localhost:1"]') == ["listen: contains the same address twice"]

    def test_says_nothing_of_exposure_while_it_cannot_be_read(self, tmp_path: Path) -> None:
        assert len(check(tmp_path, listen='["0.0.0.0:1", "nonsense"]')) == 1


def test_exposure_names_who_may_call_even_before_it_is_used(tmp_path: Path) -> None:
    (found,) = check(tmp_path, access="{expose: true}")

    assert found.startswith("access.expose: needs client_keys_file or allow_clients, so that")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"listen": '"0.0.0.0:1"', "access": "{expose: true, allow_clients: 10.0.0.0/8}"}, True),
        ({"listen": '"fd:3"', "access": "{expose: true, allow_clients: 10.0.0.0/8}"}, True),
        ({"listen": '"localhost:1"', "access": "{expose: true, allow_clients: 10.0.0.0/8}"}, False),
        ({"listen": '"0.0.0.0:1"', "access": "{expose: true, allow_clients: 10.0.0.0/8, require_header: X-A}"}, False),
    ],
)
def test_exposure_without_tls_needs_attention(tmp_path: Path, settings: dict[str, str], told: bool) -> None:
    assert check(tmp_path, **settings) == []
    cautions = [caution for caution in load(tmp_path / "config.yaml", {}).cautions if "access.expose" in caution]

    assert ["set tls_cert_file" in caution for caution in cautions] == [True] * told


@pytest.mark.parametrize(
    ("access", "problem"),
    [
        ('{allowed_hosts: "*"}', "access.allowed_hosts[0]: is not a host name"),
        ('{allowed_hosts: "a.example:80"}', "access.allowed_hosts[0]: is not a host name"),
        ('{allowed_origins: "a.example"}', "access.allowed_origins[0]: is not an origin"),
        ('{allowed_origins: "https://a.example/"}', "access.allowed_origins[0]: is not an origin"),
        ('{allowed_origins: "https://A.example"}', "access.allowed_origins[0]: is not an origin"),
        ('{allowed_origins: "*"}', "access.allowed_origins[0]: is not an origin"),
        ('{allowed_origins: "https://me@a.example"}', "access.allowed_origins[0]: is not an origin"),
        ('{allowed_origins: "null"}', "access.allowed_origins[0]: is not an origin"),
        ('{allowed_origins: "chrome-extension://*"}', "access.allowed_origins[0]: is not an origin"),
        ('{allowed_hosts: "fe80::1%eth0"}', "access.allowed_hosts[0]: is not a host name"),
        (
            '{allow_clients: "10.0.0.1/8"}',
            "access.allow_clients[0]: has bits set outside its prefix; did you mean 10.0.0.0/8?",
        ),
        ('{allow_clients: "office"}', "access.allow_clients[0]: is not an IP address or network"),
        ('{require_header: "X Y"}', "access.require_header: is not a name that HTTP allows here"),
        (
            "{allow: [{methods: [GET], paths: [/setup]}]}",
            "access.allow[0].paths[0]: it must start with /api/",
        ),
        ('{allow: [{methods: ["G T"]}]}', "access.allow[0].methods[0]: is not a name that HTTP allows here"),
    ],
)
def test_access_rules_that_can_never_match_are_refused(tmp_path: Path, access: str, problem: str) -> None:
    (found,) = check(tmp_path, access=access)

    assert found.startswith(problem)


def test_an_ipv6_address_is_a_host_with_and_without_brackets(tmp_path: Path) -> None:
    assert check(tmp_path, access='{allowed_hosts: ["2001:db8::1"]}') == []
    assert load(tmp_path / "config.yaml", {}).access.allowed_hosts == ("[2001:db8::1]",)


def test_a_port_alone_is_one_of_localhost(tmp_path: Path) -> None:
    assert check(tmp_path, listen="8321") == []
    assert load(tmp_path / "config.yaml", {}).listen == ("localhost:8321",)
    assert check(tmp_path, listen='[8321, "localhost:8321"]') == ["listen: contains the same address twice"]


def test_settings_that_were_read_can_be_compiled(tmp_path: Path) -> None:
    access = (
        '{allowed_hosts: [A.example., krebit_proxy, "::1", 10.0.0.1], allowed_origins: ["tauri://localhost"],'
        ' allow_clients: ["10.0.0.0/8", "gid:7"], require_header: X-A, allow: [{methods: [get], paths: [/api/x]}]}'
    )
    assert check(tmp_path, access=access) == []
    rules = access_rules(load(tmp_path / "config.yaml", {}))

    assert rules.hosts == {b"a.example", b"krebit_proxy", b"[::1]", b"10.0.0.1"}
    assert rules.allow[0].methods == {b"GET", b"HEAD"}


def test_access_rules_that_can_match_are_taken(tmp_path: Path) -> None:
    access = (
        '{allowed_hosts: [a.example, krebit_proxy, 192.0.2.1, "[2001:db8::1]"],'
        ' allowed_origins: ["https://a.example:1", "tauri://localhost", "chrome-extension://abcdefgh"],'
        ' allow_clients: [10.0.0.1, "2001:db8::/32", "uid:1000"], require_header: X-Krebit-Proxy,'
        ' allow: [{methods: [GET], paths: ["/api/invoices/{id}", /api/a/**]}]}'
    )

    assert check(tmp_path, access=access) == []


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("store", "memory", "store: must be file:FOLDER or postgresql://"),
        ("store", '"file:"', "store: must be file:FOLDER or postgresql://"),
        ("store", "postgresql://db/x", "encryption_key_file: must be set if the store is a database"),
        ("replay", "{max_body: 2MiB, max_total: 1MiB}", "replay.max_body: is more than replay.max_total"),
        ("client_id", '"a\\tb"', "client_id: is empty, or contains a character that a client id cannot contain"),
        ("limits", "{header_bytes: 10}", "limits.header_bytes: must be more than or equal to 1024"),
        ("upstream", "{proxy: 'socks5://x'}", "upstream.proxy: must start with http://"),
        ("upstream", "{proxy: 'https://x:443'}", "upstream.proxy: must start with http://"),
        ("notify", "{webhook: nowhere}", "notify.webhook: must start with https://"),
        ("notify", "{webhook: 'http://alerts.example/'}", "notify.webhook: uses plain http to another computer"),
        ("notify", "{command: 'mail \"'}", "notify.command: is not a valid command line: No closing quotation"),
        ("notify", "{command: '  '}", "notify.command: is not a command"),
        ("log", "{level: loud}", "log.level: must be 'debug', 'info', 'warning' or 'error'"),
    ],
)
def test_other_values_that_can_never_work_are_refused(tmp_path: Path, key: str, value: str, problem: str) -> None:
    (found,) = check(tmp_path, **{key: value})

    assert found.startswith(problem)


def test_rules_between_settings_are_checked_even_when_one_of_them_is_wrong(tmp_path: Path) -> None:
    found = check(tmp_path, organization="A.B", listen='"0.0.0.0:1"', redirect_uri="http://localhost:1/api/cb")

    assert [problem.split(":")[0] for problem in found] == ["organization", "listen", "redirect_uri"]


def test_a_listen_address_is_taken_apart() -> None:
    assert split_listen("[::1]:8321") == ("::1", 8321)
    assert split_listen("localhost:0") == ("localhost", 0)
    assert split_listen("8321") == ("localhost", 8321)
    assert split_listen("unix:/run/proxy.sock") is None
