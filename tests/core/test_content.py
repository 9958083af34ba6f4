"""The content of answers, however it was written."""

import gzip
import json
import zlib
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krebit_proxy.core.content import LONGEST_CONTENT, decoded, page_title, read_objects, text_of

GZIP = gzip.compress(b"hello", mtime=0)  # without the time, so that the names of tests are always the same
JSON = '{"access_token": "a", "refresh_token": "r"}'


def deflated(content: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(content) + compressor.flush()


# Codings


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        (b"hello", ""),
        (b"hello", "gzip"),
        (b"hello", "deflate"),
        (b"hello", "br"),
        (GZIP, "gzip"),
        (GZIP, ""),
        (GZIP, "deflate"),
        (zlib.compress(b"hello"), "deflate"),
        (deflated(b"hello"), "Deflate"),
        (GZIP[:-6], "gzip"),
        (GZIP[:-8] + b"checksum", "gzip"),
        (GZIP + b"junk", "gzip"),
    ],
)
def test_a_coding_is_found_out_whatever_is_said_of_it(content: bytes, encoding: str) -> None:
    assert decoded(content, encoding) == b"hello"


def test_what_is_no_coding_stays() -> None:
    assert decoded(b"\x1f\x8bhello", "gzip") == b"\x1f\x8bhello"
    assert decoded(b"", "gzip") == b""


def test_of_a_long_content_with_a_fault_the_beginning_is_kept() -> None:
    noise = b"".join(sha256(b"%d" % number).digest() for number in range(4000))
    kept = decoded(gzip.compress(noise)[:-8] + b"checksum", "gzip")

    assert 60_000 < len(kept) < len(noise)
    assert noise.startswith(kept)


def test_a_bomb_is_bounded() -> None:
    assert len(decoded(gzip.compress(b"\0" * 50_000_000))) == LONGEST_CONTENT


# Charsets


@pytest.mark.parametrize("charset", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
def test_unicode_is_recognized_whatever_is_said_of_it(charset: str) -> None:
    assert text_of('{"å": 1}'.encode(charset), "latin-1") == '{"å": 1}'


def test_what_is_no_utf_8_is_what_it_says_else_latin_1() -> None:
    assert text_of('{"é": 1}'.encode("cp037"), "cp037") == '{"é": 1}'
    assert text_of(b'{"\xe5": 1}') == '{"å": 1}'
    assert text_of(b'{"\xe5": 1}', "no-such-charset") == '{"å": 1}'
    assert text_of(b'{"\xe5": 1}', "rot13") == '{"å": 1}'
    assert text_of(b'{"\x81": 1}', "cp1252") == '{"\x81": 1}'


# Pages


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("<!DOCTYPE html><html><head><title>Just a\n moment&amp;more</title>", "Just a moment&more"),
        ("<HTML><TITLE lang=en>Hi</TITLE>", "Hi"),
        ("<html><title>cut", "cut"),
        ("<html><body>", ""),
        ("<br /><b>Notice</b>" + JSON, None),
        (JSON, None),
        ("", None),
    ],
)
def test_a_page_is_known_by_its_title(text: str, title: str | None) -> None:
    assert page_title(text) == title


# Objects


