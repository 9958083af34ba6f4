"""Who may call: every rule of the local door, and what a plain tool needs to know of them (nothing)."""

from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krebit_proxy.core.access import Caller, Peer, Rules
from krebit_proxy.core.admission import Request, admit, allowed_by, may_call
from krebit_proxy.core.fields import checked
from krebit_proxy.core.head import Head
from krebit_proxy.errors import Refused

DEFAULT = Rules.compiled()
LOCAL = DEFAULT.peer("127.0.0.1", "127.0.0.1")
HOST = (b"Host", b"localhost:8321")
KEYED = Rules.compiled(client_keys={"billing": sha256(b"k1").digest(), "stock": sha256(b"k2").digest()})


def call(
    *fields: tuple[bytes, bytes],
    rules: Rules = DEFAULT,
    peer: Peer = LOCAL,
    method: bytes = b"GET",
    target: bytes = b"/api/x",
    http10: bool = False,
    page: bool = False,
) -> Caller:
    head = Head(fields, checked(fields), http10, length=0, expects=False, withheld=frozenset(), lines=b"")
    return admit(Request(peer, method, target, head, page=page), rules)


def refusal(*fields: tuple[bytes, bytes], **options: Any) -> Refused:
    with pytest.raises(Refused) as refused:
        call(*fields, **options)
    return refused.value


def test_a_plain_tool_on_loopback_needs_nothing() -> None:
    assert call(HOST) is LOCAL.caller
    assert LOCAL.caller == Caller("loopback")


# Host


@pytest.mark.parametrize(
    "host",
    [
        b"localhost",
        b"LocalHost:1",
        b"localhost.",
        b"localhost.:8321",
        b"localhost:",
        b"app.localhost:8321",
        b"my_app.x.localhost",
        b"127.0.0.1",
        b"127.0.0.1:8321",
        b"127.8.255.3",
        b"[::1]",
        b"[::1]:8321",
    ],
)
def test_loopback_names_are_served(host: bytes) -> None:
    assert call((b"Host", host)).name == "loopback"


@pytest.mark.parametrize(
    "host",
    [
        b"",
        b"evil.example",
        b"localhost.evil.example",
        b"localhost..",
        b"notlocalhost",
        b".localhost",
        b"127.0.0.1.evil.example",
        b"127.1",
        b"127.0.0.256",
        b"127.0.0.01",
        b"2130706433",
        b"0x7f.0.0.1",
        b"0.0.0.0",
        b"[::]",
        b"[0:0:0:0:0:0:0:1]",
        b"[::ffff:127.0.0.1]",
        b"::1",
        b"user@localhost",
        b"localhost@evil.example",
        b"localhost:8321@evil",
        b"localhost:x",
        b"localhost:123456",
        b"localhost evil",
        b"localhost, evil",
        b"localhost/",
        b"evil\\localhost",
        b"\xff.localhost",
        b"192.168.1.5",
    ],
)
def test_any_other_name_is_not(host: bytes) -> None:
    error = refusal((b"Host", host))
    assert error.code == "host_not_allowed"
    assert "access.allowed_hosts" in error.hint


def test_a_refused_name_is_shown_only_when_it_is_one() -> None:
    assert "evil.example" in refusal((b"Host", b"evil.example:1")).detail
    assert "<" not in refusal((b"Host", b"<script>")).detail


def test_a_request_has_exactly_one_host() -> None:
    assert refusal(HOST, HOST).code == "host_not_allowed"
    assert refusal().code == "host_not_allowed"
    assert refusal(HOST, HOST, http10=True).code == "host_not_allowed"


def test_http_1_0_may_have_none() -> None:
    assert call(http10=True).name == "loopback"
    assert refusal((b"Host", b""), http10=True).code == "host_not_allowed"
    assert refusal((b"Host", b"evil.example"), http10=True).code == "host_not_allowed"


def test_allowed_hosts_and_our_own_address_are_served() -> None:
    rules = Rules.compiled(allowed_hosts=["Proxy.Internal", "[fd00::7]"])
    peer = rules.peer("10.0.0.9", "10.0.0.5")
    for host in (b"proxy.internal:8321", b"PROXY.internal.", b"[FD00::7]:1", b"10.0.0.5:8321", b"localhost"):
        assert call((b"Host", host), rules=rules, peer=peer).name == "network"
    assert refusal((b"Host", b"10.0.0.6"), rules=rules, peer=peer).code == "host_not_allowed"
    assert call((b"Host", b"[fd00::1]:9"), peer=rules.peer("fd00::2", "fd00::1")).name == "network"


