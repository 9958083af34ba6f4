"""Hostile requests, by class. Each is sent to the real listener with a harmless request behind it on the connection.

`INVALID` is no valid message: an answer of ours or none, then the end of the connection. `POLICY` is valid and not
allowed: an answer of ours, after which the connection may go on. `VALID` looks odd, and must be forwarded as it was
meant. `OPEN` may be either, by the letter of the RFCs.
"""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final


class Kind(Enum):
    INVALID = auto()
    POLICY = auto()
    VALID = auto()
    OPEN = auto()


@dataclass(frozen=True, slots=True)
class Hostile:
    name: str
    kind: Kind
    sent: bytes


HOST: Final = b"Host: localhost\r\n"
MARK: Final = b"X-Mark: marker\r\n"  # must never be seen in a log, an error or a metric
CL5: Final = b"Content-Length: 5\r\n"
TE: Final = b"Transfer-Encoding: chunked\r\n"


def get(target: bytes, *lines: bytes, method: bytes = b"GET", version: bytes = b"HTTP/1.1") -> bytes:
    return b"%s %s %s\r\n%s%s%s\r\n" % (method, target, version, HOST, MARK, b"".join(lines))


def post(lines: bytes, content: bytes = b"", version: bytes = b"HTTP/1.1") -> bytes:
    return b"POST /api/hostile %s\r\n%s%s%s\r\n%s" % (version, HOST, MARK, lines, content)


def chunked(content: bytes) -> bytes:
    return post(TE, content)


def _all(area: str, kind: Kind, entries: dict[str, bytes]) -> list[Hostile]:
    return [Hostile(f"{area}_{name}", kind, sent) for name, sent in entries.items()]


ZERO: Final = b"0\r\n\r\n"
INNER: Final = b"GET /api/inner HTTP/1.1\r\nHost: a.b\r\n\r\n"  # content that looks like a request
EVIL: Final = b"Origin: https://evil.example\r\n"
CROSS: Final = b"Sec-Fetch-Site: cross-site\r\n"
ASKS: Final = b"Access-Control-Request-Method: PUT\r\n"

