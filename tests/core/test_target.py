"""What goes upstream for a request target, and what is refused."""

import posixpath
import re
import unicodedata
from contextlib import suppress
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from krebit_proxy.core.target import meanings, origin_form, own_path, upstream_target
from krebit_proxy.errors import Refused


@pytest.mark.parametrize(
    "target",
    [
        b"/api/",
        b"/api/x",
        b"/api/x?",
        b"/api/a%2Fb",
        b"/api/x?a=1&a=2&b&=&c=%zz&d=+%20",
        b"/api/x?a=1;b=2",
        b"/api//x/",
        b"/api/%7Euser/%c3%a5",
        b"/api/x?next=%23top",
        b"/api/x?path=../..\\",
        b"/api/.well-known/x",
        b"/api/...",
        b"/api/a..b",
        b"/api/x;v=1/y",
        b"/api/x%3Bv=1/y",
        b"/api/x/oauth/token",
        b"/api/oauthx",
        b"/api/oauth2/token",
        b"/api/oauth-x",
        b"/api/oauth_x",
        b"/api/%e2%80%a6",
        b"/api/%c3%a5%ff%c0",
        b"/api/x%2Foauth",
        b"/api/100%25",
        b"/api/~u/$a,b@c:d!(e)*'f'",
        b"/api/a?b?c",
        b"/api/" + b"x" * 8000,
    ],
)
def test_a_target_goes_upstream_byte_for_byte(target: bytes) -> None:
    assert upstream_target(target) == target


@pytest.mark.parametrize(
    ("raw", "target"),
    [
        (b"http://127.0.0.1:8321/api/x?", b"/api/x?"),
        (b"HTTP://localhost/api/a%2Fb", b"/api/a%2Fb"),
        (b"https://localhost/api/x@y", b"/api/x@y"),
    ],
)
def test_an_absolute_form_becomes_an_origin_form(raw: bytes, target: bytes) -> None:
    assert upstream_target(raw) == target


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"*",
        b"api/x",
        b"localhost:8321",
        b"ftp://localhost/api/x",
        b"http:///api/x",
        b"http://user@localhost/api/x",
        b"http://localhost#/api/x",
        b"http://localhost\\@evil/api/x",
        b"http://localhost/api/a b",
        b"/api/x#y",
        b"/api/x?y#z",
        b"/api/a b",
        b"/api/a\tb",
        b"/api/x\x00",
        b"/api/x\r\ny",
        b"/api/x?\n",
        b"/api/x?\x7f",
        b"/api/\xe5",
    ],
)
def test_what_is_not_a_target_is_a_bad_request(raw: bytes) -> None:
    with pytest.raises(Refused) as refusal:
        upstream_target(raw)
    assert refusal.value.code == "bad_request"


@pytest.mark.parametrize(
    "raw",
    [
        b"/",
        b"/api",
        b"/api?x",
        b"/apix/y",
        b"/API/x",
        b"/%61pi/x",
        b"//api/x",
        b"//evil/api/x",
        b"/other/../api/x",
        b"/api;/x",
        b"http://localhost",
        b"http://localhost?/api/x",
    ],
)
def test_what_is_outside_the_api_is_not_forwarded(raw: bytes) -> None:
    with pytest.raises(Refused) as refusal:
        upstream_target(raw)
    assert refusal.value.code == "not_forwarded"


@pytest.mark.parametrize(
    "raw",
    [
        b"/api/..",
        b"/api/.",
        b"/api/../x",
        b"/api/./x",
        b"/api/x/..",
        b"/api/x/../../y",
        b"/api/%2e%2e/x",
        b"/api/.%2E/x",
        b"/api/%252e%252e/x",
        b"/api/%25252e%25252e/x",
        b"/api/%%32%65%%32%65/x",
        b"/api/..%2fx",
        b"/api/x%2f..%2fy",
        b"/api/..;/x",
        b"/api/..;a=b/x",
        b"/api/..%3b/x",
        b"/api/%2e%2e%253bx/y",
        b"/api/.;/x",
        b"/api/..\\x",
        b"/api/..%5cx",
        b"/api/x%5cy",
        b"/api/x\\y",
        b"/api/%00",
        b"/api/x%0d%0ay",
        b"/api/x%250ay",
        b"/api/x%23y",
        b"/api/;%2F../x",
        b"/api/%c0%ae%c0%ae/x",
        b"/api/%f0%80%80%ae./x",
        b"/api/%ef%bc%8e%ef%bc%8e/x",
        b"/api/%e2%80%a5/x",
        b"/api/x%c0%af..",
        b"http://localhost/api/../x",
    ],
)
def test_a_path_that_may_leave_the_api_is_forbidden(raw: bytes) -> None:
    with pytest.raises(Refused) as refusal:
        upstream_target(raw)
    assert refusal.value.code == "forbidden_path"