def test_the_authority_of_an_absolute_form_is_what_counts() -> None:
    assert call(HOST, target=b"http://127.0.0.1:8321/api/x").name == "loopback"
    assert call((b"Host", b"evil.example"), target=b"http://localhost/api/x").name == "loopback"
    assert refusal(HOST, target=b"http://evil.example/api/x").code == "host_not_allowed"
    assert refusal(target=b"http://localhost/api/x").code == "host_not_allowed"
    assert refusal(target=b"http://evil.example/api/x", http10=True).code == "host_not_allowed"
    assert call(target=b"http://localhost/api/x", http10=True).name == "loopback"
    assert call(HOST, target=b"*", method=b"OPTIONS").name == "loopback"


UNIX = DEFAULT.unix_peer(1000, 100)


def test_a_unix_socket_has_no_host_rule() -> None:
    assert call((b"Host", b"anything"), peer=UNIX).name == "uid:1000"
    assert call(peer=UNIX, http10=True).name == "uid:1000"


@pytest.mark.parametrize(
    "field",
    [
        (b"Origin", b"http://evil.example"),
        (b"Sec-Fetch-Site", b"same-origin"),
        (b"Referer", b"http://evil.example/"),
    ],
)
def test_what_a_browser_sent_through_a_proxy_in_front_of_a_unix_socket_has_one(field: tuple[bytes, bytes]) -> None:
    assert refusal((b"Host", b"evil.example"), field, peer=UNIX).code == "host_not_allowed"


def admitted(*fields: tuple[bytes, bytes], target: bytes = b"/", peer: Peer = LOCAL, http10: bool = False) -> bytes:
    """The authority that is known of an admitted request."""
    head = Head(fields, checked(fields), http10, length=0, expects=False, withheld=frozenset(), lines=b"")
    request = Request(peer, b"GET", target, head, page=True)
    assert request.own_origin() == b""  # before
    admit(request, DEFAULT)
    return request.authority


def test_only_a_name_that_is_ours_becomes_known() -> None:
    assert admitted(HOST) == b"localhost:8321"
    assert admitted((b"Host", b"evil.example"), target=b"http://localhost:1/") == b"localhost:1"
    assert admitted(http10=True) == b""
    assert admitted((b"Host", b"evil.example"), peer=UNIX) == b""
    assert admitted(HOST, peer=UNIX) == b"localhost:8321"
    with pytest.raises(Refused):
        admitted((b"Host", b"evil.example"))


# Browsers


@pytest.mark.parametrize(
    "fields",
    [
        [(b"Origin", b"http://evil.example")],
        [(b"Origin", b"null")],
        [(b"Origin", b"")],
        [(b"Origin", b"http://localhost:3000")],
        [(b"Origin", b"https://localhost:8321")],
        [(b"Origin", b"http://localhost")],
        [(b"Origin", b"http://127.0.0.1:8321")],
        [(b"Origin", b"http://localhost:8321, http://evil.example")],
        [(b"Sec-Fetch-Site", b"cross-site")],
        [(b"Sec-Fetch-Site", b"same-site")],
        [(b"Sec-Fetch-Site", b"")],
        [(b"Sec-Fetch-Site", b"none, cross-site")],
        [(b"Sec-Fetch-Site", b"cross-site"), (b"Origin", b"http://localhost:8321")],
        [(b"Sec-Fetch-Site", b"same-origin"), (b"Origin", b"http://evil.example")],
        [(b"Sec-Fetch-Site", b"none"), (b"Sec-Fetch-Site", b"none")],
        [(b"Origin", b"http://localhost:8321"), (b"origin", b"http://localhost:8321")],
        [(b"Sec-Fetch-Site", b"cross-site"), (b"Sec-Fetch-Mode", b"navigate"), (b"Sec-Fetch-Dest", b"document")],
        [(b"Access-Control-Request-Method", b"GET"), (b"Origin", b"http://evil.example")],
    ],
)
@pytest.mark.parametrize("method", [b"GET", b"POST", b"OPTIONS"])
def test_another_sites_page_is_refused(fields: list[tuple[bytes, bytes]], method: bytes) -> None:
    assert refusal(HOST, *fields, method=method).code == "cross_site"


@pytest.mark.parametrize(
    "fields",
    [
        [(b"Sec-Fetch-Site", b"same-origin")],
        [(b"Sec-Fetch-Site", b"none"), (b"Sec-Fetch-Mode", b"navigate")],
        [(b"Origin", b"http://localhost:8321")],
        [(b"Origin", b"HTTP://LocalHost:8321"), (b"Sec-Fetch-Site", b"same-origin")],
        [(b"Access-Control-Request-Method", b"GET")],
    ],
)
def test_our_own_pages_and_the_persons_own_requests_pass(fields: list[tuple[bytes, bytes]]) -> None:
    assert call(HOST, *fields) is LOCAL.caller


