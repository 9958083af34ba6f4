"""The `access` settings in the form that admission uses for each connection and request."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from krebit_proxy.core.fields import origin
from krebit_proxy.core.host import is_host
from krebit_proxy.core.policy import pattern

_SCHEME: Final = r"[a-z][a-z0-9+.-]*"  # RFC 3986, 3.1; that of a browser's extension or a desktop app is its own
_ORIGIN: Final = re.compile(rf"({_SCHEME})://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::(\d{{1,5}}))?", re.ASCII)
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110, 5.6.2
_OWNER: Final = re.compile(r"[ug]id:\d+", re.ASCII)

Network = IPv4Network | IPv6Network


# The rules for single values. Both the settings and `Rules.compiled` use these functions.


def allowed_host(value: str) -> str:
    """A name or address as clients write it in `Host`. Raises ValueError with what is wrong."""
    host = value.removeprefix("[").removesuffix("]")
    if not is_host(host) or "%" in host:  # an IPv6 zone is valid on its own computer only
        raise ValueError("is not a host name or IP address; leave out scheme, port and *")
    return f"[{ip_address(host)}]" if ":" in host else host.lower().removesuffix(".")


def allowed_origin(value: str) -> str:
    """An origin: https://intranet.example, tauri://localhost. Raises ValueError with what is wrong."""
    match = _ORIGIN.fullmatch(value)
    web = match is not None and match[1] in {"http", "https"}
    if match is None or int(match[3] or 0) > 65535 or (web and not is_host(match[2].strip("[]"))):
        raise ValueError(
            "is not an origin; write for example https://intranet.example, http://localhost:3000 or tauri://localhost"
        )
    return value


def allowed_client(value: str) -> Network | str:
    """A network of TCP peers, or `uid:N` or `gid:N` of unix peers. Raises ValueError with what is wrong."""
    if _OWNER.fullmatch(value):
        return value
    try:
        return ip_network(value)
    except ValueError:
        raise ValueError(_nearest_network(value)) from None


def _nearest_network(value: str) -> str:
    try:
        return f"has bits set outside its prefix; did you mean {ip_network(value, strict=False)}?"
    except ValueError:
        return "is not an IP address or network; write for example 10.0.0.0/8, or uid:1000 for a unix socket"


def token(value: str) -> str:
    """The name of a header or a method. Raises ValueError with what is wrong."""
    if not _TOKEN.fullmatch(value):
        raise ValueError("is not a name that HTTP allows here")
    return value


