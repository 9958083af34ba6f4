"""Decides whether a request may pass, and who its caller is.

The checks, in order:

1.  *Peer.* The address, user id or certificate at the other end of the connection must be allowed.
2.  *Host.* The request must name us by a name that is ours. This stops DNS rebinding.
3.  *Browser.* A request with `Origin`, Fetch metadata or `Referer` must come from our own pages or from an allowed
    origin.
4.  *Policy.* Client key, required header, method and path, as far as settings limit them. Our own pages need none.

`Rules` are compiled once, `Rules.peer` runs once for each connection, and `admit` once for each request. It is quick
for the usual caller: a tool on loopback that sends no field which matters here except `Host`.
"""

import re
from base64 import b64decode
from binascii import Error as NotBase64
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import sha256
from typing import Final, Literal
from urllib.parse import unquote_to_bytes

from krebit_proxy.core.access import AllowRule, Caller, Peer, Rules
from krebit_proxy.core.fields import Names, origin
from krebit_proxy.core.head import Head
from krebit_proxy.core.loopback import is_loopback
from krebit_proxy.core.policy import needed_line
from krebit_proxy.core.target import meanings, origin_form
from krebit_proxy.errors import Refused

# RFC 9110, 7.2: Host = uri-host [ ":" port ]
_HOST: Final = re.compile(rb"(\[[0-9a-f:.]+\]|[a-z0-9._-]*[a-z0-9_-])\.?(?::(\d{0,5}))?", re.IGNORECASE)
_LONGEST_HOST: Final = 300  # bytes; a DNS name has 253 (RFC 1035, 2.3.4), and a port follows
_LAST_PORT: Final = 65535

# Mostly browsers send these. A request with one of them must pass `_from_browser`.
_BROWSER_FIELDS: Final = frozenset(
    (b"origin", b"sec-fetch-site", b"access-control-request-method", b"referer", b"service-worker")
)
# RFC 3986, 4.2: only a reference with "//" names a host. RFC 9110, 10.1.3: Referer may be a URL or a part of one.
_PAGE: Final = re.compile(rb"([a-z][a-z0-9+.-]*:)?//[^/?#]*", re.IGNORECASE)
# TRACE would echo our Authorization to the caller; CONNECT would open a tunnel.
_NEVER: Final = frozenset((b"CONNECT", b"TRACE", b"TRACK"))
_READ_ONLY: Final = ("GET", "HEAD", "OPTIONS")
# Some servers take the method or the path from a field instead of the request line. There are many such fields:
# X-HTTP-Method-Override, X-Original-URL, X-Rewrite-URL, X-Envoy-Original-Path. WebDAV's Destination (RFC 4918, 10.3) is
# a second path. So while methods or paths are limited, a name with one of these words must be a known one.
_TAKES_OVER: Final = re.compile(rb"method|override|rewrite|\b(?:url|uri|path)|(?:url|uri|path)\b|^destination\b")
_TAKES_NOTHING: Final = frozenset((b"access-control-request-method",))
# Rails, Laravel and Symfony take it from the query of a POST.
_METHOD_IN_QUERY: Final = re.compile(rb"(?:^|[&;])(?:_method|x-http-method(?:-override)?)(?:[=&;]|$)", re.IGNORECASE)
_MEDIA_TYPE: Final = re.compile(rb"(text/html|application/xhtml\+xml)|application/(?:[a-z.+-]*\+)?json", re.IGNORECASE)

_KEY_HINT: Final = "Send it as Authorization: Bearer KEY, as X-Api-Key, or as the password in the URL."

Preference = Literal["page", "JSON", "none"]
Tried = Callable[[Peer, bytes], None]