@pytest.mark.parametrize(
    "text",
    [
        JSON,
        f"  \ufeff{JSON}\n",
        f"[{JSON}]",
        f'{{"data": {JSON}}}',
        f'{{"ok": true, "authed_user": {JSON}}}',
        f'{{"response": {{"result": [[{JSON}]]}}}}',
        json.dumps(JSON),
        json.dumps({"statusCode": 200, "body": JSON}),
        '{"accessToken": "a", "refreshToken": "r"}',
        '{"Access-Token": "a", "REFRESH_TOKEN": "r"}',
        '{"access_token": {"token": "a"}, "refresh_token": {"value": "r", "expires_in": 9}}',
        '{"access_token": "", "accessToken": "a", "refresh_token": null, "refreshToken": "r"}',
        '{"access_token": "a", "access_token": "a", "refresh_token": "r"}',
        "access_token=a&refresh_token=r",
        "refresh_token=r&access_token=%61&empty=\r\n",
        f"<br />\n<b>Notice</b>: odd {{thing}} in x.php<br />\n{JSON}",
        f"<!-- {{ -->{JSON}<!-- }} -->",
        f"for(;;);{JSON}",
        f")]}}',\n{JSON}",
        f"callback({JSON});",
        f'{{"log": 1}}\n{JSON}\n{{"log": 2}}',
        f"{JSON}{JSON}",
        f"{JSON} trailing junk",
        f"<html><body><pre>{JSON}</pre></body></html>",
        '{"access_token": "a", "refresh_token": "r",}',
        '{"access_token": "a", "refresh_token": "r", "expires_in": 36',
        '{"access_token": "a", "scope": {}, "refresh_token": "r", ',
        '{"data": {"access_token": "a"}, "refresh_token": "r", ',
        "{'access_token': 'a', 'refresh_token': 'r', 'expires_in': 3600}",
        "{" * 100 + JSON[1:],
        '{"access_token": "a", "x": ' + "[" * 100_000 + ', "refresh_token": "r"}',
        '{"access_token": "a", "broken": "\\q", "refresh_token": "r"}',
        '{"access_token": "a", "refresh_token": "r", "text": "line\nbreak"}',
    ],
)
def test_tokens_are_found_in_any_shape(text: str) -> None:
    objects = read_objects(text)

    assert (objects.values("access_token"), objects.values("refresh_token")) == (["a"], ["r"])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "[]",
        '"text"',
        "5",
        "{",
        '{"refresh_token": "r',
        '{"error_description": "send \\"refresh_token\\": \\"r\\""}',
        '<html><script>config = {"refresh_token": "/oauth/refresh"}</script></html>',
        '<html><script>grants = {"refresh_token":"refresh"}, x = {y: 1}</script></html>',
        '<a href="/login?refresh_token=r">log in</a>',
        "[" * 100_000,
        '{"refresh_token": ""}',
    ],
)
def test_nothing_is_found_where_nothing_is(text: str) -> None:
    assert read_objects(text).values("refresh_token") == []


def test_of_content_that_was_cut_only_what_is_complete_is_read() -> None:
    form = read_objects("access_token=a&refresh_token=r", cut=True)
    document = read_objects('{"access_token": "a", "refresh_token": "r"', cut=True)

    assert (form.values("access_token"), form.values("refresh_token")) == (["a"], [])
    assert document.values("refresh_token") == ["r"]


def test_outer_objects_count_before_inner_ones_and_all_values_are_seen() -> None:
    inner = {"access_token": "user", "refresh_token": "r"}

    assert read_objects(json.dumps({"authed_user": inner, "access_token": "bot"})).values("access_token") == ["bot"]
    assert read_objects('{"access_token": "a", "access_token": "b"}').values("access_token") == ["a", "b"]
    assert read_objects('[{"access_token": "a"}, {"access_token": "b"}]').values("access_token") == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        (JSON, ""),
        (f"[{JSON}]", "a list instead of an object"),
        ("access_token=a", "form-encoded content instead of JSON"),
        (f"{JSON};", "JSON that is broken, or has other text around it"),
    ],
)
def test_an_unusual_shape_is_named(text: str, shape: str) -> None:
    assert read_objects(text).shape == shape


@given(
    st.recursive(
        st.none() | st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_any_document_and_any_part_of_it_is_read_without_an_error(document: Any) -> None:
    text = json.dumps(document)
    for end in {len(text), len(text) // 2}:
        read_objects(text[:end])


@given(st.binary(), st.sampled_from(["", "gzip", "deflate"]), st.sampled_from(["", "utf-16", "idna", "base64"]))
def test_any_octets_are_read_without_an_error(octets: bytes, encoding: str, charset: str) -> None:
    for content in (octets, b"\x1f\x8b" + octets):
        read_objects(text_of(decoded(content, encoding), charset))