FRAMING: Final = [
    *_all(
        "framing",
        Kind.INVALID,
        {
            "length_and_chunked": post(CL5 + TE, ZERO),
            "chunked_and_length": post(TE + CL5, ZERO),
            "length_zero_and_chunked": post(b"Content-Length: 0\r\n" + TE, ZERO),
            "lengths_differ": post(CL5 + b"Content-Length: 6\r\n", b"hello"),
            "length_twice": post(CL5 + CL5, b"hello"),
            "length_list": post(b"Content-Length: 5, 5\r\n", b"hello"),
            "length_list_differs": post(b"Content-Length: 5, 6\r\n", b"hello"),
            "length_plus": post(b"Content-Length: +5\r\n", b"hello"),
            "length_minus": post(b"Content-Length: -5\r\n", b"hello"),
            "length_hex": post(b"Content-Length: 0x5\r\n", b"hello"),
            "length_float": post(b"Content-Length: 5.0\r\n", b"hello"),
            "length_exponent": post(b"Content-Length: 5e0\r\n", b"hello"),
            "length_underscore": post(b"Content-Length: 0_5\r\n", b"hello"),
            "length_unit": post(b"Content-Length: 5 B\r\n", b"hello"),
            "length_quoted": post(b'Content-Length: "5"\r\n', b"hello"),
            "length_empty": post(b"Content-Length:\r\n", b"hello"),
            "length_space": post(b"Content-Length: 5 5\r\n", b"hello"),
            "length_word": post(b"Content-Length: five\r\n", b"hello"),
            "length_overflow": post(b"Content-Length: 18446744073709551621\r\n", b"hello"),
            "length_enormous": post(b"Content-Length: " + b"9" * 400 + b"\r\n", b"hello"),
            "length_arabic_digit": post("Content-Length: \u0665\r\n".encode(), b"hello"),
            "length_vertical_tab": post(b"Content-Length: \x0b5\r\n", b"hello"),
            "length_nul": post(b"Content-Length: 5\x00\r\n", b"hello"),
            "length_space_before_colon": post(b"Content-Length : 5\r\n", b"hello"),
            "length_folded": post(b"Content-Length:\r\n 5\r\n", b"hello"),
            "length_bare_cr": post(b"X: a\rContent-Length: 5\r\n", b"hello"),
            "coding_gzip": post(b"Transfer-Encoding: gzip\r\n", b"hello"),
            "coding_identity": post(b"Transfer-Encoding: identity\r\n" + CL5, b"hello"),
            "coding_gzip_chunked": post(b"Transfer-Encoding: gzip, chunked\r\n", ZERO),
            "coding_chunked_gzip": post(b"Transfer-Encoding: chunked, gzip\r\n", ZERO),
            "coding_chunked_twice": post(b"Transfer-Encoding: chunked, chunked\r\n", ZERO),
            "coding_two_lines": post(TE + TE, ZERO),
            "coding_two_lines_gzip": post(b"Transfer-Encoding: gzip\r\n" + TE, ZERO),
            "coding_two_lines_identity": post(TE + b"Transfer-Encoding: identity\r\n", ZERO),
            "coding_parameter": post(b"Transfer-Encoding: chunked;q=1\r\n", ZERO),
            "coding_quoted": post(b'Transfer-Encoding: "chunked"\r\n', ZERO),
            "coding_leading_comma": post(b"Transfer-Encoding: ,chunked\r\n", ZERO),
            "coding_trailing_comma": post(b"Transfer-Encoding: chunked,\r\n", ZERO),
            "coding_empty": post(b"Transfer-Encoding:\r\n", ZERO),
            "coding_empty_and_length": post(b"Transfer-Encoding:\r\n" + CL5, b"hello"),
            "coding_prefix": post(b"Transfer-Encoding: xchunked\r\n", ZERO),
            "coding_suffix": post(b"Transfer-Encoding: chunkedx\r\n", ZERO),
            "coding_vertical_tab": post(b"Transfer-Encoding: \x0bchunked\r\n", ZERO),
            "coding_nbsp": post(b"Transfer-Encoding:\xa0chunked\r\n", ZERO),
            "coding_nul": post(b"Transfer-Encoding: chunked\x00\r\n", ZERO),
            "coding_space_before_colon": post(b"Transfer-Encoding : chunked\r\n", ZERO),
            "coding_space_and_length": post(b"Transfer-Encoding : chunked\r\n" + CL5, b"hello"),
            "coding_first_space": post(b" Transfer-Encoding: chunked\r\n", ZERO),
            "coding_folded": post(b"Transfer-Encoding:\r\n chunked\r\n", ZERO),
            "coding_folded_tab": post(b"Transfer-Encoding:\r\n\tchunked\r\n", ZERO),
            "coding_kelvin_sign": post("Transfer-Encoding: chun\u212aed\r\n".encode(), ZERO),
            "coding_in_1_0": post(TE, ZERO, version=b"HTTP/1.0"),
            "coding_in_1_0_kept": post(TE + b"Connection: keep-alive\r\n", ZERO, version=b"HTTP/1.0"),
            "get_length_and_chunked": get(b"/api/hostile", CL5, TE) + ZERO,
        },
    ),
    *_all(
        "framing",
        Kind.VALID,
        {
            "length_zeros": post(b"Content-Length: 0005\r\n", b"hello"),
            "length_padded": post(b"Content-Length: \t 5 \t\r\n", b"hello"),
            "length_case": post(b"cOnTeNt-LeNgTh: 5\r\n", b"hello"),
            "coding_case": post(b"tRANSFER-eNCODING: ChUnKeD\r\n", b"5\r\nhello\r\n0\r\n\r\n"),
            "underscore_is_no_length": post(b"Content_Length: 50\r\n" + CL5, b"hello"),
            "underscore_is_no_coding": post(b"Transfer_Encoding: chunked\r\n" + CL5, b"hello"),
            "length_in_1_0": post(CL5, b"hello", version=b"HTTP/1.0"),
            "get_with_content": get(b"/api/hostile", b"Content-Length: %d\r\n" % len(INNER)) + INNER,
            "delete_with_chunks": get(b"/api/hostile", TE, method=b"DELETE") + b"5\r\nhello\r\n0\r\n\r\n",
            "connection_names_length": post(b"Connection: Content-Length\r\n" + CL5, b"hello"),
            "connection_names_coding": post(b"Connection: Transfer-Encoding\r\n" + TE, b"5\r\nhello\r\n0\r\n\r\n"),
            "no_length_no_content": post(b""),
            "empty_line_first": b"\r\n" + get(b"/api/hostile"),
        },
    ),
]

