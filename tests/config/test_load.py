import os
from collections.abc import Callable
from pathlib import Path

import pytest

from krebit_proxy.config import Settings, load
from krebit_proxy.config.load import find
from krebit_proxy.config.secrets import ABSENT, exposure
from krebit_proxy.core.secret import Secret
from krebit_proxy.errors import SettingsError
from tests.fakes.certificates import Authority

MINIMUM = "organization: acme\nclient_id: abc\nclient_secret: s3cret\n"

Write = Callable[..., Path]


@pytest.fixture(name="write")
def _write(tmp_path: Path) -> Write:
    def write(text: str, name: str = "config.yaml", mode: int = 0o600) -> Path:
        path = tmp_path / name
        path.write_text(text)
        path.chmod(mode)
        return path

    return write


def problems(path: Path | None, environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(path, environ or {})
    prefix = f"{path.parent}/" if path else "-"
    return [line.replace(prefix, "") for line in caught.value.problems]


def cautions(path: Path) -> list[str]:
    return [line.replace(f"{path.parent}/", "") for line in load(path, {}).cautions]


def test_three_settings_are_enough(write: Write) -> None:
    settings = load(write(MINIMUM), {})

    assert settings.organization == "acme"
    assert settings.client_secret == Secret("s3cret")
    assert settings.upstream_origin == "https://acme.krebit.se"
    assert settings.authorize_url == "https://acme.krebit.se/oauth/authorize"
    assert settings.token_url == "https://acme.krebit.se/api/oauth/token"
    assert settings.listen == ("localhost:8321",)


def test_the_environment_alone_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load(
        None,
        {
            "KREBIT_PROXY_ORGANIZATION": "acme",
            "KREBIT_PROXY_CLIENT_ID": "0123",
            "KREBIT_PROXY_CLIENT_SECRET": "no",
            "UNRELATED": "x",
        },
    )

    assert settings.client_id == "0123"
    assert settings.client_secret == Secret("no")
    assert settings.store == f"file:{tmp_path}/grant"


def test_the_environment_wins_over_the_file(write: Write) -> None:
    path = write(MINIMUM + "listen: localhost:1\nlimits: {drain: 3, connections: 7}\noauth: {pkce: true}\n")
    environ = {
        "KREBIT_PROXY_LISTEN": "['127.0.0.1:2', '[::1]:2']",
        "KREBIT_PROXY_LIMITS__DRAIN": "2.5",
        "KREBIT_PROXY_OAUTH__PKCE": "false",
        "KREBIT_PROXY_OAUTH__SCOPE": "123",
        "KREBIT_PROXY_REPLAY__MAX_BODY": "2MiB",
        "KREBIT_PROXY_ACCESS__ALLOW": "[{methods: GET, paths: /api/a}]",
    }
    settings = load(path, environ)

    assert settings.listen == ("127.0.0.1:2", "[::1]:2")
    assert (settings.limits.drain, settings.limits.connections) == (2.5, 7)
    assert settings.oauth.pkce is False
    assert settings.oauth.scope == "123"
    assert settings.replay.max_body == 2 << 20
    assert settings.access.allow[0].methods == ("GET",)


@pytest.mark.parametrize(
    ("value", "listen"),
    [
        ("[::1]:8321", ("[::1]:8321",)),
        ("8321", ("localhost:8321",)),
        ("8321, 8322", ("localhost:8321", "localhost:8322")),
        ("localhost:1, [::1]:2,unix:/run/x?mode=0660", ("localhost:1", "[::1]:2", "unix:/run/x?mode=0660")),
        ("[localhost:1, localhost:2]", ("localhost:1", "localhost:2")),
    ],
)
def test_a_variable_gives_a_list_as_yaml_or_with_commas(write: Write, value: str, listen: tuple[str, ...]) -> None:
    assert load(write(MINIMUM), {"KREBIT_PROXY_LISTEN": value}).listen == listen


def test_an_empty_value_leaves_the_default(write: Write) -> None:
    settings = load(write(MINIMUM + "oauth:\n  scope:\nlimits:\n"), {"KREBIT_PROXY_STORE": ""})

    assert settings.oauth.scope == ""
    assert settings.limits.connections == 1000
    assert settings.store.endswith("/grant")


def test_variables_that_kubernetes_adds_for_a_service_are_not_settings(write: Write) -> None:
    environ = {
        "KREBIT_PROXY_CONFIG": "elsewhere.yaml",
        "KREBIT_PROXY_SERVICE_HOST": "10.0.0.1",
        "KREBIT_PROXY_SERVICE_PORT_HTTP": "8321",
        "KREBIT_PROXY_PORT": "tcp://10.0.0.1:8321",
        "KREBIT_PROXY_PORT_8321_TCP_ADDR": "10.0.0.1",
    }

    assert load(write(MINIMUM), environ).listen == ("localhost:8321",)


def test_what_a_command_that_is_told_finds_in_its_environment_is_no_setting(write: Write) -> None:
    assert load(write(MINIMUM), {"KREBIT_PROXY_EVENT": "problem"}).organization


def test_relative_paths_are_relative_to_the_file(write: Write, tmp_path: Path) -> None:
    write("a:b", "keys")
    Authority(tmp_path)  # writes its ca.pem
    path = write(MINIMUM + "store: file:state\nencryption_key_file: keys\nupstream: {ca_file: ca.pem}\n")
    settings = load(path, {})

    assert settings.store == f"file:{tmp_path}/state"
    assert settings.encryption_key_file == tmp_path / "keys"
    assert settings.upstream.ca_file == tmp_path / "ca.pem"


def test_every_problem_comes_at_once_with_its_line_and_key(write: Write) -> None:
    path = write(
        """\
organization: https://acme.krebit.se
client-id: abc
client_id: 12
client_secret: s3cret
upstream:
  urll: https://x
  url: http://krebit.example
  connect_timeout: yes
limits:
  drain: -1
access: {cookies: eat, allow: [{path: /api/x}]}
"""
    )

    assert problems(path, {"KREBIT_PROXY_REPLAY__MAX_BODY": "lots"}) == [
        (
            "config.yaml:1: organization: must be the word before .krebit.se: "
            "lower-case letters, digits and hyphens; did you mean acme?"
        ),
        "config.yaml:2: client-id: is not a setting; did you mean client_id?",
        "config.yaml:3: client_id: must be text; put it in quotes",
        "config.yaml:6: upstream.urll: is not a setting; did you mean upstream.url?",
        (
            "config.yaml:7: upstream.url: uses plain http to another computer, "
            "so others could read the tokens; use https"
        ),
        "config.yaml:8: upstream.connect_timeout: must be a number",
        "config.yaml:10: limits.drain: must be more than 0",
        "config.yaml:11: access.allow[0].path: is not a setting; did you mean access.allow.paths?",
        "config.yaml:11: access.cookies: must be 'drop' or 'forward'",
        "KREBIT_PROXY_REPLAY__MAX_BODY: replay.max_body: is not a size; write for example 65536, 16KiB or 1MiB",
    ]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("lissen: localhost:1", "lissen: is not a setting; did you mean listen?"),
        ("url: https://x.example", "url: is not a setting; did you mean upstream.url?"),
        ("upstream_url: https://x.example", "upstream_url: is not a setting; did you mean upstream.url?"),
        ("zzzz: 1", "zzzz: is not a setting"),
        ("client_secret_fil: x", "client_secret_fil: is not a setting; did you mean client_secret_file?"),
        ("upstream: here", "upstream: must be a group of settings, each on its own line"),
        ("listen: []", "listen: must not be empty"),
        ("listen: 1.5", "listen[0]: must be text"),
        ("listen: true", "listen[0]: must be text"),
        ("listen: {port: 8321}", "listen[0]: must be text"),
        ("listen: [8321, 65536]", "listen[1]: has port 65536; the highest port is 65535"),
        ("access: {allowed_hosts: 7}", "access.allowed_hosts: must be a list"),
        ("? [a, b]\n: x", "?: is not a setting"),
        ("oauth: {pkce: 1}", "oauth.pkce: must be true or false"),
        ("limits: {connections: 1.5}", "limits.connections: must be a whole number"),
        ("limits: {connections: 0x_}", "limits.connections: must be a whole number"),
        ("upstream: {ca_file: 7}", "upstream.ca_file: must be a file path"),
        ("oauth: {scope: 2024-01-01, token_url: 2024-01-01}", "oauth.token_url: must start with https://"),
        ("oauth: {scope: !secret x}", "oauth.scope: has a YAML tag (!...); put the value in quotes"),
        ("replay: {max_total: true}", "replay.max_total: is not a size"),
        ('upstream: {ca_file: "a\\0b"}', "upstream.ca_file: contains a NUL character"),
        ("upstream: {ca_file: ~nobody-here/ca.pem}", f"upstream.ca_file: {ABSENT}"),
        ("listen: unix:/run/x?mode=rw", "listen[0]: has a mode that is not octal"),
        ("listen: unix:/run/x?mode=0999", "listen[0]: has a mode that is not octal"),
        ("listen: unix:/run/x?mode=", "listen[0]: has a mode that is not octal"),
        ("listen: unix:/run/x?mode=04755", "listen[0]: has a mode that is not octal"),
        ("listen: unix:/run/x?colour=red", "listen[0]: has an unknown option; write ?mode=0660&group=NAME&user=NAME"),
    ],
)
def test_a_wrong_value_is_named(write: Write, line: str, problem: str) -> None:
    (found,) = problems(write(MINIMUM + line))

    assert found.startswith(f"config.yaml:4: {problem}")


