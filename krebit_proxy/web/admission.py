"""Collects what `core.admission` decides on: rules from the settings, client keys from their file, peers from sockets.

The decision itself has no I/O, so it stands in `core`.
"""

import asyncio
import re
import socket
import ssl
import struct
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Protocol

import structlog

from krebit_proxy.config import Settings
from krebit_proxy.config.secrets import file_problem
from krebit_proxy.core.access import Peer, Rules
from krebit_proxy.errors import SettingsError
from krebit_proxy.file_watch import FileWatch

_CALLER: Final = re.compile(r"[A-Za-z0-9._@-]{1,64}")
_KEY: Final = re.compile(r"[\x21-\x7e]+")
_DIGEST: Final = re.compile(r"sha256:([0-9A-Fa-f]{64})")
_SHORT: Final = 16  # characters; fewer can be guessed
_FEW: Final = 6  # different characters; 16 random hex digits have more, with very few exceptions
_PEERGROUPS: Final = 59  # SO_PEERGROUPS of Linux, which the socket module does not name
_MOST_GROUPS: Final = 1 << 16  # Linux's limit for a process
_log: Final = structlog.get_logger()


class HasRules(Protocol):
    """Something with access rules that a key file may replace: the server."""

    rules: Rules


def access_rules(settings: Settings) -> Rules:
    """The rules of `settings.access`. Reads the file of client keys. Raises SettingsError with every problem."""
    access = settings.access
    owner = next((client for client in access.allow_clients if client.startswith(("uid:", "gid:"))), None)
    if owner and not hasattr(socket, "SO_PEERCRED"):
        text = "this system cannot identify users of a unix socket; restrict its mode, or set access.client_keys_file"
        raise SettingsError([f"access.allow_clients: {owner}: {text}"])
    keys = read_client_keys(access.client_keys_file) if access.client_keys_file else ClientKeys()
    return Rules.compiled(
        allowed_hosts=access.allowed_hosts,
        allowed_origins=access.allowed_origins,
        allow_clients=access.allow_clients,
        certificates=settings.tls_client_ca_file is not None,
        upstream=settings.upstream_origin,
        client_keys=keys.digests,
        guessable=keys.weak | keys.hashed,
        require_header=access.require_header,
        read_only=access.read_only,
        allow=[(rule.methods, rule.paths, rule.callers) for rule in access.allow],
    )


@dataclass(frozen=True, slots=True)
class ClientKeys:
    """What the file of client keys says.

    Attributes:
        digests: The SHA-256 of each key, by the name of its owner.
        weak: The owners of keys that somebody could guess.
        hashed: The owners of keys of which the file has only the SHA-256. They may be weak.
    """

    digests: dict[str, bytes] = field(default_factory=dict)
    weak: frozenset[str] = frozenset()
    hashed: frozenset[str] = frozenset()

    @classmethod
    def of(cls, keys: dict[str, str]) -> "ClientKeys":
        """From each key, as the file has it, by the name of its owner."""
        hashed = frozenset(owner for owner, key in keys.items() if _DIGEST.fullmatch(key))
        weak = frozenset(owner for owner, key in keys.items() if len(key) < _SHORT or len(set(key)) < _FEW)
        return cls({owner: _digest(key) for owner, key in keys.items()}, weak - hashed, hashed)

    @property
    def cautions(self) -> list[str]:
        """A text for each weak key."""
        return [
            f"the client key of {owner} could be guessed; replace it by a long random one: openssl rand -hex 24"
            for owner in sorted(self.weak)
        ]


def key_cautions(settings: Settings) -> list[str]:
    """What is weak about the client keys. Raises SettingsError if their file is invalid."""
    path = settings.access.client_keys_file
    return [f"access.client_keys_file: {text}" for text in read_client_keys(path).cautions] if path else []