CHUNKS: Final = [
    *_all(
        "chunk",
        Kind.INVALID,
        {
            "size_word": chunked(b"ZZ\r\nhello\r\n" + ZERO),
            "size_empty": chunked(b"\r\nhello\r\n" + ZERO),
            "size_minus": chunked(b"-5\r\nhello\r\n" + ZERO),
            "size_plus": chunked(b"+5\r\nhello\r\n" + ZERO),
            "size_prefix": chunked(b"0x5\r\nhello\r\n" + ZERO),
            "size_underscore": chunked(b"0_5\r\nhello\r\n" + ZERO),
            "size_first_space": chunked(b" 5\r\nhello\r\n" + ZERO),
            "size_space": chunked(b"5 \r\nhello\r\n" + ZERO),
            "size_tab": chunked(b"5\t\r\nhello\r\n" + ZERO),
            "size_comma": chunked(b"5,5\r\nhello\r\n" + ZERO),
            "size_overflow_32": chunked(b"100000005\r\nhello\r\n" + ZERO),
            "size_overflow_64": chunked(b"10000000000000005\r\nhello\r\n" + ZERO),
            "size_long": chunked(b"f" * 5000 + b"\r\nhello\r\n" + ZERO),
            "size_fullwidth": chunked("\uff15\r\nhello\r\n".encode() + ZERO),
            "size_nul": chunked(b"5\x00\r\nhello\r\n" + ZERO),
            "size_lf": chunked(b"5\nhello\r\n" + ZERO),
            "size_cr": chunked(b"5\rhello\r\n" + ZERO),
            "size_crcrlf": chunked(b"5\r\r\nhello\r\n" + ZERO),
            "extension_lf": chunked(b"5;a\nhello\r\n" + ZERO),
            "extension_lf_inside": chunked(b"5;a\n\r\nhello\r\n" + ZERO),
            "extension_cr_inside": chunked(b"5;a\rb\r\nhello\r\n" + ZERO),
            "extension_nul": chunked(b"5;a=\x00\r\nhello\r\n" + ZERO),
            "data_end_lf": chunked(b"5\r\nhello\n" + ZERO),
            "data_end_cr": chunked(b"5\r\nhello\r0\r\n\r\n"),
            "data_end_missing": chunked(b"5\r\nhello" + ZERO),
            "data_too_long": chunked(b"5\r\nhello!\r\n" + ZERO),
            "data_too_short": chunked(b"6\r\nhello\r\n" + ZERO),
            "last_lf": chunked(b"5\r\nhello\r\n0\n\n"),
            "last_cr": chunked(b"5\r\nhello\r\n0\r\r"),
            "after_good_chunks": chunked(b"5\r\nhello\r\n" * 10 + b"Z\r\n" + ZERO),
            "trailer_no_colon": chunked(b"5\r\nhello\r\n0\r\nmarker\r\n\r\n"),
            "trailer_space_before_colon": chunked(b"5\r\nhello\r\n0\r\nX : marker\r\n\r\n"),
            "trailer_nul": chunked(b"5\r\nhello\r\n0\r\nX: \x00marker\r\n\r\n"),
            "trailer_lf": chunked(b"5\r\nhello\r\n0\r\nX: marker\n\r\n"),
            "trailer_folded": chunked(b"5\r\nhello\r\n0\r\nX: a\r\n marker\r\n\r\n"),
        },
    ),
    *_all(
        "chunk",
        Kind.OPEN,
        {
            "size_zeros": chunked(b"0000000000005\r\nhello\r\n" + ZERO),
            "extension_empty": chunked(b"5;\r\nhello\r\n" + ZERO),
            "extension_long": chunked(b"5;a=" + b"x" * 3000 + b"\r\nhello\r\n" + ZERO),
            "extension_endless": chunked(b"5;a=" + b"x" * 100_000 + b"\r\nhello\r\n" + ZERO),
            "extension_on_each": chunked(b"1;a=b\r\nx\r\n" * 500 + ZERO),
            "trailer": chunked(b"5\r\nhello\r\n0\r\nX-Trailer: marker\r\n\r\n"),
            "trailer_authorization": chunked(b"5\r\nhello\r\n0\r\nAuthorization: Bearer marker\r\n\r\n"),
            "trailer_host": chunked(b"5\r\nhello\r\n0\r\nHost: marker\r\n\r\n"),
            "trailer_length": chunked(b"5\r\nhello\r\n0\r\nContent-Length: 50\r\n\r\n"),
            "trailer_coding": chunked(b"5\r\nhello\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n"),
            "trailer_connection": chunked(b"5\r\nhello\r\n0\r\nConnection: marker\r\n\r\n"),
            "trailers_many": chunked(b"5\r\nhello\r\n0\r\n" + b"X: marker\r\n" * 300 + b"\r\n"),
            "trailer_endless": chunked(b"5\r\nhello\r\n0\r\nX: " + b"m" * 200_000 + b"\r\n\r\n"),
        },
    ),
    *_all(
        "chunk",
        Kind.VALID,
        {
            "extension_space": chunked(b"5 ; a = b\t;c\r\nhello\r\n0 ; d\r\n\r\n"),
            "size_upper_case": chunked(b"A\r\n0123456789\r\n" + ZERO),
            "extension": chunked(b'5;a=b;c;d="e f"\r\nhello\r\n0;last\r\n\r\n'),
            "data_looks_like_a_request": chunked(b"%x\r\n" % len(INNER) + INNER + b"\r\n" + ZERO),
            "data_looks_like_an_end": chunked(b"5\r\n0\r\n\r\n\r\n" + ZERO),
        },
    ),
]