def test_a_key_given_twice_is_an_error(write: Write) -> None:
    assert problems(write(MINIMUM + "upstream:\n  idle_timeout: 1\n  idle_timeout: 2\n")) == [
        "config.yaml:6: upstream.idle_timeout: is set twice; the first is at config.yaml:5"
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("organization: [", "config.yaml:1: invalid YAML: "),
        ("a: b: c", "config.yaml:1: invalid YAML: mapping values are not allowed here"),
        (
            "upstream:\n\turl: x",
            "config.yaml:2: invalid YAML: found character … that cannot start any token; indent with spaces",
        ),
        ("listen: " + "[" * 5000, "config.yaml: is nested too deeply"),
        ("client_secret: !s3cret!x", "config.yaml:1: invalid YAML: found undefined tag handle"),
        ("client_secret: !<s3cret", "config.yaml:1: invalid YAML: expected '>', but found"),
        ('client_secret: "\\s3cret"', "config.yaml:1: invalid YAML: found unknown escape character"),
        ("client_secret: |s3cret", "config.yaml:1: invalid YAML: expected"),
        ("client_secret: %s3cret", "config.yaml:1: invalid YAML: found character … that cannot start any token"),
        ("client_secret: *s3cret", "config.yaml:1: invalid YAML: * starts an alias; put the value in quotes"),
        ("- a\n- b", "config.yaml: must contain settings in the form `name: value`"),
        ("a: \x07", "config.yaml: is not UTF-8 text"),
    ],
)
def test_a_file_that_is_no_settings_file_has_one_problem(write: Write, text: str, problem: str) -> None:
    (found,) = problems(write(text))

    assert found.startswith(problem)
    assert "s3cret" not in found