@dataclass(slots=True)
class Request:
    """One request, before its content.

    Attributes:
        peer: From `Rules.peer` or `Rules.unix_peer`.
        method: As sent.
        target: As sent.
        head: Its fields, examined.
        upgrade: The protocols that it offers to switch to, if we offer them to the upstream too.
        page: Whether it is for one of our own pages. They need no key, and other sites may link to them.
        authority: Our host and port as the caller named them, once `admit` has found that they are ours. Empty before
            that, for HTTP/1.0 without a host, and on a unix socket for a name that is not ours.
    """

    peer: Peer
    method: bytes
    target: bytes = field(repr=False)  # a query may contain secrets of the caller
    head: Head
    upgrade: bytes | None = None
    page: bool = False
    authority: bytes = b""

    def own_origin(self) -> bytes:
        """Our origin as the caller knows it, for example http://localhost:8321. Empty if `authority` is."""
        return self.peer.scheme + b"://" + self.authority if self.authority else b""

    def field(self, name: bytes) -> bytes | None:
        """The value of the first field called `name` (lower case)."""
        names = self.head.names
        return self.head.fields[names.index(name)][1] if name in names else None

    @property
    def prefers(self) -> Preference:
        """Which comes first in `Accept`: HTML, as browsers send it, or JSON."""
        match = _MEDIA_TYPE.search(self.field(b"accept") or b"")
        return "none" if match is None else "page" if match[1] else "JSON"

    def only(self, name: bytes) -> bytes | None:
        """The value of a field that browsers send at most once, or None. Raises Refused(cross_site) for two of them."""
        if self.head.names.count(name) > 1:
            raise Refused("cross_site", "A header that browsers send only once came more than once.")
        return self.field(name)


def admit(request: Request, rules: Rules, tried: Tried | None = None) -> Caller:
    """The caller of a request that may pass. Raises Refused for any other, with a hint how to allow it.

    `tried` is called with the peer and each client key, before anything else shows whether the key is right: with its
    SHA-256, or with nothing if the key is nobody's. It may raise Refused.
    """
    peer = request.peer
    if not peer.allowed and not (request.page and peer.here):
        hint = "tls_client_ca_file also requires a client certificate." if rules.certificates else ""
        raise Refused(
            "client_not_allowed",
            "This client is not allowed to use the proxy.",
            hint=f"Check access.allow_clients. {hint}".strip(),
        )
    request.authority = _own_authority(request, rules)
    caller = peer.caller
    if not _BROWSER_FIELDS.isdisjoint(request.head.names):
        caller = _from_browser(request, rules)
    if not request.page:  # each page answers 405 itself
        check_method(request.method)
    if rules.open or request.page or caller.preflight:
        return caller
    return _by_policy(request, rules, caller, tried)


def _own_authority(request: Request, rules: Rules) -> bytes:
    """The name and port by which the request names us. Raises Refused if they are not ours.

    With DNS rebinding, a web page points a name of its own at our address. Only that name, in Host, gives it away.
    """
    lines, host = request.head.names.count(b"host"), _named(request)
    if lines != 1 and not (request.head.http10 and lines == 0):
        raise Refused("host_not_allowed", "A request must have exactly one Host header.")
    if (len(host) <= _LONGEST_HOST and _names_loopback(host)) or not (host or lines):
        return host
    match = _HOST.fullmatch(host)
    if match and not _has_port(match):
        raise Refused("bad_request", "The port in the Host header or the URL is above 65535.")
    if match and (match[1].lower() in rules.hosts or match[1].lower() == request.peer.local):
        return host
    if not request.page and names_upstream(request, rules):
        return host
    # No browser uses a unix socket, and tools have no name for it. But a proxy in front may pass on what browsers send.
    if request.peer.unix and _BROWSER_FIELDS.isdisjoint(request.head.names):
        return b""
    name = match[1].decode("ascii") if match else "this name"
    raise Refused(
        "host_not_allowed",
        f"The proxy does not answer requests for {name}.",
        hint="If the name is yours, add it to access.allowed_hosts.",
    )


def names_upstream(request: Request, rules: Rules) -> bool:
    """Whether the target is a URL of the upstream: the tool has us as its HTTP proxy.

    That is safe: a web page cannot make a browser send an absolute-form, but to a proxy in the browser's settings.
    """
    if request.target.startswith((b"/", b"*")):
        return False
    match = _HOST.fullmatch(_named(request))
    upstream = _HOST.fullmatch(rules.upstream.partition(b"://")[2])
    return (
        match is not None
        and upstream is not None
        and match[1].lower() == upstream[1].lower()
        and match[2] in {None, b"", b"80", b"443", upstream[2]}
    )


def _named(request: Request) -> bytes:
    """Host and port as the request has them. They may be anybody's."""
    if not request.target.startswith((b"/", b"*")):
        # RFC 9112, 3.2.2: "the origin server MUST ignore the received Host header field (if any) and instead use the
        # host information of the request-target".
        return origin_form(request.target)[1] or b""
    return request.field(b"host") or b""


@lru_cache(maxsize=256)  # callers use few names for us
def _names_loopback(host: bytes) -> bool:
    match = _HOST.fullmatch(host)
    return match is not None and _has_port(match) and is_loopback(match[1].decode("ascii"))