FORBIDDEN_PATHS: Final = rb"""
    /api/.. /api/../ /api/../admin /api/a/../../admin /api/. /api/./x /api/x/.. /api/x/. /api/%2e%2e/admin
    /api/%2E%2E/admin /api/.%2e/admin /api/%2e./admin /api/%2e/x /api/..%2fadmin /api/..%2Fadmin
    /api/%2e%2e%2fadmin /api/%2f..%2fadmin /api/x%2f..%2f..%2fadmin /api/%252e%252e/admin
    /api/%25252e%25252e/admin /api/%252e%252e%252fadmin /api/%25%32%65%25%32%65/admin /api/..%252fadmin
    /api/%2525252e./admin /api/%%32%65%%32%65/admin /api/..;/admin /api/..;a=b/admin /api/.;/x
    /api/%2e%2e;/admin /api/..%3b/admin /api/..%253b/admin /api/..%3ba=b/admin /api/x;/..;/..;/admin
    /api/..\admin /api/\..\admin /api/..%5cadmin /api/%5c..%5cadmin /api/..%255cadmin /api/a\b /api/a%5Cb
    /api//../admin /api/..//admin /api//..%2f /api/...%2f../x /api/%00 /api/a%00b /api/%2500 /api/a%0d%0aX:y
    /api/%0a /api/%250a /api/%0d /api/a%23b /api/a%2523b /api/oauth /api/oauth/ /api/oauth/token
    /api/OAuth/token /api/oauth?x /api/%6fauth/token /api/%256fauth/token /api//oauth/token
    /api/oauth;x/token /api/;x/oauth/token /api/oauth%2ftoken /api/%2foauth/token /api/%4f%41%75%74%68/token
    /api/;/oauth/token /api/oauth%3bx/token /api/oauth%2f..%2foauth /api/.%2foauth/token
    /api/x/../oauth/token /api/%2e/oauth/token
    /api/oauth%3f/token /api/oauth%3ftoken /api/oauth%20/token /api/oauth%09 /api/oauth.json /api/oauth.%2ftoken
    /api/oauth%253f/token /api/oauth:x /api/oauth,token /api/oauth%c2%a0/token /api/oauth%e2%80%8b
    /api/%ef%bd%8fauth/token /api/%c0%afoauth/token /api/x%c0%af%c0%ae%c0%ae%c0%afy
    /api/%e2%80%a5/x /api/%ef%bc%8e%ef%bc%8e/x /api/%e0%80%ae%e0%80%ae/x
""".split()
OUTSIDE: Final = rb"""
    /api /api;/x /api%2fx /api%2f..%2fadmin /apis/x /API/x /Api/x //api/x /./api/x /x/../api/y /%61pi/x
    /api.x/y /api%00/x /oauth/token //evil.example/api/x /\evil/api/x ///api/x /;/api/x /..;/api/x
    /%2e/api/x
""".split()
ODD_PATHS: Final = rb"""
    /api/ /api// /api/x//y/ /api/.well-known/x /api/... /api/..x /api/x.. /api/x..y /api/.x /api/a%2Fb
    /api/a%2fb/ /api/%7Eme /api/a;b=c /api/a;b=c/d;e /api/x?a=../../admin /api/x? /api/x??
    /api/x?a=%23&b=%2e%2e/ /api/x?..\.. /api/%C3%A5 /api/%c3%a5 /api/%ff /api/100% /api/%zz /api/a%2
    /api/oauthx /api/oauth2/token /api/oauth-clients /api/oauth_x /api/x%e2%80%a6
    /api/x/oauth/token /api/!$&'()*+,;=:@-._~ /api/"<>^`{|} /api/x?/api/oauth/token
    /api/http://evil.example/ /api/x?url=http://localhost/
""".split()
RAW_LETTERS: Final = [b"/api/\xe5", b"/api/\xc3\xa5", b"/api/\xff?\x80=\xf0\x9f", b"http://localhost/api/x?\xe5"]
NOT_TARGETS: Final = [
    b"/api/x#y", b"/api/x#", b"/api/#/../..", b"/api/x?a#b", b"#/api/x", b"api/x", b"api", b"?x", b"..",
    b"*", b"localhost:80", b"http:/api/x", b"http:///api/x", b"http://", b"http:", b"://localhost/api/x",
    b"ftp://localhost/api/x", b"file:///api/x", b"javascript:x", b"http://user@localhost/api/x",
    b"http://user:pw@localhost/api/x", b"http://evil.example@localhost/api/x",
    b"http://localhost@evil.example/api/x", b"http://localhost#@evil/api/x",
    b"http://localhost\\@evil.example/api/x", b"http://localhost%00.evil.example/api/x", b"/api/\x00x",
    b"/api/\x01x", b"/api/\x7fx", b"/api/\tx", b"http://\xe5/api/x", b"\xe5", b"/api/x?\x00",
    b"/api/x?\x1b[31m", b"/api/a b", b"/api/x HTTP/1.1 y",
]  # fmt: skip
TARGETS: Final = [
    *(Hostile(f"path_{path.decode()}", Kind.POLICY, get(path)) for path in FORBIDDEN_PATHS + OUTSIDE),
    *(Hostile(f"path_{path.decode()}", Kind.VALID, get(path)) for path in ODD_PATHS),
    *(Hostile(f"target_{path!r}", Kind.POLICY, get(path)) for path in NOT_TARGETS),
    *(Hostile(f"target_{path!r}", Kind.VALID, get(path)) for path in RAW_LETTERS),
    *_all(
        "target",
        Kind.POLICY,
        {
            "absolute_other_host": get(b"http://evil.example/api/x"),
            "absolute_other_host_with_ours": get(b"http://evil.example/api/x", b"Origin: http://localhost\r\n"),
            "absolute_leaves": get(b"http://localhost/api/../admin"),
            "absolute_outside": get(b"http://localhost/admin"),
            "absolute_suffix": get(b"http://localhost.evil.example/api/x"),
            "authority_form": get(b"localhost:443", method=b"CONNECT"),
            "connect_origin_form": get(b"/api/x", method=b"CONNECT"),
            "trace": get(b"/api/x", method=b"TRACE"),
            "asterisk_get": get(b"*"),
            "method_unknown": get(b"/api/x", method=b"FROB"),
            "method_lower_case": get(b"/api/x", method=b"get"),
            "method_pri": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        },
    ),
    *_all(
        "target",
        Kind.VALID,
        {
            "absolute": get(b"http://localhost/api/hostile"),
            "absolute_port": get(b"http://localhost:1/api/hostile?x"),
            "absolute_case": get(b"HTTP://LOCALHOST/api/hostile"),
        },
    ),
    *_all(
        "target",
        Kind.OPEN,  # a path of our own: the status page
        {
            "absolute_no_path": get(b"http://localhost"),
            "absolute_query_only": get(b"http://localhost?/api/x"),
        },
    ),
    *_all(
        "line",
        Kind.INVALID,
        {
            "two_spaces": b"GET  /api/hostile HTTP/1.1\r\n" + HOST + MARK + b"\r\n",
            "two_spaces_later": b"GET /api/hostile  HTTP/1.1\r\n" + HOST + MARK + b"\r\n",
            "version_rtsp": get(b"/api/hostile", version=b"RTSP/1.0"),
            "version_ice": get(b"/api/hostile", version=b"ICE/1.0", method=b"SOURCE"),
            "version_sip": get(b"/api/hostile", version=b"SIP/2.0"),
            "method_of_rtsp": get(b"/api/hostile", method=b"ANNOUNCE"),
            "method_bytes": get(b"/api/hostile", method=b"G\xc5T"),
            "version_bytes": get(b"/api/hostile", version=b"HTTP/1.1\xa0"),
            "lf_first": b"\n" + get(b"/api/hostile"),
            "cr_first": b"\r" + get(b"/api/hostile"),
            "lf_after_empty_line": b"\r\n\n" + get(b"/api/hostile"),
            "lf_at_end": b"GET /api/hostile HTTP/1.1\n" + HOST + MARK + b"\r\n",
            "crcrlf": b"GET /api/hostile HTTP/1.1\r\r\n" + HOST + MARK + b"\r\n",
            "proxy_protocol": b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n" + get(b"/api/hostile"),
            "proxy_protocol_2": b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + get(b"/api/hostile"),
            "ssh": b"SSH-2.0-OpenSSH_9.9\r\n",
            "no_target": b"GET  HTTP/1.1\r\n" + HOST + MARK + b"\r\n",
            "no_version": b"GET /api/hostile\r\n" + HOST + MARK + b"\r\n",
            "tab": b"GET\t/api/hostile\tHTTP/1.1\r\n" + HOST + MARK + b"\r\n",
            "first_space": b" GET /api/hostile HTTP/1.1\r\n" + HOST + MARK + b"\r\n",
            "last_space": b"GET /api/hostile HTTP/1.1 \r\n" + HOST + MARK + b"\r\n",
            "version_2": get(b"/api/hostile", version=b"HTTP/2.0"),
            "version_0_9": get(b"/api/hostile", version=b"HTTP/0.9"),
            "version_9_9": get(b"/api/hostile", version=b"HTTP/9.9"),
            "version_1_10": get(b"/api/hostile", version=b"HTTP/1.10"),
            "version_01_1": get(b"/api/hostile", version=b"HTTP/01.1"),
            "version_short": get(b"/api/hostile", version=b"HTTP/1"),
            "version_lower_case": get(b"/api/hostile", version=b"http/1.1"),
            "method_control": get(b"/api/hostile", method=b"GE\x01T"),
            "method_colon": get(b"/api/hostile", method=b"GET:"),
            "method_empty": get(b"/api/hostile", method=b""),
            "nul": b"\x00" + get(b"/api/hostile"),
            "bom": b"\xef\xbb\xbf" + get(b"/api/hostile"),
            "tls_hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03marker",
            "socks": b"\x05\x01\x00",
            "words": b"marker\r\n\r\n",
            "lf_only": get(b"/api/hostile").replace(b"\r\n", b"\n"),
            "cr_only": get(b"/api/hostile").replace(b"\r\n", b"\r") + b"\r\n\r\n",
            "target_too_long": get(b"/api/" + b"a" * 40_000),
        },
    ),
]