def test_a_file_of_other_bytes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes(b"\xff\xfe\xfa")

    assert problems(tmp_path / "config.yaml") == ["config.yaml: is not UTF-8 text"]


def test_a_missing_file_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        load(tmp_path / "config.yaml", {})

    assert caught.value.detail == f"{tmp_path}/config.yaml: cannot be read: No such file or directory"
    assert caught.value.hint == "create it with: krebit-proxy init"


def test_without_any_settings_each_missing_one_is_named() -> None:
    assert problems(None) == [
        "environment: organization: is missing",
        "environment: client_id: is missing",
        "environment: client_secret: is missing",
    ]


def test_a_variable_that_is_no_setting_is_an_error(write: Write) -> None:
    environ = {"KREBIT_PROXY_UPSTREAM__URLL": "x", "KREBIT_PROXY_LIMITS__DRAIN": "[", "KREBIT_PROXY_LISTEN__X": "1"}

    assert problems(write(MINIMUM + "listen: localhost:1"), environ) == [
        "KREBIT_PROXY_LIMITS__DRAIN: limits.drain: is not valid YAML; write a number, true, false or a list: [a, b]",
        "KREBIT_PROXY_LISTEN__X: listen.x: is not a setting: listen is a single value, not a group of settings",
        (
            "KREBIT_PROXY_UPSTREAM__URLL: upstream.urll: is not a setting; "
            "did you mean upstream.url (KREBIT_PROXY_UPSTREAM__URL)?"
        ),
    ]
    assert problems(write(MINIMUM), {"KREBIT_PROXY_LIMITS__DRAIN": "[" * 5000}) == [
        "KREBIT_PROXY_LIMITS__DRAIN: limits.drain: is not valid YAML; write a number, true, false or a list: [a, b]",
    ]