def read_client_keys(path: Path) -> ClientKeys:
    """The keys in a file.

    A line is `name:key`, or `name:sha256:HEX` if the file shall hold no key. Empty lines and comments (#) are skipped.
    Raises SettingsError with one text for each bad line. The texts contain no keys.
    """
    if problem := file_problem(path):
        raise SettingsError([f"access.client_keys_file: {problem}"])
    try:
        lines = path.read_text("ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        raise SettingsError([f"access.client_keys_file: {path} cannot be read as plain text"]) from None
    keys: dict[str, str] = {}
    digests: set[bytes] = set()
    problems = []
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line or line.startswith("#"):
            continue
        name, _, key = line.partition(":")
        if not _CALLER.fullmatch(name) or not _KEY.fullmatch(key):
            problems.append(f"{path}:{number}: is not of the form name:key")
        elif name in keys or _digest(key) in digests:
            problems.append(f"{path}:{number}: repeats the name or the key of a line above it")
        else:
            keys[name] = key
            digests.add(_digest(key))
    if not keys and not problems:
        problems.append(f"access.client_keys_file: {path} has no key; write one name:key on each line")
    if problems:
        raise SettingsError(problems)
    return ClientKeys.of(keys)


class KeyFile:
    """Watches the file of client keys: a change takes effect without a restart."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._watch = FileWatch(path)

    async def follow(self, server: HasRules, *, pause: float = 1.0) -> None:
        """Updates the rules of `server` after each change of the file. Runs until cancelled. `pause`: seconds."""

        def changed() -> None:
            server.rules = self.renewed(server.rules)

        await self._watch.follow(changed, pause=pause)

    def renewed(self, rules: Rules) -> Rules:
        """`rules` with the keys that are in the file now. If the file is invalid: unchanged, and an error is logged."""
        try:
            keys = read_client_keys(self._path)
        except SettingsError as error:
            _log.error("access.keys_refused", problems=error.problems, hint="the previous keys stay in use")
            return rules
        _log.info("access.keys_read", callers=len(keys.digests))
        for text in keys.cautions:
            _log.warning("settings.caution", text=f"access.client_keys_file: {text}")
        return rules.with_keys(keys.digests, keys.weak | keys.hashed)


def _digest(key: str) -> bytes:
    hashed = _DIGEST.fullmatch(key)
    return bytes.fromhex(hashed[1]) if hashed else sha256(key.encode()).digest()


def peer_of(transport: asyncio.BaseTransport, rules: Rules) -> Peer:
    """The other end of a caller's connection: its address, its user on a unix socket, its certificate on TLS."""
    sock = transport.get_extra_info("socket")
    tls = transport.get_extra_info("ssl_object")
    scheme = b"http" if tls is None else b"https"
    if sock.family == getattr(socket, "AF_UNIX", None):
        return rules.unix_peer(*_owner(sock), scheme=scheme)
    # A caller that has already left has no address. Any will do, because it gets no response.
    remote, local = (transport.get_extra_info(name) or ("::",) for name in ("peername", "sockname"))
    return rules.peer(remote[0], local[0], scheme=scheme, name=_certified(tls) if tls else None)


def _certified(tls: ssl.SSLObject) -> str | None:
    """The common name in the caller's certificate, which TLS has verified. None: no certificate. "": no usable name."""
    certificate: dict[str, Any] | None = tls.getpeercert()
    if not certificate:
        return None
    names = [value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
    return names[0] if names and _CALLER.fullmatch(names[0]) else ""


def _owner(sock: socket.socket) -> tuple[int | None, *tuple[int, ...]]:
    """The uid and all gids of the process that connected to a unix socket. The uid is None if the system hides it."""
    if not hasattr(socket, "SO_PEERCRED"):
        return (None,)
    _, uid, gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    try:
        groups = sock.getsockopt(socket.SOL_SOCKET, _PEERGROUPS, 4 * _MOST_GROUPS)
    except OSError:
        groups = b""
    return (uid, gid, *memoryview(groups).cast("I"))