def test_our_origin_has_the_scheme_of_the_listener_and_no_default_port() -> None:
    tls = DEFAULT.peer("127.0.0.1", "127.0.0.1", scheme=b"https")
    assert call((b"Host", b"localhost:443"), (b"Origin", b"https://localhost"), peer=tls) is tls.caller
    assert refusal((b"Host", b"localhost"), (b"Origin", b"http://localhost"), peer=tls).code == "cross_site"


def test_without_a_host_no_origin_is_ours() -> None:
    assert refusal((b"Origin", b"http://"), http10=True).code == "cross_site"


def test_a_link_may_lead_to_our_pages_but_nothing_embeds_or_posts_to_them() -> None:
    site, mode = (b"Sec-Fetch-Site", b"cross-site"), (b"Sec-Fetch-Mode", b"navigate")
    link = (HOST, site, mode, (b"Sec-Fetch-Dest", b"document"))
    assert call(*link, page=True).name == "loopback"
    assert refusal(*link).code == "cross_site"
    assert refusal(*link, page=True, method=b"POST").code == "cross_site"
    assert refusal(*link, (b"Origin", b"null"), page=True).code == "cross_site"
    assert refusal(HOST, site, mode, (b"Sec-Fetch-Dest", b"iframe"), page=True).code == "cross_site"
    assert refusal(HOST, site, (b"Sec-Fetch-Mode", b"no-cors"), page=True).code == "cross_site"


KREBIT = Rules.compiled(allowed_origins=["http://app.example"], upstream="https://acme.krebit.se")


@pytest.mark.parametrize(
    "referer",
    [
        b"http://evil.example/",
        b"HTTPS://evil.example",
        b"http://localhost:3000/page",
        b"http://localhost/",
        b"http://localhost:8321@evil.example/",
        b"http://localhost:8321.evil.example/",
        b"http://app.example.evil/",
        b"http://acme.krebit.se/",
        b"android-app://com.example/",
        b"//evil.example/",
        b"null://",
    ],
)
@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"POST"])
def test_a_page_of_another_site_is_known_by_referer_alone(referer: bytes, method: bytes) -> None:
    field = (b"Referer", referer)
    assert refusal(HOST, field, rules=KREBIT, method=method).code == "cross_site"
    assert refusal(HOST, field, (b"sec-fetch-mode", b"no-cors"), rules=KREBIT, method=method).code == "cross_site"
    assert refusal(HOST, field, rules=KREBIT, method=method, page=True).code == "cross_site"
    assert refusal(field, rules=KREBIT, method=method, http10=True).code == "cross_site"
    assert call(HOST, field, (b"Sec-Fetch-Site", b"none"), rules=KREBIT, method=method).name  # better evidence


@pytest.mark.parametrize(
    "referer",
    [
        b"http://localhost:8321/api/x?y",
        b"https://LOCALHOST:8321",
        b"https://acme.krebit.se/app",
        b"https://acme.krebit.se:443",
        b"",
        b"about:blank",
        b"/api/x",
        b"x",
    ],
)
def test_a_referer_that_is_no_page_of_another_site_does_no_harm(referer: bytes) -> None:
    assert call(HOST, (b"Referer", referer), rules=KREBIT) == Caller("loopback")


def test_the_page_of_an_allowed_origin_is_known_by_referer_too_and_may_read() -> None:
    assert call(HOST, (b"Referer", b"http://App.example:80/x"), rules=KREBIT).origin == b"http://app.example"


def test_a_link_without_metadata_may_lead_to_our_pages() -> None:
    link = (HOST, (b"Referer", b"https://wiki.example/"), (b"Accept", b"text/html,*/*;q=0.8"))
    assert call(*link, page=True).name == "loopback"
    assert refusal(*link).code == "cross_site"
    assert refusal(*link, page=True, method=b"POST").code == "cross_site"


def test_a_referer_comes_once() -> None:
    ours = (b"Referer", b"http://localhost:8321/")
    assert refusal(HOST, ours, ours).code == "cross_site"


@pytest.mark.parametrize(
    "field", [(b"Service-Worker", b"script"), (b"Sec-Fetch-Dest", b"serviceworker"), (b"service-worker", b"")]
)
def test_no_answer_becomes_a_service_worker(field: tuple[bytes, bytes]) -> None:
    assert refusal(HOST, field, (b"Sec-Fetch-Site", b"same-origin")).code == "cross_site"