@pytest.mark.parametrize(
    "raw",
    [
        b"/api/oauth",
        b"/api/oauth/token",
        b"/api/oauth?x",
        b"/api/OAuth/token",
        b"/api//oauth/token",
        b"/api/%6fauth/token",
        b"/api/%256fauth/token",
        b"/api/oauth%2Ftoken",
        b"/api/%2foauth",
        b"/api/oauth;x=1/token",
        b"/api/;x=1/oauth/token",
        b"/api/;%2Fx/oauth/token",
        b"/api/;%252Fx/%256fauth/token",
        b"http://localhost/api/oauth/token",
        b"/api/oauth%3f/token",
        b"/api/oauth%3Ftoken",
        b"/api/oauth%253f/token",
        b"/api/oauth%20/token",
        b"/api/oauth%09",
        b"/api/oauth.json",
        b"/api/oauth,x/token",
        b"/api/oauth%a0/token",
        b"/api/oauth%c2%a0/token",
        b"/api/%c0%afoauth/token",
        b"/api/%e0%80%afoauth",
        b"/api/%ef%bd%8fauth/token",
        b"/api/%ef%bc%8foauth",
    ],
)
def test_the_token_endpoint_is_forbidden_in_every_spelling(raw: bytes) -> None:
    with pytest.raises(Refused) as refusal:
        upstream_target(raw)
    assert refusal.value.code == "forbidden_path"


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"/api/a b", "a space. It must be percent-encoded (as %20)"),
        (b"/api/x#y", "a `#`. It must be percent-encoded (as %23)"),
        (b"/api/x?y\x01 #", "a control character"),
        (b"/api/\xe5", "a character beyond ASCII"),
    ],
)
def test_the_character_that_must_be_encoded_is_named(raw: bytes, words: str) -> None:
    with pytest.raises(Refused, match=re.escape(words)):
        upstream_target(raw)


def test_a_path_encoded_over_and_over_is_forbidden() -> None:
    with pytest.raises(Refused) as refusal:
        upstream_target(b"/api/%" + b"25" * 40 + b"41")
    assert "too many times" in refusal.value.detail


def test_the_authority_of_an_absolute_form_is_kept_for_the_host_rule() -> None:
    assert origin_form(b"http://LocalHost:8321?x") == (b"/?x", b"LocalHost:8321")
    assert origin_form(b"/x") == (b"/x", None)


def test_own_pages_are_found_by_the_path_as_spelt() -> None:
    assert own_path(b"/setup?key=x") == "/setup"
    assert own_path(b"http://localhost:8321/setup/callback?code=x") == "/setup/callback"
    assert own_path(b"http://localhost:8321") == "/"
    assert own_path(b"/%73etup") == "/%73etup"


def test_a_path_means_what_it_decodes_to_whole_or_segment_by_segment() -> None:
    assert meanings(b"/api/x") == {b"/api/x"}
    assert meanings(b"/api/%78") == {b"/api/x"}
    assert meanings(b"/api/a%2fb") == {b"/api/a%2fb", b"/api/a/b"}
    assert meanings(b"/api/x;v=1") == {b"/api/x;v=1", b"/api/x"}


SEGMENTS = st.sampled_from(
    [
        *rb"a . .. oauth ;x ..;y %2e%2E %2f %5C %3b %25 \ oauth%3f oauth%20 oauth.x".split(),
        *(b"", b"%c0%af", b"%c0%ae.", b"%ef%bc%8f", b"%ef%bd%8fauth"),
    ]
)


@st.composite
def respelt(draw: st.DrawFn, alphabet: st.SearchStrategy[bytes] = SEGMENTS) -> bytes:
    """A path below /api/ of which any byte may be percent-encoded, up to three times."""
    path = b"/".join(draw(st.lists(alphabet, max_size=5)))
    for _ in range(draw(st.integers(0, 3))):
        chosen = draw(st.sets(st.integers(0, max(len(path) - 1, 0)), max_size=4))
        path = b"".join(b"%%%02x" % byte if at in chosen else bytes([byte]) for at, byte in enumerate(path))
    return b"/api/" + path


@given(respelt() | st.binary(max_size=30).map(lambda tail: b"/api/" + tail))
def test_no_accepted_path_leaves_the_api_however_often_it_is_decoded(raw: bytes) -> None:
    try:
        target = upstream_target(raw)
    except Refused:
        assume(False)
    assert target == raw
    path = raw.partition(b"?")[0]
    for _ in range(8):
        plain = b"/".join(segment.partition(b";")[0] for segment in path.replace(b"\\", b"/").split(b"/"))
        normal = posixpath.normpath(plain.replace(b"//", b"/")).lower()
        assert (normal + b"/").startswith(b"/api/")
        assert not (normal + b"/").startswith(b"/api/oauth/")
        assert not re.match(rb"/api/oauth(?![a-z0-9_-])", normal)
        path = unquote_to_bytes(path)
    overlong = path.replace(b"\xc0\xae", b".").replace(b"\xc0\xaf", b"/")
    lenient = unicodedata.normalize("NFKC", overlong.decode("utf-8", "replace"))
    assert not re.match(r"/+api/+oauth(?![a-z0-9_-])", lenient, re.IGNORECASE | re.ASCII)
    assert not {".", ".."} & set(re.split(r"[/\\]", lenient))


@given(st.binary(max_size=60))
def test_any_bytes_are_a_target_or_a_clean_refusal(raw: bytes) -> None:
    with suppress(Refused):
        assert upstream_target(raw).startswith(b"/api/")