@dataclass(frozen=True, slots=True)
class Caller:
    """Who called.

    `origin`: the allowed web origin that may read the response, or None.
    `preflight`: field lines of the 204 for a CORS preflight. If not empty, the request is not forwarded.
    `shows`: whether it is a browser that shows the response as a page.
    """

    name: str
    origin: bytes | None = None
    preflight: bytes = b""
    shows: bool = False


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of one connection.

    `caller`: who it is, unless a client key says more.
    `here`: whether it is on this computer, by any address.
    `local`: our own address, as a Host.
    `address`: its IP address.
    `site`: what shares one part of the connections: an IPv4 address or an IPv6 network.
    """

    caller: Caller
    allowed: bool
    loopback: bool
    here: bool
    unix: bool = False
    local: bytes = b""
    scheme: bytes = b"http"
    address: str = ""
    site: str = ""


@dataclass(frozen=True)
class AllowRule:
    """One line of `access.allow`. Empty callers, methods or paths mean all of them."""

    text: str
    callers: frozenset[str]
    methods: frozenset[bytes]
    paths: tuple[re.Pattern[bytes], ...]

    def covers(self, caller: str, method: bytes, understood: Iterable[bytes]) -> bool:
        """Whether this line allows the request. `understood`: all readings of its path, which must all match."""
        return (
            (not self.callers or caller in self.callers)
            and (not self.methods or method in self.methods)
            and (not self.paths or any(all(p.fullmatch(path) for path in understood) for p in self.paths))
        )


@dataclass(frozen=True)
class Rules:
    """The `access` settings, compiled."""

    hosts: frozenset[bytes] = frozenset()
    origins: frozenset[bytes] = frozenset()
    networks: tuple[Network, ...] = ()
    owners: frozenset[str] = frozenset()
    certificates: bool = False
    keys: tuple[tuple[str, bytes], ...] = ()
    require_header: bytes | None = None
    read_only: bool = False
    allow: tuple[AllowRule, ...] = ()

    @classmethod
    def compiled(
        cls,
        *,
        allowed_hosts: Sequence[str] = (),
        allowed_origins: Sequence[str] = (),
        allow_clients: Sequence[str] = (),
        certificates: bool = False,
        client_keys: Mapping[str, bytes] | None = None,
        require_header: str | None = None,
        read_only: bool = False,
        allow: Sequence[tuple[Sequence[str], Sequence[str], Sequence[str]]] = (),
    ) -> "Rules":
        """The rules from plain values.

        Args:
            allowed_hosts: see `allowed_host`.
            allowed_origins: see `allowed_origin`.
            allow_clients: see `allowed_client`.
            certificates: whether TCP peers need a client certificate.
            client_keys: caller's name -> SHA-256 of its key.
            require_header: a header that every API request must have.
            read_only: GET, HEAD and OPTIONS only.
            allow: (methods, path templates, callers) for each line.

        Raises:
            ValueError: a value is invalid. The settings have checked this before.
        """
        clients = [allowed_client(value) for value in allow_clients]
        return cls(
            hosts=frozenset(allowed_host(value).encode() for value in allowed_hosts),
            origins=frozenset(origin(allowed_origin(value).encode()) for value in allowed_origins),
            networks=tuple(client for client in clients if not isinstance(client, str)),
            owners=frozenset(client for client in clients if isinstance(client, str)),
            certificates=certificates,
            keys=tuple((client_keys or {}).items()),
            require_header=token(require_header).lower().encode() if require_header is not None else None,
            read_only=read_only,
            allow=tuple(_allow_rule(*line) for line in allow),
        )

    @cached_property
    def open(self) -> bool:
        """Whether all methods, paths and callers are allowed, so that admission has nothing to check."""
        return not (self.keys or self.require_header or self.read_only or self.allow)

    def peer(self, address: str, local: str, *, scheme: bytes = b"http", name: str | None = None) -> Peer:
        """The peer at the IP address `address` that reached us at `local`.

        `name` is the name in its certificate: empty if the certificate has none, None if there is no certificate. A
        peer without a name gets the name of the network that allows it.
        """
        return self._peers(address, local, scheme, name)

    @cached_property
    def _peers(self) -> Callable[[str, str, bytes, str | None], Peer]:
        # Most connections come from an address that we have seen before.
        return lru_cache(maxsize=1024)(self._peer)

    def _peer(self, address: str, local: str, scheme: bytes, name: str | None) -> Peer:
        remote, ours = _address(address), _address(local)
        network = next((network for network in self.networks if remote in network), None)
        place = str(network) if network is not None else "loopback" if remote.is_loopback else "network"
        host = f"[{ours}]" if isinstance(ours, IPv6Address) else str(ours)
        return Peer(
            Caller(name or place),
            allowed=(network is not None or not (self.networks or self.owners))
            and (name is not None or not self.certificates),
            loopback=remote.is_loopback,
            here=remote.is_loopback or remote == ours,
            local=host.encode(),
            scheme=scheme,
            address=str(remote),
            site=_site(remote),
        )

    def unix_peer(self, uid: int | None, *gids: int, scheme: bytes = b"http") -> Peer:
        """The process at the other end of a unix socket. Without `uid:` and `gid:` rules, the socket's mode decides.

        `uid` is None if the system does not provide it. Then no rule can match.
        """
        owners = {f"uid:{uid}", *[f"gid:{gid}" for gid in gids]}
        name = "unix" if uid is None else f"uid:{uid}"
        allowed = not self.owners or not self.owners.isdisjoint(owners)
        return Peer(Caller(name), allowed=allowed, loopback=True, here=True, unix=True, scheme=scheme)


def _allow_rule(methods: Sequence[str], paths: Sequence[str], callers: Sequence[str]) -> AllowRule:
    named = {token(method).upper().encode() for method in methods}
    if b"GET" in named:
        named.add(b"HEAD")  # RFC 9110, 9.3.2: "identical to GET except that the server MUST NOT send content"
    text = f"{' '.join(methods) or 'any method'} on {' '.join(paths) or 'any path'}"
    return AllowRule(text, frozenset(callers), frozenset(named), tuple(map(pattern, paths)))


def _site(address: IPv4Address | IPv6Address) -> str:
    """The IPv4 address, or the /64 network of an IPv6 address: one host can use all addresses of its network."""
    # RFC 4291, 2.5.1: "Interface IDs are required to be 64 bits long".
    return str(ip_network((address, 64), strict=False)) if isinstance(address, IPv6Address) else str(address)


def _address(text: str) -> IPv4Address | IPv6Address:
    """The address without its zone. An IPv4 address that is mapped into IPv6 counts as IPv4."""
    address = ip_address(text.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