FIELDS: Final = [
    *_all(
        "field",
        Kind.INVALID,
        {
            "no_host": b"GET /api/hostile HTTP/1.1\r\n" + MARK + b"\r\n",
            "two_hosts": get(b"/api/hostile", HOST),
            "two_hosts_differ": get(b"/api/hostile", b"Host: evil.example\r\n"),
            "space_before_colon": get(b"/api/hostile", b"X : marker\r\n"),
            "tab_before_colon": get(b"/api/hostile", b"X\t: marker\r\n"),
            "first_space": get(b"/api/hostile", b" X: marker\r\n"),
            "folded": get(b"/api/hostile", b"X: a\r\n marker\r\n"),
            "folded_tab": get(b"/api/hostile", b"X: a\r\n\tmarker\r\n"),
            "folded_first": b"GET /api/hostile HTTP/1.1\r\n folded: marker\r\n" + HOST + b"\r\n",
            "no_colon": get(b"/api/hostile", b"marker\r\n"),
            "no_name": get(b"/api/hostile", b": marker\r\n"),
            "name_space": get(b"/api/hostile", b"X Y: marker\r\n"),
            "name_parenthesis": get(b"/api/hostile", b"X(Y): marker\r\n"),
            "name_quote": get(b"/api/hostile", b'X"Y: marker\r\n'),
            "name_slash": get(b"/api/hostile", b"X/Y: marker\r\n"),
            "name_bytes": get(b"/api/hostile", b"X\xe9: marker\r\n"),
            "name_nul": get(b"/api/hostile", b"X\x00: marker\r\n"),
            "name_control": get(b"/api/hostile", b"X\x01: marker\r\n"),
            "name_del": get(b"/api/hostile", b"X\x7f: marker\r\n"),
            "value_nul": get(b"/api/hostile", b"X: a\x00marker\r\n"),
            "value_control": get(b"/api/hostile", b"X: a\x01marker\r\n"),
            "value_escape": get(b"/api/hostile", b"X: \x1b[31mmarker\r\n"),
            "value_backspace": get(b"/api/hostile", b"X: a\x08marker\r\n"),
            "value_del": get(b"/api/hostile", b"X: a\x7fmarker\r\n"),
            "value_vertical_tab": get(b"/api/hostile", b"X: a\x0bmarker\r\n"),
            "value_bare_cr": get(b"/api/hostile", b"X: a\rmarker\r\n"),
            "value_bare_cr_injects": get(b"/api/hostile", b"X: a\rX-Evil: marker\r\n"),
            "value_bare_lf": get(b"/api/hostile", b"X: a\nX-Evil: marker\r\n"),
            "line_end_crcrlf": get(b"/api/hostile", b"X: marker\r\r\n"),
            "authorization_control": get(b"/api/hostile", b"Authorization: Bearer marker\x01\r\n"),
            "one_too_large": get(b"/api/hostile", b"X: " + b"m" * 20_000 + b"\r\n"),
            "one_name_too_large": get(b"/api/hostile", b"X" * 20_000 + b": marker\r\n"),
            "all_too_large": get(b"/api/hostile", *(b"X-%d: %s\r\n" % (n, b"m" * 300) for n in range(100))),
            "too_many": get(b"/api/hostile", *(b"X-%d: m\r\n" % n for n in range(5000))),
        },
    ),
    *_all(
        "field",
        Kind.VALID,
        {
            "value_empty": get(b"/api/hostile", b"X:\r\n", b"Y:   \r\n"),
            "value_tab": get(b"/api/hostile", b"X: a\tb\r\n"),
            "value_latin_1": get(b"/api/hostile", b"X: caf\xe9\r\n"),
            "value_bytes": get(b"/api/hostile", b"X: \xff\x80\xfe\r\n"),
            "value_utf_8": get(b"/api/hostile", "X: blåbär 🫐\r\n".encode()),
            "value_overlong_utf_8": get(b"/api/hostile", b"X: \xc0\x8d\xc0\x8a\r\n"),
            "name_odd_token": get(b"/api/hostile", b"!#$%&'*+-.^`|~x: 1\r\n"),
            "name_underscore": get(b"/api/hostile", b"X_Forwarded_For: 1\r\n"),
            "repeated": get(b"/api/hostile", b"X: 1\r\n" * 50),
            "connection_names_ours": get(b"/api/hostile", b"Connection: Authorization, Host, Via\r\n"),
            "connection_garbage": get(b"/api/hostile", b"Connection: ,,;;, =, \xe9\r\n"),
            "connection_many": get(b"/api/hostile", b"Connection: " + b"a," * 2000 + b"\r\n"),
            "authorization": get(b"/api/hostile", b"Authorization: Bearer marker\r\n"),
            "proxy_authorization": get(b"/api/hostile", b"Proxy-Authorization: Basic marker\r\n"),
            "our_error_field": get(b"/api/hostile", b"X-Krebit-Proxy-Error: marker\r\n"),
            "range": get(b"/api/hostile", b"Range: bytes=0-," + b"0-," * 500 + b"\r\n"),
            "upgrade": get(b"/api/hostile", b"Connection: Upgrade\r\nUpgrade: websocket\r\n"),
            "upgrade_h2c": get(b"/api/hostile", b"Connection: Upgrade\r\nUpgrade: h2c\r\n"),
        },
    ),
    *_all(
        "field",
        Kind.OPEN,
        {
            "authorization_twice": get(b"/api/hostile", b"Authorization: a marker\r\n", b"Authorization: b marker\r\n"),
            "content_type_twice": get(b"/api/hostile", b"Content-Type: a/b\r\n", b"Content-Type: c/d\r\n"),
            "expect_other": post(b"Expect: marker\r\n" + CL5, b"hello"),
            "expect": post(b"Expect: 100-continue\r\n" + CL5, b"hello"),
            "method_override": get(b"/api/hostile", b"X-HTTP-Method-Override: DELETE\r\n"),
            "original_url": get(b"/api/hostile", b"X-Original-URL: /admin\r\n", b"X-Rewrite-URL: /admin\r\n"),
        },
    ),
]


