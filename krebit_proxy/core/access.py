"""The `access` settings, compiled into what `core.admission` needs for each connection and each request.

The functions at the top check the values of single settings. `Rules` holds all of them in a form that is quick to look
up. `Rules.peer` says who is at the other end of a connection.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from krebit_proxy.core.fields import origin
from krebit_proxy.core.host import is_host
from krebit_proxy.core.policy import pattern

_SCHEME: Final = r"[a-z][a-z0-9+.-]*"  # RFC 3986, 3.1; browser extensions and desktop apps have their own
_ORIGIN: Final = re.compile(rf"({_SCHEME})://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::(\d{{1,5}}))?", re.ASCII)
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110, 5.6.2
_NAT64: Final = IPv6Network("64:ff9b::/96")  # RFC 6052, 2.1: the last 32 bits are an IPv4 address
_OWNER: Final = re.compile(r"[ug]id:\d+", re.ASCII)

Network = IPv4Network | IPv6Network


# What each setting may contain. `config` checks settings by these functions, too, so the two cannot differ.


def allowed_host(value: str) -> str:
    """A host name or IP address, in the form that clients write in `Host`. Raises ValueError with what is wrong."""
    host = value.removeprefix("[").removesuffix("]")
    if not is_host(host) or "%" in host:  # a zone such as %eth0 is valid on one computer only
        raise ValueError("is not a host name or IP address; leave out scheme, port and *")
    return f"[{ip_address(host)}]" if ":" in host else host.lower().removesuffix(".")


def allowed_origin(value: str) -> str:
    """A web origin, such as https://intranet.example or tauri://localhost. Raises ValueError with what is wrong."""
    match = _ORIGIN.fullmatch(value)
    web = match is not None and match[1] in {"http", "https"}
    if match is None or int(match[3] or 0) > 65535 or (web and not is_host(match[2].strip("[]"))):
        raise ValueError("is not an origin; write for example https://intranet.example or http://localhost:3000")
    return value


def allowed_client(value: str) -> Network | str:
    """A network, or `uid:N` or `gid:N` for processes on a unix socket. Raises ValueError with what is wrong."""
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
        return "is not an IP address or network; write e.g. 10.0.0.0/8, or uid:1000 for a unix socket"