class TestTheClientSecret:
    def test_comes_from_its_own_file(self, write: Write) -> None:
        write("s3cret\n", "secret")
        path = write("organization: acme\nclient_id: abc\nclient_secret_file: secret\n", mode=0o644)

        assert load(path, {}).client_secret == Secret("s3cret")

    def test_comes_from_a_file_that_the_environment_names(self, write: Write, tmp_path: Path) -> None:
        write("s3cret", "secret")
        path = write("organization: acme\nclient_id: abc\n")

        environ = {"KREBIT_PROXY_CLIENT_SECRET_FILE": str(tmp_path / "secret")}
        assert load(path, environ).client_secret == Secret("s3cret")

    @pytest.mark.parametrize(
        ("text", "environ"),
        [
            (MINIMUM + "client_secret_file: secret", {}),
            (MINIMUM, {"KREBIT_PROXY_CLIENT_SECRET": "other"}),
            (MINIMUM, {"KREBIT_PROXY_CLIENT_SECRET_FILE": "secret"}),
            (
                "organization: a\nclient_id: b",
                {"KREBIT_PROXY_CLIENT_SECRET": "s3cret", "KREBIT_PROXY_CLIENT_SECRET_FILE": "secret"},
            ),
        ],
    )
    def test_is_never_given_twice(self, write: Write, text: str, environ: dict[str, str]) -> None:
        write("s3cret", "secret")
        (found,) = problems(write(text), environ)

        assert "client_secret: is set more than once, by client_secret" in found
        assert found.endswith("; keep one of them")
        assert "s3cret" not in found

    def test_must_not_be_open_to_change(self, write: Write) -> None:
        changed = "can be changed by every user of this computer; run: chmod 600"
        write("s3cret", "secret", 0o602)
        path = write("organization: acme\nclient_id: abc\nclient_secret_file: secret\n")
        assert problems(path) == [f"config.yaml:3: client_secret_file: secret {changed} secret"]

        assert problems(write(MINIMUM, mode=0o666)) == [
            f"config.yaml:3: client_secret: is in a file that is not safe: config.yaml {changed} config.yaml"
        ]

    @pytest.mark.parametrize(
        ("mode", "caution"),
        [
            (0o644, ["can be read by every user of this computer; run: chmod 600"]),
            (0o660, ["can be changed by its group; run: chmod 600"]),
            (0o640, []),
            (0o600, []),
        ],
    )
    def test_is_cautioned_about_where_others_can_read_it(self, write: Write, mode: int, caution: list[str]) -> None:
        write("s3cret", "secret", mode)
        path = write("organization: acme\nclient_id: abc\nclient_secret_file: secret\n")
        assert cautions(path) == [f"config.yaml:3: client_secret_file: secret {text} secret" for text in caution]

        path = write(MINIMUM, mode=mode)
        assert cautions(path) == [f"config.yaml:3: client_secret: config.yaml {text} config.yaml" for text in caution]

    @pytest.mark.parametrize(
        ("content", "problem"),
        [
            (b"", "client_secret_file: secret is empty; it must contain the secret and nothing else"),
            (b"\n", "client_secret_file: secret is empty; it must contain the secret and nothing else"),
            (b"\xff\xfe", "client_secret_file: secret is not text"),
            (b"two\nlines", "client_secret: is empty, or contains a line break or another character"),
        ],
    )
    def test_must_be_one_line_of_text(self, write: Write, tmp_path: Path, content: bytes, problem: str) -> None:
        write("", "secret")
        (tmp_path / "secret").write_bytes(content)
        (found,) = problems(write("organization: acme\nclient_id: abc\nclient_secret_file: secret\n"))

        assert found.startswith(f"config.yaml:3: {problem}")

    def test_must_be_a_file_that_is_there(self, write: Write, tmp_path: Path) -> None:
        path = write("organization: acme\nclient_id: abc\nclient_secret_file: secret\n")
        assert problems(path) == [f"config.yaml:3: client_secret_file: {ABSENT}"]

        (tmp_path / "secret").mkdir()
        assert problems(path) == ["config.yaml:3: client_secret_file: secret is not a file"]

    def test_must_be_text(self, write: Write) -> None:
        assert problems(write("organization: a\nclient_id: b\nclient_secret: 123")) == [
            "config.yaml:3: client_secret: must be text; put it in quotes"
        ]

    def test_is_not_shown_by_the_settings(self, write: Write) -> None:
        settings = load(write(MINIMUM + "upstream: {proxy: 'http://me:s3cret@proxy:3128'}"), {})

        assert "s3cret" not in repr(settings)