def test_a_preflight_is_refused_and_never_forwarded() -> None:
    asks = (b"Access-Control-Request-Method", b"DELETE")
    assert refusal(HOST, asks, method=b"OPTIONS").code == "cross_site"
    assert refusal(HOST, asks, (b"Origin", b"http://evil.example"), method=b"OPTIONS").code == "cross_site"
    assert call(HOST, method=b"OPTIONS").preflight == b""


ALLOWED = Rules.compiled(
    allowed_origins=["http://localhost:3000", "https://app.example:443", "tauri://localhost"],
    allowed_hosts=["krebit_proxy"],
)


@pytest.mark.parametrize("site", [b"same-site", b"cross-site"])
def test_an_allowed_origin_passes_and_may_read(site: bytes) -> None:
    fields = (HOST, (b"Origin", b"http://localhost:3000"), (b"Sec-Fetch-Site", site))
    assert call(*fields, rules=ALLOWED) == Caller("loopback", b"http://localhost:3000")
    assert call(HOST, (b"Origin", b"https://app.example"), rules=ALLOWED).origin == b"https://app.example"
    assert call(HOST, (b"Origin", b"tauri://localhost"), rules=ALLOWED).origin == b"tauri://localhost"
    assert call((b"Host", b"Krebit_Proxy:8321"), rules=ALLOWED) == Caller("loopback")
    assert refusal(HOST, (b"Origin", b"http://localhost:3001"), rules=ALLOWED).code == "cross_site"
    assert refusal(HOST, (b"Origin", b"null"), rules=ALLOWED).code == "cross_site"


def test_its_preflight_is_answered_by_us() -> None:
    fields = [
        HOST,
        (b"Origin", b"http://localhost:3000"),
        (b"Access-Control-Request-Method", b"DELETE"),
        (b"Access-Control-Request-Headers", b"content-type,x-a"),
        (b"Access-Control-Request-Private-Network", b"true"),
    ]
    vary = b"Vary: Origin, Access-Control-Request-Method, Access-Control-Request-Headers\r\n"
    assert call(*fields, rules=ALLOWED, method=b"OPTIONS").preflight == (
        b"Access-Control-Allow-Origin: http://localhost:3000\r\n"
        b"Access-Control-Allow-Methods: DELETE\r\n"
        b"Access-Control-Max-Age: 600\r\n" + vary + b"Access-Control-Allow-Headers: content-type,x-a\r\n"
        b"Access-Control-Allow-Private-Network: true\r\n"
    )
    assert call(*fields[:3], rules=ALLOWED, method=b"OPTIONS").preflight.endswith(vary)
    assert call(*fields[:3], rules=ALLOWED, method=b"GET").preflight == b""


def test_a_preflight_needs_no_key_and_names_no_second_method() -> None:
    rules = Rules.compiled(allowed_origins=["http://localhost:3000"], client_keys={"a": sha256(b"k").digest()})
    fields = [HOST, (b"Origin", b"http://localhost:3000"), (b"Access-Control-Request-Method", b"GET")]
    assert call(*fields, rules=rules, method=b"OPTIONS").preflight
    assert refusal(*fields, fields[2], rules=rules, method=b"OPTIONS").code == "cross_site"
    assert refusal(*fields, rules=rules).code == "client_key_required"


def test_a_preflight_of_our_own_origin_is_answered_by_us_too() -> None:
    fields = [HOST, (b"Origin", b"http://localhost:8321"), (b"Access-Control-Request-Method", b"GET")]
    assert call(*fields, method=b"OPTIONS").preflight


# Peers, keys, fields, methods, paths


def test_a_peer_outside_the_networks_may_not_call() -> None:
    rules = Rules.compiled(allow_clients=["10.0.0.0/8"])
    host = (b"Host", b"10.0.0.1")
    assert call(host, rules=rules, peer=rules.peer("10.2.3.4", "10.0.0.1")).name == "10.0.0.0/8"
    error = refusal(host, rules=rules, peer=rules.peer("11.0.0.1", "10.0.0.1"))
    assert (error.code, error.hint) == ("client_not_allowed", "Check access.allow_clients.")


def test_a_missing_certificate_is_hinted_at() -> None:
    rules = Rules.compiled(certificates=True)
    assert "tls_client_ca_file" in refusal(HOST, rules=rules, peer=rules.peer("127.0.0.1", "127.0.0.1")).hint