def token(value: str) -> str:
    """A field name or a method: a token by RFC 9110. Raises ValueError with what is wrong."""
    if not _TOKEN.fullmatch(value):
        raise ValueError("is not a name that HTTP allows here")
    return value


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request.

    Attributes:
        name: The owner of its client key, the name in its certificate, the network that allows it, or its user id.
        origin: The allowed web origin whose pages may read the response. None: there is none.
        preflight: The header lines of the 204 response to a CORS preflight. If not empty, nothing is forwarded.
    """

    name: str
    origin: bytes | None = None
    preflight: bytes = b""


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of one connection.

    Attributes:
        caller: Who it is, as long as no client key says more.
        allowed: Whether `access.allow_clients` and the certificate rule let it in.
        loopback: Whether its address is a loopback address, or it uses a unix socket.
        here: Whether it is on this computer, whichever address it uses.
        unix: Whether it uses a unix socket.
        local: The address at which it reached us, as in `Host` without a port.
        scheme: `http` or `https`.
        address: Its IP address; empty for a unix socket.
        site: The address or network that shares one limit on connections; empty for a unix socket. All addresses of
            this computer are one site.
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
    """One line of `access.allow`. If callers, methods or paths are empty, the line covers all of them."""

    text: str
    callers: frozenset[str]
    methods: frozenset[bytes]
    paths: tuple[re.Pattern[bytes], ...]

    def covers(self, caller: str, method: bytes, understood: Iterable[bytes]) -> bool:
        """Whether this line allows the request. `understood`: the readings of its path. One template must fit all."""
        return (
            (not self.callers or caller in self.callers)
            and (not self.methods or method in self.methods)
            and (not self.paths or any(all(p.fullmatch(path) for path in understood) for p in self.paths))
        )


@dataclass(frozen=True)
class Rules:
    """All rules that decide who may call. An empty tuple, set or dict means that there is no such rule."""

    hosts: frozenset[bytes] = frozenset()
    origins: frozenset[bytes] = frozenset()
    upstream: bytes = b""
    networks: tuple[Network, ...] = ()
    owners: frozenset[str] = frozenset()
    certificates: bool = False
    keys: Mapping[bytes, str] = field(default_factory=dict)
    guessable: frozenset[bytes] = frozenset()
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
        upstream: str = "",
        client_keys: Mapping[str, bytes] | None = None,
        guessable: Collection[str] = (),
        require_header: str | None = None,
        read_only: bool = False,
        allow: Sequence[tuple[Sequence[str], Sequence[str], Sequence[str]]] = (),
    ) -> "Rules":
        """The rules from plain values.

        Args:
            allowed_hosts: Each as in `allowed_host`.
            allowed_origins: Each as in `allowed_origin`.
            allow_clients: Each as in `allowed_client`.
            certificates: Whether TCP peers need a client certificate.
            upstream: The upstream's origin.
            client_keys: The SHA-256 of each key, by the name of its owner.
            guessable: The owners of keys that are short, or may be.
            require_header: A field that every API request must have.
            read_only: Whether only GET, HEAD and OPTIONS are allowed.
            allow: For each line: methods, path templates, callers.

        Raises ValueError for an invalid value. Values from checked settings are always valid.
        """
        clients = [allowed_client(value) for value in allow_clients]
        rules = cls(
            hosts=frozenset(allowed_host(value).encode() for value in allowed_hosts),
            origins=frozenset(origin(allowed_origin(value).encode()) for value in allowed_origins),
            upstream=origin(upstream.encode()),
            networks=tuple(client for client in clients if not isinstance(client, str)),
            owners=frozenset(client for client in clients if isinstance(client, str)),
            certificates=certificates,
            require_header=token(require_header).lower().encode() if require_header is not None else None,
            read_only=read_only,
            allow=tuple(_allow_rule(*line) for line in allow),
        )
        return rules.with_keys(client_keys or {}, guessable)

    def with_keys(self, client_keys: Mapping[str, bytes], guessable: Collection[str] = ()) -> "Rules":
        """These rules with other client keys. The arguments are those of `compiled`."""
        return replace(
            self,
            keys={digest: owner for owner, digest in client_keys.items()},
            guessable=frozenset(client_keys[owner] for owner in guessable),
        )

    @cached_property
    def open(self) -> bool:
        """Whether all methods, paths and callers are allowed, so that a request needs no look-up."""
        return not (self.keys or self.require_header or self.read_only or self.allow)

    def peer(self, address: str, local: str, *, scheme: bytes = b"http", name: str | None = None) -> Peer:
        """The peer at the IP address `address` that reached us at the IP address `local`.

        `name` is the name in its client certificate: empty if the certificate has none, None if there is no
        certificate. A peer without a name gets the name of the network that allows it.
        """
        return self._peers(address, local, scheme, name)

    @cached_property
    def _peers(self) -> Callable[[str, str, bytes, str | None], Peer]:
        # Most connections come from addresses that we have seen before.
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
            site="this computer" if remote == ours else _site(remote),
        )

    def unix_peer(self, uid: int | None, *gids: int, scheme: bytes = b"http") -> Peer:
        """The process at the other end of a unix socket. Without `uid:` and `gid:` rules, the socket's mode decides.

        `uid` is None if the system does not say who it is. Then no `uid:` rule matches.
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
    """The IPv4 address, or the /64 network of an IPv6 address: one computer can use all addresses in it.

    The IPv6 addresses of a transition mechanism contain the IPv4 address of the same computer.
    """
    if isinstance(address, IPv4Address):
        return str(address)
    teredo = address.teredo
    inner = address.sixtofour or (teredo[1] if teredo else None)
    if address in _NAT64:
        inner = IPv4Address(int(address) & 0xFFFFFFFF)
    # RFC 4291, 2.5.1: "Interface IDs are required to be 64 bits long".
    return str(inner or ip_network((address, 64), strict=False))


def _address(text: str) -> IPv4Address | IPv6Address:
    """The address without its zone. An IPv4 address in IPv6 form, as dual-stack sockets give it, becomes IPv4."""
    address = ip_address(text.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