@pytest.mark.parametrize(
    ("lines", "environ"),
    [
        ("encryption_key: k1\nencryption_key_file: keys", {}),
        ("encryption_key: k1", {"KREBIT_PROXY_ENCRYPTION_KEY": "k2"}),
        ("encryption_key_file: keys", {"KREBIT_PROXY_ENCRYPTION_KEY": "k2"}),
        ("encryption_key_file: keys", {"KREBIT_PROXY_ENCRYPTION_KEY_FILE": "keys"}),
        ("", {"KREBIT_PROXY_ENCRYPTION_KEY": "k2", "KREBIT_PROXY_ENCRYPTION_KEY_FILE": "keys"}),
    ],
)
def test_the_keys_of_the_store_are_never_given_twice(write: Write, lines: str, environ: dict[str, str]) -> None:
    write("k1", "keys")
    (found,) = problems(write(MINIMUM + lines), environ)

    assert "encryption_key: is set more than once, by encryption_key" in found
    assert found.endswith("; keep one of them")
    assert "k2" not in found


def test_other_files_must_be_there(write: Write) -> None:
    path = write(MINIMUM + "access: {client_keys_file: keys}\nupstream: {ca_file: none.pem}\n")

    assert problems(path) == [
        f"config.yaml:4: access.client_keys_file: {ABSENT}",
        f"config.yaml:5: upstream.ca_file: {ABSENT}",
    ]


def test_files_of_authorities_must_hold_certificates(write: Write) -> None:
    write("not a certificate", "ca.pem")
    path = write(MINIMUM + "upstream: {ca_file: ca.pem}\ntls_client_ca_file: ca.pem\n")
    complaint = "ca.pem contains no certificate; it must be a PEM file with certificates"

    assert problems(path)[-2:] == [
        f"config.yaml:4: upstream.ca_file: {complaint}",
        f"config.yaml:5: tls_client_ca_file: {complaint}",
    ]


def test_the_keys_of_the_store_must_be_private_and_those_of_callers_should(write: Write) -> None:
    opened = "can be read by every user of this computer; run: chmod 600"
    write("a:b", "keys", 0o644)
    (caution,) = load(write(MINIMUM + "access: {client_keys_file: keys}\n"), {}).cautions
    assert opened in caution

    (problem,) = problems(write(MINIMUM + "encryption_key_file: keys\n"))
    assert problem == f"config.yaml:4: encryption_key_file: keys {opened} keys"


@pytest.mark.parametrize(
    "setting",
    [
        "client_secret_file: {}",
        "encryption_key_file: {}",
        "access: {{client_keys_file: {}}}",
        "tls_key_file: {}\ntls_cert_file: {}",
        "upstream: {{ca_file: {}}}",
        "tls_client_ca_file: {}\ntls_cert_file: {}",
    ],
)
def test_a_file_that_every_user_can_replace_is_refused(write: Write, tmp_path: Path, setting: str) -> None:
    public = tmp_path / "public"
    public.mkdir()
    file = Authority(public).ca_file
    file.chmod(0o600)
    if "client_secret" in setting:
        file.write_text("s3cret")
    needed = "organization: acme\nclient_id: abc"
    more = "redirect_uri: https://localhost:8321/setup/callback\nclient_secret: s3cret"
    path = write(f"{needed}\n{setting.format(file, file)}\n{'' if 'client_secret' in setting else more}")
    assert load(path, {}).cautions == ()
    public.chmod(0o777)

    (problem,) = problems(path)
    remedy = "every user of this computer can write to public, and so replace public/ca.pem; run: chmod o-w public"
    assert problem == f"config.yaml:3: {setting.partition(': {}')[0].replace(': {{', '.')}: {remedy}"