def test_this_computer_always_reaches_our_pages() -> None:
    rules = Rules.compiled(allow_clients=["10.0.0.0/8"])
    assert call(HOST, rules=rules, peer=rules.peer("127.0.0.1", "127.0.0.1"), page=True).name == "loopback"
    assert refusal(HOST, rules=rules, peer=rules.peer("127.0.0.1", "127.0.0.1")).code == "client_not_allowed"
    assert call(HOST, rules=rules, peer=rules.peer("192.0.2.7", "192.0.2.7"), page=True).name == "network"
    assert refusal(HOST, rules=rules, peer=rules.peer("192.0.2.7", "192.0.2.7")).code == "client_not_allowed"
    assert refusal(HOST, rules=rules, peer=rules.peer("11.0.0.1", "10.0.0.1"), page=True).code == "client_not_allowed"


@pytest.mark.parametrize("method", [b"CONNECT", b"TRACE", b"TRACK"])
def test_a_method_that_would_echo_or_tunnel_is_never_allowed(method: bytes) -> None:
    assert refusal(HOST, method=method).code == "method_not_allowed"
    assert call(HOST, method=method, page=True).name == "loopback"  # a page refuses it by itself


def basic(pair: bytes) -> bytes:
    return b"Basic " + b64encode(pair)


@pytest.mark.parametrize(
    "field",
    [
        (b"X-Api-Key", b"k1"),
        (b"Authorization", b"Bearer k1"),
        (b"authorization", b"bearer  k1 "),
        (b"Authorization", basic(b"anyone:k1")),
        (b"Authorization", basic(b"k1:")),
        (b"Authorization", basic(b"k1:x-oauth-basic")),
        (b"Authorization", basic(b"k1")),
    ],
)
def test_a_key_names_its_caller_wherever_a_tool_can_put_it(field: tuple[bytes, bytes]) -> None:
    assert call(HOST, field, rules=KEYED).name == "billing"


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [(b"X-Api-Key", b"")],
        [(b"X-Api-Key", b"k3")],
        [(b"X-Api-Key", sha256(b"k1").hexdigest().encode())],
        [(b"Authorization", b"k1")],
        [(b"Authorization", b"Digest k1")],
        [(b"Authorization", b"Basic k1")],
        [(b"Authorization", b"Basic \xff")],
        [(b"Authorization", basic(b"billing:"))],
        [(b"Cookie", b"k1")],
    ],
)
def test_without_a_valid_key_nothing_passes(fields: list[tuple[bytes, bytes]]) -> None:
    assert refusal(HOST, *fields, rules=KEYED).code == "client_key_required"


@pytest.mark.parametrize(
    "fields",
    [
        [(b"X-Api-Key", b"a"), (b"x-api-key", b"k1")],
        [(b"X-Api-Key", b"k1"), (b"X-Api-Key", b"k1")],
        [(b"Authorization", b"Bearer k1"), (b"Authorization", b"Bearer k1")],
        [(b"X-Api-Key", b"a")] * 900,
    ],
)
def test_a_key_comes_once_in_each_way(fields: list[tuple[bytes, bytes]]) -> None:
    error = refusal(HOST, *fields, rules=KEYED)
    assert (error.code, "more than one" in error.detail) == ("client_key_required", True)


def tried(*fields: tuple[bytes, bytes], method: bytes = b"GET", stop: bool = False) -> tuple[list[bytes], str]:
    """The keys that were told of, and the code of the refusal."""
    told = []

    def note(peer: Peer, key: bytes) -> None:
        assert peer is LOCAL
        told.append(key)
        if stop:
            raise Refused("rate_limited", "Wait.")

    rules = replace(KEYED, read_only=True)
    head = Head(fields, checked(fields), http10=False, length=0, expects=False, withheld=frozenset(), lines=b"")
    try:
        admit(Request(LOCAL, method, b"/api/x", head), rules, note)
    except Refused as error:
        return told, error.code
    return told, ""


def test_each_key_is_told_of_before_anything_else_shows_whether_it_is_right() -> None:
    right, wrong = (b"X-Api-Key", b"k1"), (b"Authorization", b"Bearer k3")
    assert tried(HOST, right) == ([sha256(b"k1").digest()], "")
    assert tried(HOST, right, wrong) == ([sha256(b"k1").digest()], "")
    assert tried(HOST, wrong) == ([b""], "client_key_required")
    assert tried(HOST) == ([], "client_key_required")
    assert tried(HOST, (b"Authorization", basic(b":"))) == ([], "client_key_required")
    assert tried(HOST, right, method=b"POST")[1] == "method_not_allowed"
    assert tried(HOST, right, method=b"POST", stop=True)[1] == tried(HOST, wrong, stop=True)[1] == "rate_limited"


