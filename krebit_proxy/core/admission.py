"""Who may call: the Host rule, the rules for browsers, peers, keys, methods and paths.

The rules are compiled once, a peer is looked up once a connection (`Rules.peer`), and `admit` runs for each request. A
plain tool on loopback sends nothing but `Host` that matters here, and pays for no more than that.
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

# What only browsers send, and what makes a request theirs to judge.
_BROWSER_FIELDS: Final = frozenset((b"origin", b"sec-fetch-site", b"access-control-request-method"))
# What it makes of an answer that it shows (Fetch, 2.2.5, destinations).
_DOCUMENTS: Final = frozenset((b"document", b"iframe", b"frame", b"object", b"embed"))
# TRACE would echo our Authorization to the caller; CONNECT would open a tunnel.
_NEVER: Final = frozenset((b"CONNECT", b"TRACE", b"TRACK"))
_READ_ONLY: Final = ("GET", "HEAD", "OPTIONS")
# Frameworks take the method from these, whatever the request line says.
_METHOD_OVERRIDES: Final = frozenset((b"x-http-method", b"x-http-method-override", b"x-method-override"))
_MEDIA_TYPE: Final = re.compile(rb"(text/html|application/xhtml\+xml)|application/(?:[a-z.+-]*\+)?json", re.IGNORECASE)

Preference = Literal["page", "JSON", "none"]


@dataclass(slots=True)
class Request:
    """What a request says of itself.

    Attributes:
        peer: From `Rules.peer` or `Rules.unix_peer`, once a connection.
        method: As sent.
        target: As sent.
        head: Its fields, examined.
        upgrade: The protocols that it offers to switch to, as far as the offer goes upstream.
        page: Whether it is for one of our own pages. They need no key, and a link from elsewhere may lead to them.
    """

    peer: Peer
    method: bytes
    target: bytes = field(repr=False)  # a query may hold secrets of the caller
    head: Head
    upgrade: bytes | None = None
    page: bool = False

    def own_origin(self) -> bytes:
        """The origin by which the caller knows us, e.g. http://localhost:8321; empty when it named none."""
        host = self.authority()
        return self.peer.scheme + b"://" + host if host else b""

    def authority(self) -> bytes:
        """The host and port by which the caller knows us; empty when it named none."""
        if not self.target.startswith((b"/", b"*")):
            # RFC 9112, 3.2.2: "the origin server MUST ignore the received Host header field (if any) and instead use
            # the host information of the request-target".
            return origin_form(self.target)[1] or b""
        names = self.head.names
        return self.head.fields[names.index(b"host")][1] if b"host" in names else b""

    def field(self, name: bytes) -> bytes | None:
        """The value of the first field called `name` (lower case)."""
        names = self.head.names
        return self.head.fields[names.index(name)][1] if name in names else None

    @property
    def prefers(self) -> Preference:
        """What its `Accept` names first: a page, as browsers do, or JSON."""
        match = _MEDIA_TYPE.search(self.field(b"accept") or b"")
        return "none" if match is None else "page" if match[1] else "JSON"

    def only(self, name: bytes) -> bytes | None:
        """The value of a field that browsers send at most once; None if it is not there. Raises Refused for two."""
        if self.head.names.count(name) > 1:
            raise Refused("cross_site", "A field that browsers send once came more than once.")
        return self.field(name)


def admit(request: Request, rules: Rules) -> Caller:
    """The caller of a request that may pass. Every other request is Refused, with what would let it pass."""
    peer = request.peer
    if not peer.allowed and not (request.page and peer.here):
        hint = "tls_client_ca_file asks for a certificate, too." if rules.certificates else ""
        raise Refused(
            "client_not_allowed",
            "This address may not call.",
            hint=f"access.allow_clients lists who may. {hint}".strip(),
        )
    _check_host(request, rules)
    caller = peer.caller
    if not _BROWSER_FIELDS.isdisjoint(request.head.names):
        caller = _from_browser(request, rules)
    if not request.page:  # a page tells itself which methods it knows
        check_method(request.method)
    if rules.open or request.page or caller.preflight:
        return caller
    return _by_policy(request, rules, caller)