def test_settings_and_a_grant_that_every_user_can_replace_are_cautioned_about(tmp_path: Path) -> None:
    public = tmp_path / "public"
    public.mkdir()
    path = public / "config.yaml"
    path.write_text("organization: acme\nclient_id: abc\n")
    public.chmod(0o777)
    grant, settings = load(path, {"KREBIT_PROXY_CLIENT_SECRET": "s3cret"}).cautions

    writes = f"every user of this computer can write to {public}, and so"
    assert settings == f"{path}: {writes} replace {path}; run: chmod o-w {public}"
    assert grant == f"{path}: store: {writes} move the grant away; run: chmod o-w {public}"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="changes owners")
def test_a_file_of_another_user_is_refused_or_if_no_such_user_is_known_cautioned_about(
    write: Write, tmp_path: Path
) -> None:
    secret = write("s3cret", "secret")
    path = write("organization: acme\nclient_id: abc\nclient_secret_file: secret\n")
    os.chown(secret, 1, 1)
    (problem,) = problems(path)
    assert problem.startswith(
        "config.yaml:3: client_secret_file: secret belongs to user daemon, who can change it; run: "
    )

    os.chown(secret, 54321, 54321)
    (caution,) = cautions(path)
    assert "secret belongs to user 54321, who can change it" in caution


def test_settings_do_not_change_after_loading(write: Write) -> None:
    settings = load(write(MINIMUM), {})

    with pytest.raises(ValueError, match="frozen"):
        settings.organization = "other"  # type: ignore[misc]
    assert isinstance(settings, Settings)


class TestTheFileThatIsUsed:
    def test_is_the_one_that_the_environment_names_even_if_it_is_missing(self, tmp_path: Path) -> None:
        assert find({"KREBIT_PROXY_CONFIG": "mine.yaml"}, tmp_path) == tmp_path / "mine.yaml"

    def test_is_else_the_first_that_is_there(self, tmp_path: Path) -> None:
        environ = {"XDG_CONFIG_HOME": str(tmp_path / "xdg"), "HOME": str(tmp_path)}
        in_home = tmp_path / "xdg" / "krebit-proxy" / "config.yaml"
        in_home.parent.mkdir(parents=True)
        in_home.touch()
        assert find(environ, tmp_path) == in_home

        (tmp_path / "config.yaml").touch()
        assert find(environ, tmp_path) == tmp_path / "config.yaml"

    def test_is_in_the_home_folder_by_default(self, tmp_path: Path) -> None:
        config = tmp_path / ".config" / "krebit-proxy" / "config.yaml"
        config.parent.mkdir(parents=True)
        config.touch()
        assert find({"HOME": str(tmp_path)}, tmp_path / "elsewhere") == config

    @pytest.mark.skipif(Path("/etc/krebit-proxy/config.yaml").exists(), reason="this computer has one")
    def test_may_be_none(self, tmp_path: Path) -> None:
        assert find({"HOME": str(tmp_path)}, tmp_path) is None


