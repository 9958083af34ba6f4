"""Decides whether a request may pass, and who its caller is.

The checks, in order:

1.  *Peer.* The address, user id or certificate at the other end of the connection must be allowed.
2.  *Host.* The request must name us by a name that is ours. This stops DNS rebinding.
3.  *Browser.* A request with `Origin` or Fetch metadata must come from our own pages or from an allowed origin.
4.  *Policy.* Client key, required header, method and path, as far as settings limit them. Our own pages need none.

`Rules` are compiled once, `Rules.peer` runs once for each connection, and `admit` once for each request. It is quick
for the usual caller: a tool on loopback that sends no field which matters here except `Host`.
"""

import re
from base64 import b64decode
from binascii import Error as NotBase64
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import sha256
from hmac import compare_digest
from typing import Final, Literal

from krebit_proxy.core.access import AllowRule, Caller, Peer, Rules
from krebit_proxy.core.fields import origin
from krebit_proxy.core.head import Head
from krebit_proxy.core.loopback import is_loopback
from krebit_proxy.core.policy import needed_line
from krebit_proxy.core.target import meanings, origin_form
from krebit_proxy.errors import Refused

# RFC 9110, 7.2: Host = uri-host [ ":" port ]
_HOST: Final = re.compile(rb"(\[[0-9a-f:.]+\]|[a-z0-9._-]*[a-z0-9_-])\.?(?::(\d{0,5}))?", re.IGNORECASE)
_LAST_PORT: Final = 65535
_LONGEST_NAME: Final = 255 + len(".:65535")  # RFC 1035, 2.3.4; no longer one names a loopback address, or is cached

# Only browsers send these. A request with one of them must pass `_from_browser`.
_BROWSER_FIELDS: Final = frozenset((b"origin", b"sec-fetch-site", b"access-control-request-method"))
# The values of Sec-Fetch-Dest for a response that the browser shows (Fetch, 2.2.5, destinations).
_DOCUMENTS: Final = frozenset((b"document", b"iframe", b"frame", b"object", b"embed"))
# TRACE would echo our Authorization to the caller; CONNECT would open a tunnel.
_NEVER: Final = frozenset((b"CONNECT", b"TRACE", b"TRACK"))
_READ_ONLY: Final = ("GET", "HEAD", "OPTIONS")
# Some frameworks take the method from these fields instead of the request line.
_METHOD_OVERRIDES: Final = frozenset((b"x-http-method", b"x-http-method-override", b"x-method-override"))
_MEDIA_TYPE: Final = re.compile(rb"(text/html|application/xhtml\+xml)|application/(?:[a-z.+-]*\+)?json", re.IGNORECASE)

Preference = Literal["page", "JSON", "none"]


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
    """

    peer: Peer
    method: bytes
    target: bytes = field(repr=False)  # a query may contain secrets of the caller
    head: Head
    upgrade: bytes | None = None
    page: bool = False

    def own_origin(self) -> bytes:
        """Our origin as the caller knows it, for example http://localhost:8321. Empty if the request names no host."""
        host = self.authority()
        return self.peer.scheme + b"://" + host if host else b""

    def authority(self) -> bytes:
        """Our host and port as the caller knows them. Empty if the request names no host."""
        if not self.target.startswith((b"/", b"*")):
            # RFC 9112, 3.2.2: "the origin server MUST ignore the received Host header field (if any) and instead use
            # the host information of the request-target".
            return origin_form(self.target)[1] or b""
        return self.field(b"host") or b""

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


def admit(request: Request, rules: Rules) -> Caller:
    """The caller of a request that may pass. Raises Refused for any other, with a hint how to allow it."""
    peer = request.peer
    if not peer.allowed and not (request.page and peer.here):
        hint = "tls_client_ca_file also requires a client certificate." if rules.certificates else ""
        raise Refused(
            "client_not_allowed",
            "This client is not allowed to use the proxy.",
            hint=f"Check access.allow_clients. {hint}".strip(),
        )
    _check_host(request, rules)
    caller = peer.caller
    if not _BROWSER_FIELDS.isdisjoint(request.head.names):
        caller = _from_browser(request, rules)
    if not request.page:  # each page answers 405 itself
        check_method(request.method)
    if rules.open or request.page or caller.preflight:
        return caller
    return _by_policy(request, rules, caller)