def _check_host(request: Request, rules: Rules) -> None:
    """Raises Refused unless the caller knows us by a name that is ours.

    A page whose name was rebound to our address shows that name here, and gives itself away by nothing else.
    """
    lines, host = request.head.names.count(b"host"), request.authority()
    if request.peer.unix:
        return
    if lines != 1 and not (request.head.http10 and lines == 0):
        raise Refused("host_not_allowed", "A request has exactly one Host field.")
    if _names_loopback(host) or not (host or lines):
        return
    match = _HOST.fullmatch(host)
    if match and not _has_port(match):
        raise Refused("bad_request", "The port in the Host header or the URL is above 65535.")
    if match and (match[1].lower() in rules.hosts or match[1].lower() == request.peer.local):
        return
    name = match[1].decode("ascii") if match else "this name"
    raise Refused(
        "host_not_allowed",
        f"Requests for {name} are not served.",
        hint="Add the name to access.allowed_hosts if it is yours.",
    )


@lru_cache(maxsize=256)  # callers name us in few ways
def _names_loopback(host: bytes) -> bool:
    match = _HOST.fullmatch(host)
    return match is not None and _has_port(match) and is_loopback(match[1].decode("ascii"))


def _has_port(match: re.Match[bytes]) -> bool:
    return int(match[2] or 0) <= _LAST_PORT


def _from_browser(request: Request, rules: Rules) -> Caller:
    """The caller of a request with an `Origin` or Fetch metadata. Other sites, also those of this host, are refused."""
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
        "A page of another web site asked for this in a browser.",
        hint="Add its origin to access.allowed_origins if the page is yours.",
    )


def _is_link(request: Request) -> bool:
    """Whether a person followed a link, or a redirect, in a tab of its own: nobody else can read what comes."""
    return (
        request.method in {b"GET", b"HEAD"}
        and request.only(b"sec-fetch-mode") == b"navigate"
        and request.only(b"sec-fetch-dest") == b"document"
    )


def _preflight(request: Request, asked: bytes) -> bytes:
    """The answer to a CORS preflight of a page that may call: what it asked for, for ten minutes."""
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
    """Raises Refused for a method that is never forwarded."""
    if method in _NEVER:
        raise Refused("method_not_allowed", "CONNECT, TRACE and TRACK are never forwarded.")


def _by_policy(request: Request, rules: Rules, caller: Caller) -> Caller:
    """The caller, by its key where keys are in use, when the request is within what it may do."""
    if rules.keys:
        caller = replace(caller, name=_key_owner(request, rules))
    if rules.require_header and rules.require_header not in request.head.names:
        field = rules.require_header.decode("ascii")
        raise Refused("client_not_allowed", f"The field {field} is missing.", hint="access.require_header asks for it.")
    if rules.read_only or rules.allow:
        if not _METHOD_OVERRIDES.isdisjoint(request.head.names):
            raise Refused(
                "method_not_allowed", "A field that changes the method is not taken while methods are limited."
            )
        path = origin_form(request.target)[0].partition(b"?")[0]
        allowed_by(rules, caller.name, request.method, path)
    return caller


def allowed_by(rules: Rules, caller: str, method: bytes, path: bytes) -> AllowRule | None:
    """The line of `access.allow` that lets a request through; None where there is no line, so that all paths pass.

    `path` is as spelt, without the query. Raises Refused when the method or the path is beyond what is allowed.
    """
    if rules.read_only and method.decode("ascii") not in _READ_ONLY:
        raise Refused(
            "method_not_allowed", "Only GET, HEAD and OPTIONS pass.", hint="access.read_only is set.", allow=_READ_ONLY
        )
    if not rules.allow:
        return None
    understood = meanings(path)
    for line in rules.allow:
        if line.covers(caller, method, understood):
            return line
    needed = needed_line(method.decode("ascii"), path)
    raise Refused("forbidden_path", "No rule allows this request.", hint=f"access.allow would need {needed}")


def _key_owner(request: Request, rules: Rules) -> str:
    """Whose key came. All keys are compared, each in constant time, so that the time says nothing about any."""
    owner = None
    for candidate in _candidates(request):
        digest = sha256(candidate).digest()
        for name, known in rules.keys:
            if compare_digest(digest, known):
                owner = name
    if owner is None:
        raise Refused(
            "client_key_required",
            "A valid client key is needed.",
            hint="Send it as Authorization: Bearer KEY, as X-Api-Key, or as the password in the URL.",
        )
    return owner


def _candidates(request: Request) -> list[bytes]:
    """What may be a client key: X-Api-Key, a Bearer token, the password or the user of Basic."""
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