def test_mounted_secrets_may_be_readable_by_all_in_their_container(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s3cret")
    secret.chmod(0o444)

    assert exposure(secret) == f"{secret} can be read by every user of this computer; run: chmod 600 {secret}"
    assert exposure(secret, mounts=(tmp_path,)) is None
    assert exposure(tmp_path / "missing") is None


MARK = "Leaky.x9"
BROKEN_YAML = [
    "!{}!x", "!!{}", "!{} x", "*{}", "&{} &{} x", "@{}", "`{}", "%{}", "'{}", '"{}', '"\\q{}"', "\t{}", "[{}", "{{{}",
    "{}: {}: x", "| {}", "|{}", "!<{}", "!<{}> x", "!%zz{} x", "{}\x07", "'{}'{}", "? {}", "]{}", ", {}", "!{}'s\"x",
    "!!int {}", "!!float {}", "!!timestamp {}", "!!binary {}", "!!python/object:{} x", "%YAML 9.{}", "*{}'\"", "\x85{}",
    "&a'{}\" *b'{}\"", "\"{}\" '{}'",
]  # fmt: skip
WRONG_VALUES = [
    MARK, f"[{MARK}]", f"postgresql://u:{MARK}@h/d?x=y z", f"https://u:{MARK}@h:99999/", f"socks5://u:{MARK}@h:1",
    f"http://{MARK}@[::1", f"postgresql://h/{MARK}?sslmode={MARK}", f"https://h/{MARK}#{MARK}",
]  # fmt: skip


@pytest.mark.parametrize(
    "key",
    ["client_secret", "client_secret_file", "encryption_key", "encryption_key_file", "store", "redirect_uri", "listen",
     "upstream.proxy", "upstream.url", "upstream.keepalive", "upstream.ca_file", "notify.webhook", "notify.command",
     "access.allow", "access.allow_clients", "access.client_keys_file", "access.expose", "limits.connections",
     "limits.header_bytes", "oauth.client_auth", "log.level", "tls_key_file"],
)  # fmt: skip
def test_no_error_shows_a_value(write: Write, key: str) -> None:
    """However it is broken, and wherever it stands: it may be a secret."""
    section, _, name = key.rpartition(".")
    shown = []
    for value in [*(broken.format(MARK, MARK) for broken in BROKEN_YAML), *WRONG_VALUES]:
        line = f"{section}:\n  {name}: {value}\n" if section else f"{name}: {value}\n"
        variable = {f"KREBIT_PROXY_{key.upper().replace('.', '__')}": value}
        places: list[tuple[str, dict[str, str]]] = [(MINIMUM + line, {}), (line + MINIMUM, {}), (MINIMUM, variable)]
        for text, environ in places:
            try:
                load(write(text), environ)
            except SettingsError as error:
                if MARK.lower() in f"{error.detail} {error.hint}".lower():
                    shown.append((text, environ, error.detail))

    assert shown == []


def test_a_group_of_settings_in_a_variable_replaces_that_of_the_file(write: Write) -> None:
    settings = load(write(MINIMUM + "limits: {connections: 5}\n"), {"KREBIT_PROXY_LIMITS": "{connections: 7}"})

    assert settings.limits.connections == 7


def test_the_environment_names_the_way_out_unless_the_setting_does(write: Write) -> None:
    environ = {"HTTPS_PROXY": "http://me:secret@proxy.example:3128"}
    url = "https://acme.krebit.se"

    assert load(write(MINIMUM), environ).way_out.described(url) == "through proxy.example:3128 (HTTPS_PROXY)"
    assert load(write(MINIMUM), {**environ, "NO_PROXY": "krebit.se"}).way_out.described(url) == "direct"
    assert load(write(MINIMUM + "upstream: {proxy: none}\n"), environ).way_out.described(url) == "direct"
    other = write(MINIMUM + "upstream: {proxy: 'http://other.example:1'}\n")
    assert load(other, environ).way_out.described(url) == "through other.example:1 (upstream.proxy)"


def test_a_proxy_of_another_kind_in_the_environment_is_a_problem_where_it_would_be_used(write: Write) -> None:
    environ = {"ALL_PROXY": "socks5://me:secret@proxy.example:1080"}
    with pytest.raises(SettingsError) as caught:
        load(write(MINIMUM), environ)

    assert caught.value.detail == (
        "ALL_PROXY: names a proxy that is not supported; set upstream.proxy to one that starts with http://, or to none"
    )
    local = write(MINIMUM + "upstream: {url: 'http://localhost:1'}\n")
    assert load(local, environ).way_out.described("http://localhost:1") == "direct"


@pytest.mark.parametrize("value", ["!!bool Leaky7", "!!int ''", "{Leaky7, Leaky7}", "{a: {Leaky7: 1, Leaky7: 2}}"])
@pytest.mark.parametrize("name", ["client_secret", "listen", "store"])
def test_what_no_setting_can_be_is_a_problem_that_shows_no_value(tmp_path: Path, name: str, value: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(f"organization: acme\nclient_id: a\nworkers: x\n{name}: {value}\n")

    with pytest.raises(SettingsError) as refused:
        load(file, {})
    assert "leaky7" not in str(refused.value).lower()