def host(value: bytes) -> bytes:
    return b"GET /api/hostile HTTP/1.1\r\nHost:%s\r\n%s\r\n" % (value, MARK)


FOREIGN_HOSTS: Final = [
    b" evil.example", b" evil.example:80", b" localhost.evil.example", b" evil-localhost", b" localhostx",
    b" 127.0.0.1.nip.io", b" 127.0.0.1.evil.example:80", b" 10.0.0.1", b" 192.168.1.1", b" 0.0.0.0",
    b" 169.254.169.254", b" 127.1", b" 2130706433", b" 0x7f000001", b" 0177.0.0.1", b" 127.000.000.001",
    b" [::]", b" [fe80::1]", b" user@localhost", b" localhost@evil.example", b" localhost:80@evil.example",
    b" evil.example#localhost", b" evil.example/localhost", b" localhost/evil", b" localhost, evil.example",
    b" localhost evil.example", b" .localhost", b" localhost..", b" ", b"", b" :80", b" .", b" localhost:",
    b" localhost:x", b" localhost:99999999", b" localhost:-1", b" [::1", b" ::1", b" *", b" %6cocalhost",
    b" loc\xc3\xa4lhost", b" xn--localhost", b" localhost\\evil", b' "localhost"', b" http://localhost",
]  # fmt: skip
OWN_HOSTS: Final = [
    b" localhost", b" LOCALHOST", b" localhost:1", b" localhost:65535", b" localhost.", b" localhost.:80",
    b" krebit.localhost", b" a.b.LocalHost:80", b" 127.0.0.1", b" 127.0.0.1:80", b" [::1]", b" [::1]:8321",
    b"localhost", b" \t localhost \t",
]  # fmt: skip
# By the letter a port may be empty or any number of digits; both answers are right for these.
EITHER_HOSTS: Final = {b" localhost:", b" localhost:99999999"}
BROWSER: Final = [
    *(
        Hostile(f"host_{value!r}", Kind.OPEN if value in EITHER_HOSTS else Kind.POLICY, host(value))
        for value in FOREIGN_HOSTS
    ),
    *(Hostile(f"host_{value!r}", Kind.VALID, host(value)) for value in OWN_HOSTS),
    *_all(
        "browser",
        Kind.POLICY,
        {
            "origin_foreign": get(b"/api/hostile", EVIL),
            "origin_null": get(b"/api/hostile", b"Origin: null\r\n"),
            "origin_empty": get(b"/api/hostile", b"Origin:\r\n"),
            "origin_other_port": get(b"/api/hostile", b"Origin: http://localhost:1\r\n"),
            "origin_look_alike": get(b"/api/hostile", b"Origin: http://localhost.evil.example\r\n"),
            "origin_extension": get(b"/api/hostile", b"Origin: chrome-extension://abc\r\n"),
            "origin_file": get(b"/api/hostile", b"Origin: file://\r\n"),
            "origin_twice": get(b"/api/hostile", b"Origin: http://localhost\r\n", EVIL),
            "origin_list": get(b"/api/hostile", b"Origin: http://localhost https://evil.example\r\n"),
            "origin_on_post": post(b"Origin: https://evil.example\r\n" + CL5, b"hello"),
            "fetch_cross_site": get(b"/api/hostile", CROSS),
            "fetch_same_site": get(b"/api/hostile", b"Sec-Fetch-Site: same-site\r\n"),
            "fetch_case": get(b"/api/hostile", b"sec-fetch-site: Cross-Site\r\n"),
            "fetch_unknown": get(b"/api/hostile", b"Sec-Fetch-Site: marker\r\n"),
            "fetch_twice": get(b"/api/hostile", b"Sec-Fetch-Site: none\r\n", CROSS),
            "fetch_image": get(b"/api/hostile", CROSS, b"Sec-Fetch-Mode: no-cors\r\nSec-Fetch-Dest: image\r\n"),
            "fetch_navigation": get(b"/api/hostile", CROSS, b"Sec-Fetch-Mode: navigate\r\nSec-Fetch-User: ?1\r\n"),
            "fetch_websocket": get(b"/api/hostile", EVIL, b"Connection: Upgrade\r\nUpgrade: websocket\r\n"),
            "preflight": get(b"/api/hostile", EVIL, ASKS, method=b"OPTIONS"),
            "preflight_private": get(
                b"/api/hostile",
                EVIL + b"Access-Control-Request-Method: GET\r\nAccess-Control-Request-Private-Network: true\r\n",
                method=b"OPTIONS",
            ),
        },
    ),
    *_all(
        "browser",
        Kind.VALID,
        {
            "fetch_same_origin": get(b"/api/hostile", b"Sec-Fetch-Site: same-origin\r\n"),
            "fetch_none": get(b"/api/hostile", b"Sec-Fetch-Site: none\r\nSec-Fetch-Mode: navigate\r\n"),
        },
    ),
]

CORPUS: Final = [*FRAMING, *CHUNKS, *TARGETS, *FIELDS, *BROWSER]