def _check_host(request: Request, rules: Rules) -> None:
    """Raises Refused unless the request names us by one of our names.

    With DNS rebinding, a web page points a name of its own at our address. Only that name, in Host, gives it away.
    """
    lines, host = request.head.names.count(b"host"), request.authority()
    if request.peer.unix:
        return
    if lines != 1 and not (request.head.http10 and lines == 0):
        raise Refused("host_not_allowed", "A request must have exactly one Host header.")
    if (len(host) <= _LONGEST_NAME and _names_loopback(host)) or not (host or lines):
        return
    match = _HOST.fullmatch(host)
    if match and not _has_port(match):
        raise Refused("bad_request", "The port in the Host header or the URL is above 65535.")
    if match and (match[1].lower() in rules.hosts or match[1].lower() == request.peer.local):
        return
    name = match[1].decode("ascii") if match else "this name"
    raise Refused(
        "host_not_allowed",
        f"The proxy does not answer requests for {name}.",
        hint="If the name is yours, add it to access.allowed_hosts.",
    )


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
    if request.only(b"sec-fetch-dest") in _DOCUMENTS:
        caller = replace(caller, shows=True)
    if asked is None:
        own = site in {None, b"same-origin", b"none"} or (request.page and _is_link(request))
        if own and not preflight:
            return caller
    elif origin(asked) in rules.origins:
        return replace(caller, origin=asked, preflight=_preflight(request, asked) if preflight else b"")
    elif site in {None, b"same-origin", b"none"} and origin(asked) == origin(request.own_origin()):
        return replace(caller, preflight=_preflight(request, asked)) if preflight else caller
    raise Refused(
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
    if method in _NEVER:
        raise Refused("method_not_allowed", "The proxy never forwards CONNECT, TRACE or TRACK.")


def _by_policy(request: Request, rules: Rules, caller: Caller) -> Caller:
    """The caller, named by its client key if there are keys. Raises Refused if a rule forbids the request."""
    if rules.keys:
        caller = replace(caller, name=_key_owner(request, rules))
    if rules.require_header and rules.require_header not in request.head.names:
        field = rules.require_header.decode("ascii")
        raise Refused("client_not_allowed", f"The header {field} is missing.", hint="access.require_header demands it.")
    if rules.read_only or rules.allow:
        if not _METHOD_OVERRIDES.isdisjoint(request.head.names):
            detail = "The proxy limits methods, so it accepts no header that overrides the method."
            raise Refused("method_not_allowed", detail)
        path = origin_form(request.target)[0].partition(b"?")[0]
        allowed_by(rules, caller.name, request.method, path)
    return caller


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


def _key_owner(request: Request, rules: Rules) -> str:
    """The owner of the client key. Every key is compared, in constant time, so the time reveals nothing."""
    owner = None
    for candidate in _candidates(request):
        digest = sha256(candidate).digest()
        for name, known in rules.keys:
            if compare_digest(digest, known):
                owner = name
    if owner is None:
        raise Refused(
            "client_key_required",
            "The request has no valid client key.",
            hint="Send it as Authorization: Bearer KEY, as X-Api-Key, or as the password in the URL.",
        )
    return owner


def _candidates(request: Request) -> list[bytes]:
    """All values that may be a client key: X-Api-Key, a Bearer token, user and password of Basic."""
    candidates = []
    for name, (_, value) in zip(request.head.names, request.head.fields, strict=True):
        if name == b"x-api-key":
            candidates.append(value)
        elif name == b"authorization":
            scheme, _, parameters = value.partition(b" ")
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