def test_a_key_is_needed_by_pages_of_allowed_origins_but_not_for_our_pages() -> None:
    rules = Rules.compiled(allowed_origins=["http://a"], client_keys={"billing": sha256(b"k1").digest()})
    fields = (HOST, (b"Origin", b"http://a"))
    assert call(*fields, (b"X-Api-Key", b"k1"), rules=rules) == Caller("billing", b"http://a")
    assert refusal(*fields, rules=rules).code == "client_key_required"
    assert call(HOST, rules=rules, page=True).name == "loopback"


def test_a_required_field_must_be_there() -> None:
    rules = Rules.compiled(require_header="X-Krebit-Proxy")
    assert call(HOST, (b"x-krebit-proxy", b"1"), rules=rules).name == "loopback"
    error = refusal(HOST, rules=rules)
    assert error.code == "client_not_allowed"
    assert "x-krebit-proxy" in error.detail


def test_read_only_lets_reading_pass() -> None:
    rules = Rules.compiled(read_only=True)
    for method in (b"GET", b"HEAD", b"OPTIONS"):
        assert call(HOST, rules=rules, method=method).name
    for method in (b"POST", b"PUT", b"PATCH", b"DELETE", b"PROPFIND"):
        assert refusal(HOST, rules=rules, method=method).code == "method_not_allowed"


LIMITED = [Rules.compiled(read_only=True), Rules.compiled(allow=[(["GET"], [], [])])]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        (b"X-HTTP-Method-Override", "method_not_allowed"),
        (b"x-http-method", "method_not_allowed"),
        (b"X-Method-Override", "method_not_allowed"),
        (b"X-Original-Method", "method_not_allowed"),
        (b"X-Forwarded-Method", "method_not_allowed"),
        (b"Method-Override", "method_not_allowed"),
        (b"X-HTTPMethodOverride", "method_not_allowed"),
        (b"X_HTTP_METHOD_OVERRIDE", "method_not_allowed"),
        (b"X-Original-URL", "forbidden_path"),
        (b"X-Original-Uri", "forbidden_path"),
        (b"X-Rewrite-URL", "forbidden_path"),
        (b"X-Rewrite", "forbidden_path"),
        (b"X-Request-Uri", "forbidden_path"),
        (b"X-RequestUri", "forbidden_path"),
        (b"X-Forwarded-Uri", "forbidden_path"),
        (b"X-Forwarded-Path", "forbidden_path"),
        (b"X-Envoy-Original-Path", "forbidden_path"),
        (b"X-Http-Path-Override", "forbidden_path"),
        (b"X-Override-Url", "forbidden_path"),
        (b"X-PathInfo", "forbidden_path"),
        (b"Destination", "forbidden_path"),
    ],
)
@pytest.mark.parametrize("rules", LIMITED)
def test_no_field_changes_the_method_or_the_path_while_they_are_limited(name: bytes, code: str, rules: Rules) -> None:
    error = refusal(HOST, (name, b"DELETE"), rules=rules)
    assert (error.code, name.decode().lower() in error.detail) == (code, True)
    assert call(HOST, (name, b"DELETE")).name


@pytest.mark.parametrize(
    "name",
    [b"Accept-Encoding", b"X-Amz-Security-Token", b"Upgrade-Insecure-Requests", b"X-Request-Id", b"X-Forwarded-Prefix"],
)
@pytest.mark.parametrize("rules", LIMITED)
def test_other_fields_pass_while_methods_are_limited(name: bytes, rules: Rules) -> None:
    assert call(HOST, (name, b"x"), rules=rules).name


def test_a_question_for_a_method_is_no_override() -> None:
    fields = (HOST, (b"Origin", b"http://localhost:8321"), (b"Access-Control-Request-Method", b"GET"))
    assert call(*fields, rules=LIMITED[0]).name


@pytest.mark.parametrize(
    "query", [b"_method=DELETE", b"a=1&_METHOD=put", b"%5fmethod=DELETE", b"_method", b"a;X-HTTP-Method-Override=PUT"]
)
@pytest.mark.parametrize("rules", LIMITED)
def test_no_parameter_changes_the_method_while_methods_are_limited(query: bytes, rules: Rules) -> None:
    assert refusal(HOST, rules=rules, target=b"/api/x?" + query).code == "method_not_allowed"
    assert call(HOST, target=b"/api/x?" + query).name
    assert call(HOST, rules=rules, target=b"/api/x?payment_method=card&q=_method").name


POLICY = Rules.compiled(
    allow=[
        (["GET"], ["/api/invoices/**"], []),
        (["post", "PATCH"], ["/api/invoices/{id}/lines", "/api/notes"], []),
        ([], ["/api/stock/{id}"], ["stock"]),
    ],
    client_keys={"billing": sha256(b"k1").digest(), "stock": sha256(b"k2").digest()},
)


