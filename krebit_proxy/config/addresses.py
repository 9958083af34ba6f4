"""Addresses in settings, and what is wrong with them."""

import re
from typing import Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from pydantic_core import PydanticCustomError

from krebit_proxy.core.host import is_host
from krebit_proxy.core.loopback import is_loopback

LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
# RFC 3986, 2: the characters that a URI is made of. Anything else would be sent differently from how it was written.
_URI: Final = re.compile(r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]+")
_OWN_ROUTES: Final = frozenset({"", "/", "/setup", "/setup/paste", "/setup/done", "/healthz", "/readyz", "/metrics"})


def wrong(text: str) -> PydanticCustomError:
    """The exception for an invalid value. `text` follows the name of the setting: "is not a URL"."""
    return PydanticCustomError("setting", "{text}", {"text": text})


def split_listen(address: str) -> tuple[str, int] | None:
    """Host (no brackets) and port of a TCP listen address; None for `unix:/path` and `fd:N`.

    A port alone (`8321`) means localhost. Raises PydanticCustomError for anything else.
    """
    if address.startswith("unix:/"):
        split_unix(address)
        return None
    if re.fullmatch(r"fd:\d+", address):
        return None
    host, colon, port = (f"localhost:{address}" if address.isdigit() else address).rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not port.isascii() or not port.isdigit() or (":" in bare and bare == host):
        raise wrong("is not an address; write host:port, [IPv6]:port, unix:/path or fd:N")
    if int(port) > 65535:
        raise wrong(f"has port {port}; the highest port is 65535")
    if not is_host(bare):
        raise wrong(f"has {host!r} as the host; write localhost, an IP address, or 0.0.0.0 for all addresses")
    return bare, int(port)


def split_unix(address: str) -> tuple[str, dict[str, str]]:
    """The path and the options of `unix:/path?mode=0660&user=NAME&group=NAME`.

    Raises:
        PydanticCustomError: there is another option, or the mode is not octal.
    """
    path, _, query = address.removeprefix("unix:").partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    if options.keys() - {"mode", "user", "group"}:
        raise wrong("has an unknown option; write ?mode=0660&group=NAME&user=NAME")
    if not re.fullmatch(r"0?[0-7]{3}", options.get("mode", "0600")):
        raise wrong("has a mode that is not octal; write for example mode=0660")
    return path, options


def check_url(url: str, *, origin_only: bool = False, credentials: bool = False) -> SplitResult:
    """Checks the rules for all URLs in the settings: https, or http on loopback, with a valid host.

    Args:
        url: the value of the setting.
        origin_only: refuse a path or query.
        credentials: accept `user:password@`.

    Raises:
        PydanticCustomError: says what is wrong.
    """
    parts = split_url(url)
    if parts.scheme not in {"http", "https"}:
        raise wrong("must start with https://, or with http:// for this computer")
    if not is_host(parts.hostname or ""):
        raise wrong("has no valid host name")
    if not credentials and "@" in parts.netloc:
        raise wrong("must not contain a user name or password")
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise wrong("uses plain http to another computer, so others could read the tokens; use https")
    if "#" in url:
        raise wrong("must not contain a fragment (#...)")
    if origin_only and (parts.path not in {"", "/"} or "?" in url):
        raise wrong("must end after the host name and port; the paths come from the requests")
    return parts


def split_url(url: str) -> SplitResult:
    """Splits a URL. Raises PydanticCustomError if it has an invalid character, host or port."""
    if not _URI.fullmatch(url):
        raise wrong("is not a URL: percent-encode its spaces and special characters")
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise wrong("is not a URL: its host or port is invalid") from None
    return parts


def taken_path(path: str) -> bool:
    """Whether the proxy needs `path` for itself, so that a redirect URI cannot have it."""
    plain = unquote(path)
    return plain in _OWN_ROUTES or plain == "/api" or plain.startswith("/api/")