def _has_port(match: re.Match[bytes]) -> bool:
    return int(match[2] or 0) <= _LAST_PORT


def _from_browser(request: Request, rules: Rules) -> Caller:
    """The caller of a request from a browser. Raises Refused for other sites, even if they are on our own host."""
    asked, site = request.only(b"origin"), request.only(b"sec-fetch-site")
    preflight = request.method == b"OPTIONS" and b"access-control-request-method" in request.head.names
    caller = request.peer.caller
    if b"service-worker" in request.head.names or request.only(b"sec-fetch-dest") == b"serviceworker":
        # Service Workers, 6.1: a browser sends this field with the script of a worker, which would then answer for us.
        raise Refused("cross_site", "The proxy serves no script that a browser may install as a service worker.")
    ours = not names_upstream(request, rules)  # pages of the upstream are not our pages
    if asked is None:
        if site is None and not preflight:
            return _by_referer(request, rules)
        own = (site in {b"same-origin", b"none"} and ours) or (request.page and _is_link(request))
        if own and not preflight:
            return caller
    elif origin(asked) in rules.origins:
        return replace(caller, origin=asked, preflight=_preflight(request, asked) if preflight else b"")
    elif asked and ours and site in {None, b"same-origin", b"none"} and origin(asked) == origin(request.own_origin()):
        return replace(caller, preflight=_preflight(request, asked)) if preflight else caller
    raise _cross_site()


def _by_referer(request: Request, rules: Rules) -> Caller:
    """The caller of a request that has neither Origin nor Fetch metadata. Raises Refused if Referer names another site.

    Browsers send Fetch metadata only over https and to this computer, and Origin with few GET requests. So on plain
    http, the page that sends a GET is known by Referer only, and not at all if the page wants that.
    """
    caller = request.peer.caller
    page = _PAGE.match(request.only(b"referer") or b"")
    if page is None:  # empty, about:blank or a path: browsers send none of these for a page of another site
        return caller
    site = origin(page[0])
    if site in rules.origins:
        return replace(caller, origin=site)
    # Tools that were written for Krebit may name a page of Krebit. Whoever has a page there needs no proxy.
    if site == rules.upstream:
        return caller
    # A reverse proxy in front may add https.
    if request.authority and site in {origin(scheme + request.authority) for scheme in (b"http://", b"https://")}:
        return caller
    if request.page and request.method in {b"GET", b"HEAD"} and request.prefers == "page":  # a link, as it seems
        return caller
    raise _cross_site()


def _cross_site() -> Refused:
    return Refused(
        "cross_site",
        "A page of another web site sent this request.",
        hint="If the page is yours, add its origin to access.allowed_origins.",
    )


def _is_link(request: Request) -> bool:
    """Whether a tab follows a link or a redirect. No page of another site can read the response to that."""
    return (
        request.method in {b"GET", b"HEAD"}
        and request.only(b"sec-fetch-mode") == b"navigate"
        and request.only(b"sec-fetch-dest") == b"document"
    )


def _preflight(request: Request, asked: bytes) -> bytes:
    """The header lines that allow all that a CORS preflight asks for. Browsers remember them for ten minutes."""
    lines = [
        b"Access-Control-Allow-Origin: " + asked,
        b"Access-Control-Allow-Methods: " + (request.only(b"access-control-request-method") or b""),
        b"Access-Control-Max-Age: 600",
        b"Vary: Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
    ]
    if wanted := request.only(b"access-control-request-headers"):
        lines.append(b"Access-Control-Allow-Headers: " + wanted)
    if request.only(b"access-control-request-private-network"):
        lines.append(b"Access-Control-Allow-Private-Network: true")
    return b"\r\n".join(lines) + b"\r\n"


def check_method(method: bytes) -> None:
    """Raises Refused(method_not_allowed) for CONNECT, TRACE and TRACK."""
    if method == b"CONNECT":
        raise Refused(
            "method_not_allowed",
            "The proxy opens no tunnels, so CONNECT does not work.",
            hint="Use an http:// URL for the API. The proxy itself encrypts the connection to Krebit.",
        )
    if method in _NEVER:
        raise Refused("method_not_allowed", "The proxy never forwards CONNECT, TRACE or TRACK.")