@pytest.mark.parametrize(
    ("key", "method", "target"),
    [
        (b"k1", b"GET", b"/api/invoices"),
        (b"k1", b"GET", b"/api/invoices/"),
        (b"k1", b"HEAD", b"/api/invoices/7/pdf?x=1"),
        (b"k1", b"GET", b"/api//invoices/a%2Fb"),
        (b"k1", b"GET", b"/api/%69nvoices/7"),
        (b"k1", b"GET", b"http://localhost/api/invoices/7?y"),
        (b"k1", b"POST", b"/api/invoices/7/lines"),
        (b"k1", b"PATCH", b"/api/notes"),
        (b"k2", b"DELETE", b"/api/stock/7"),
    ],
)
def test_a_request_within_the_rules_passes(key: bytes, method: bytes, target: bytes) -> None:
    assert call(HOST, (b"X-Api-Key", key), rules=POLICY, method=method, target=target).name


@pytest.mark.parametrize(
    ("key", "method", "target"),
    [
        (b"k1", b"DELETE", b"/api/invoices/7"),
        (b"k1", b"GET", b"/api/invoicesx"),
        (b"k1", b"GET", b"/api/Invoices"),
        (b"k1", b"GET", b"/api/other"),
        (b"k1", b"POST", b"/api/invoices/7"),
        (b"k1", b"POST", b"/api/invoices/7/lines/1"),
        (b"k1", b"POST", b"/api/invoices/7/8/lines"),
        (b"k1", b"POST", b"/api/invoices/7%2F8/lines"),
        (b"k1", b"POST", b"/api/invoices/7%2Flines"),
        (b"k1", b"POST", b"/api/invoices/7;%2Fx/lines"),
        (b"k1", b"DELETE", b"/api/stock/7"),
        (b"k2", b"DELETE", b"/api/stock/7%2F8"),
        (b"k2", b"DELETE", b"/api/stock"),
        (b"k2", b"DELETE", b"/api/stoc%256b/7"),
    ],
)
def test_a_request_beyond_them_is_refused(key: bytes, method: bytes, target: bytes) -> None:
    error = refusal(HOST, (b"X-Api-Key", key), rules=POLICY, method=method, target=target)
    assert error.code == "forbidden_path"


def test_a_refusal_names_the_rule_that_would_be_needed() -> None:
    error = refusal(HOST, (b"X-Api-Key", b"k1"), rules=POLICY, method=b"DELETE", target=b"/api/invoices/17?q=secret")
    assert error.hint == 'To allow it, add to access.allow: {methods: [DELETE], paths: ["/api/invoices/{id}"]}'


def test_the_rule_that_allows_a_request_is_told() -> None:
    line = allowed_by(POLICY, "billing", b"GET", b"/api/invoices/7")
    assert line is not None
    assert line.text == "GET on /api/invoices/**"
    assert allowed_by(DEFAULT, "billing", b"DELETE", b"/api/stock/7") is None
    with pytest.raises(Refused, match="No rule allows"):
        allowed_by(POLICY, "billing", b"GET", b"/api/stock/7")


@given(st.binary(max_size=30))
def test_a_host_is_served_only_if_it_is_a_loopback_name(host: bytes) -> None:
    if b"\n" in host or any(byte < 0x20 or byte == 0x7F for byte in host):
        return
    try:
        call((b"Host", host))
    except Refused:
        return
    name = host.lower().rpartition(b":")[0] or host.lower()
    assert name.rstrip(b".").endswith(b"localhost") or name.startswith((b"127.", b"[::1]"))


@given(
    st.sampled_from([b"GET", b"POST", b"OPTIONS"]), st.text(max_size=20), st.sampled_from([b"", b"same-site", b"null"])
)
def test_no_origin_but_ours_and_the_allowed_passes(method: bytes, asked: str, site: bytes) -> None:
    value = asked.encode()
    if any(byte < 0x20 or byte == 0x7F for byte in value) or value in ALLOWED.origins:
        return
    fields = [HOST, (b"Origin", value)] + ([(b"Sec-Fetch-Site", site)] if site else [])
    assert refusal(*fields, method=method, rules=ALLOWED).code == "cross_site"


@pytest.mark.parametrize(
    ("accept", "prefers"),
    [
        (b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "page"),
        (b"application/xhtml+xml", "page"),
        (b"application/json, text/html", "JSON"),
        (b"application/problem+json,text/html", "JSON"),
        (b"*/*", "none"),
        (b"\xff", "none"),
        (b"", "none"),
    ],
)
def test_a_request_prefers_what_it_names_first(accept: bytes, prefers: str) -> None:
    fields = ((b"Accept", accept),)
    head = Head(fields, checked(fields), http10=True, length=0, expects=False, withheld=frozenset(), lines=b"")

    assert Request(LOCAL, b"GET", b"/", head).prefers == prefers


@pytest.mark.parametrize("host", [b"localhost:65536", b"proxy.test:99999"])
def test_a_port_beyond_the_last_is_no_valid_host(host: bytes) -> None:
    assert refusal((b"Host", host), rules=Rules.compiled(allowed_hosts=["proxy.test"])).code == "bad_request"


def page_request(*fields: tuple[bytes, bytes], peer: Peer = LOCAL) -> Request:
    head = Head(fields, checked(fields), http10=False, length=0, expects=False, withheld=frozenset(), lines=b"")
    return Request(peer, b"GET", b"/", head, page=True)


def known(*fields: tuple[bytes, bytes], rules: Rules = KEYED, peer: Peer = LOCAL) -> bool:
    return may_call(page_request(*fields, peer=peer), rules)


def test_a_page_knows_who_may_call() -> None:
    key, header = (b"X-Api-Key", b"k1"), (b"X-Krebit-Proxy", b"1")
    both = replace(KEYED, require_header=b"x-krebit-proxy")

    assert known(HOST, rules=DEFAULT)
    assert known(HOST, key)
    assert known(HOST, (b"Authorization", b"Bearer k2"))
    assert known(HOST, (b"Authorization", basic(b"k1:")))
    assert not known(HOST)
    assert not known(HOST, (b"X-Api-Key", b"k3"))
    assert not known(HOST, key, key)
    assert known(HOST, key, header, rules=both)
    assert not known(HOST, key, rules=both)
    assert not known(HOST, header, rules=both)
    assert not known(HOST, key, peer=replace(LOCAL, allowed=False))


def test_keys_are_tried_at_pages_as_everywhere() -> None:
    seen: list[tuple[Peer, bytes]] = []
    request = page_request(HOST, (b"X-Api-Key", b"k3"))

    assert not may_call(request, KEYED, lambda peer, key: seen.append((peer, key)))
    assert seen == [(LOCAL, b"")]


# Tools that have us as their HTTP proxy

PROXIED = Rules.compiled(upstream="https://acme.krebit.se")
UPSTREAM_HOST = (b"Host", b"acme.krebit.se")


@pytest.mark.parametrize(
    "authority", [b"acme.krebit.se", b"ACME.krebit.se.", b"acme.krebit.se:80", b"acme.krebit.se:443"]
)
def test_a_tool_that_has_us_as_its_proxy_may_name_the_upstream(authority: bytes) -> None:
    assert call(UPSTREAM_HOST, rules=PROXIED, target=b"http://%b/api/x" % authority).name == "loopback"


@pytest.mark.parametrize(
    ("target", "page"),
    [
        (b"/api/x", False),
        (b"http://acme.krebit.se/healthz", True),
        (b"http://acme.krebit.se:8080/api/x", False),
        (b"http://other.krebit.se/api/x", False),
        (b"http://acme.krebit.se.evil.example/api/x", False),
        (b"http://krebit.se/api/x", False),
    ],
)
def test_the_upstreams_name_is_for_its_own_urls_below_api_only(target: bytes, page: bool) -> None:
    assert refusal(UPSTREAM_HOST, rules=PROXIED, target=target, page=page).code == "host_not_allowed"
    assert refusal(UPSTREAM_HOST, target=target, page=page).code == "host_not_allowed"


@pytest.mark.parametrize(
    "fields",
    [
        [(b"Origin", b"http://acme.krebit.se")],
        [(b"Origin", b"https://acme.krebit.se")],
        [(b"Sec-Fetch-Site", b"same-origin")],
        [(b"Sec-Fetch-Site", b"none")],
        [(b"Origin", b"http://acme.krebit.se"), (b"Sec-Fetch-Site", b"same-origin")],
        [(b"Referer", b"http://evil.example/")],
    ],
)
def test_a_browser_that_has_us_as_its_proxy_may_not_call(fields: list[tuple[bytes, bytes]]) -> None:
    target = b"http://acme.krebit.se/api/x"
    assert refusal(UPSTREAM_HOST, *fields, rules=PROXIED, target=target).code == "cross_site"


def test_connect_is_told_what_works_instead() -> None:
    error = refusal(HOST, method=b"CONNECT")
    assert "http:// URL" in error.hint