def _by_policy(request: Request, rules: Rules, caller: Caller, tried: Tried | None) -> Caller:
    """The caller, named by its client key if there are keys. Raises Refused if a rule forbids the request."""
    if rules.keys:
        key = _key(request, rules)
        if tried is not None:
            tried(request.peer, key)
        if not key:
            raise Refused("client_key_required", "The request has no valid client key.", hint=_KEY_HINT)
        caller = replace(caller, name=rules.keys[key])
    if rules.require_header and rules.require_header not in request.head.names:
        field = rules.require_header.decode("ascii")
        raise Refused("client_not_allowed", f"The header {field} is missing.", hint="access.require_header demands it.")
    if rules.read_only or rules.allow:
        path, _, query = origin_form(request.target)[0].partition(b"?")
        _check_overrides(request.head.names, query)
        allowed_by(rules, caller.name, request.method, path)
    return caller


def may_call(request: Request, rules: Rules, tried: Tried | None = None) -> bool:
    """Whether a request for a page could be one for the API: its peer, its client key and the required header fit.

    Pages need no key. But one that comes along is tried as any other, so that nobody can guess keys here.
    Raises what `tried` raises, see `admit`.
    """
    if not request.peer.allowed or (rules.require_header and rules.require_header not in request.head.names):
        return False
    if not rules.keys:
        return True
    try:
        key = _key(request, rules)
    except Refused:
        return False
    if tried is not None:
        tried(request.peer, key)
    return bool(key)


def _check_overrides(names: Names, query: bytes) -> None:
    """Raises Refused for a field or a parameter that may replace the method or the path that the rules allow."""
    for name in names:
        if name not in _TAKES_NOTHING and _TAKES_OVER.search(name):
            raise Refused(
                "method_not_allowed" if b"method" in name else "forbidden_path",
                f"The header {name.decode('ascii')} may replace the method or the path of the request.",
                hint="Leave it out, because access.read_only or access.allow is set.",
            )
    if query and _METHOD_IN_QUERY.search(unquote_to_bytes(query)):
        raise Refused(
            "method_not_allowed",
            "A parameter in the URL may replace the method of the request.",
            hint="Leave it out, because access.read_only or access.allow is set.",
        )


def allowed_by(rules: Rules, caller: str, method: bytes, path: bytes) -> AllowRule | None:
    """The line of `access.allow` that allows a request. None: the setting is empty, so all paths are allowed.

    `path` is as sent, without the query. Raises Refused if the method or the path is not allowed.
    """
    if rules.read_only and method.decode("ascii") not in _READ_ONLY:
        detail = "Only GET, HEAD and OPTIONS are allowed."
        raise Refused("method_not_allowed", detail, hint="access.read_only is set.", allow=_READ_ONLY)
    if not rules.allow:
        return None
    understood = meanings(path)
    for line in rules.allow:
        if line.covers(caller, method, understood):
            return line
    needed = needed_line(method.decode("ascii"), path)
    raise Refused("forbidden_path", "No rule allows this request.", hint=f"To allow it, add to access.allow: {needed}")


def _key(request: Request, rules: Rules) -> bytes:
    """The SHA-256 of the request's client key. Empty if the key is nobody's. Raises Refused if there is none.

    Keys are looked up by their SHA-256, so a request costs the same however many keys there are. The time of a look-up
    tells nothing about a key: to come closer to one, a caller would have to choose the SHA-256 of what it sends.
    """
    candidates = [candidate for candidate in _candidates(request) if candidate]
    if not candidates:
        raise Refused("client_key_required", "The request has no valid client key.", hint=_KEY_HINT)
    digests = (sha256(candidate).digest() for candidate in candidates)
    return next((digest for digest in digests if digest in rules.keys), b"")


def _candidates(request: Request) -> list[bytes]:
    """The values that may be a client key: X-Api-Key, a Bearer token, user and password of Basic. At most three."""
    names = request.head.names
    if names.count(b"x-api-key") > 1 or names.count(b"authorization") > 1:
        detail = "The request has more than one X-Api-Key or Authorization header."
        raise Refused("client_key_required", detail, hint="Send the client key once.")
    candidates = [request.field(b"x-api-key") or b""]
    scheme, _, parameters = (request.field(b"authorization") or b"").partition(b" ")
    if scheme.lower() == b"bearer":
        candidates.append(parameters.strip())
    elif scheme.lower() == b"basic":
        user, _, password = _decoded(parameters).partition(b":")
        candidates += [user, password]
    return candidates


def _decoded(parameters: bytes) -> bytes:
    try:
        return b64decode(parameters.strip(), validate=True)
    except NotBase64:
        return b""
