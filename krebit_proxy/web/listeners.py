"""Opens the sockets of the setting `listen`: host:port, unix:/path?mode=0660&group=app, fd:N.

`localhost` means 127.0.0.1 and ::1. The start fails unless we get both: another program on the second one could receive
authorization codes meant for us. Addresses beyond loopback need `access.expose`, and rules that say who may call. That
is checked on the open socket, so neither an unusual spelling nor an inherited socket gets around it.
"""

import asyncio
import errno
import os
import re
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from krebit_proxy.config import Settings
from krebit_proxy.config.addresses import split_listen, split_unix
from krebit_proxy.config.conflicts import EXPOSE, says_who
from krebit_proxy.core.host import bracketed
from krebit_proxy.errors import ProxyError, SettingsError
from krebit_proxy.ownership import open_folder
from krebit_proxy.web.accept import BACKLOG, Accepting, Serving, Take

_TRIES: Final = 20  # attempts to find a port that is free for both IPv4 and IPv6
_NOT_HERE: Final = frozenset((errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT))


@dataclass
class Listeners:
    """The open listening sockets, and their URLs for people: http://localhost:8321, unix:/run/krebit-proxy.sock."""

    sockets: list[socket.socket] = field(default_factory=list)
    urls: list[str] = field(default_factory=list)
    _inherited: list[socket.socket] = field(default_factory=list)
    _accepting: list[Serving | Accepting] = field(default_factory=list)
    _undo: list[Callable[[], None]] = field(default_factory=list)

    def add(self, address: str, scheme: str) -> None:
        """Listens on one more address. Raises ProxyError if the system refuses."""
        tcp = split_listen(address)
        try:
            if tcp is not None:
                sockets = _tcp_sockets(*tcp)
                self.sockets += sockets
                self.urls.append(f"{scheme}://{bracketed(tcp[0])}:{sockets[0].getsockname()[1]}")
            elif address.startswith("fd:"):
                sock = _inherited(address)
                self.sockets.append(sock)
                self._inherited.append(sock)
                self.urls.append(_url_of(sock, scheme))
            else:
                sock, remove = _unix_socket(address)
                self.sockets.append(sock)
                self.urls.append(_url_of(sock, scheme))
                self._undo.append(remove)
        except OSError as error:
            raise _refused(address, error) from error

    def origin(self, name: str = "localhost") -> str | None:
        """The origin of the first TCP address, for a browser. `name` replaces 0.0.0.0 and [::]. None without TCP."""
        url = next((url for url in self.urls if url.startswith("http")), None)
        return re.sub(r"//(0\.0\.0\.0|\[::\]):", f"//{name}:", url) if url else None

    async def serve(self, protocol: Callable[[], asyncio.BaseProtocol], encrypted: Take | None = None) -> None:
        """Accepts callers, each with a protocol of its own, until `refuse`.

        `encrypted`: gets the sockets of callers on TCP instead, if they use TLS.
        """
        for sock in self.sockets:
            inherited = sock in self._inherited
            if encrypted is not None and not _is_unix(sock):
                self._accepting.append(Accepting(sock, encrypted, inherited=inherited))
            else:
                self._accepting.append(await Serving(sock, protocol, inherited=inherited).begin())

    async def refuse(self) -> None:
        """Accepts no more callers."""
        for accepting in self._accepting:
            await accepting.close()

    def close(self) -> None:
        """Closes the sockets. Removes the files of our unix sockets."""
        for sock in self.sockets:
            sock.close()
        for undo in self._undo:
            undo()
        self.sockets, self._undo = [], []


def open_listeners(settings: Settings) -> Listeners:
    """Listens on every address of `settings.listen`, or on none.

    Raises:
        SettingsError: an address is unusable, or reachable from other computers without `access.expose`.
        ProxyError: the system refuses, for example because the port is taken. The text names the address.
    """
    scheme = "https" if settings.tls_cert_file else "http"
    listeners = Listeners()
    try:
        for address in settings.listen:
            listeners.add(address, scheme)
        for sock in listeners.sockets:
            _check_exposure(sock, settings)
    except BaseException:
        listeners.close()
        raise
    return listeners


def _is_unix(sock: socket.socket) -> bool:
    return sock.family == getattr(socket, "AF_UNIX", None)


def _refused(address: str, error: OSError) -> ProxyError:
    if error.errno == errno.EADDRINUSE:
        why, hint = "another program listens there", "stop it, or change the setting `listen`"
    else:
        why = error.strerror or str(error)
        hint = "check that the address or folder exists and that you may use it, or change the setting `listen`"
    return ProxyError(f"cannot listen on {address}: {why}", hint=hint)


def _url_of(sock: socket.socket, scheme: str) -> str:
    name = sock.getsockname()
    if isinstance(name, str | bytes):
        return f"unix:{os.fsdecode(name)}"
    return f"{scheme}://{bracketed(name[0])}:{name[1]}"


# TCP


def _tcp_sockets(host: str, port: int) -> list[socket.socket]:
    """One socket for each address of `host`, all on the same port."""
    addresses = ["127.0.0.1", "::1"] if host.lower() == "localhost" else _resolved(host)
    for tries in range(_TRIES, 0, -1):
        try:
            return _bound(addresses, port)
        except OSError as error:
            # Port 0: the system chooses a port for the first address, which may be taken on the second.
            if port or error.errno != errno.EADDRINUSE or tries == 1:
                raise
    raise AssertionError  # unreachable: the last attempt returned or raised


def _resolved(host: str) -> list[str]:
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def _bound(addresses: list[str], port: int) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    try:
        for address in addresses:
            try:
                sock = _tcp_socket(address, port)
            except OSError as error:
                if sockets and error.errno in _NOT_HERE:
                    continue  # without IPv6 there is no ::1 that another program could take
                raise
            sockets.append(sock)
            port = sock.getsockname()[1]
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _tcp_socket(address: str, port: int) -> socket.socket:
    ipv6 = ":" in address
    sock = socket.socket(socket.AF_INET6 if ipv6 else socket.AF_INET, socket.SOCK_STREAM)
    try:
        if os.name == "posix":
            # Allows a restart while old connections time out. On Windows it would let others share the port.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if ipv6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((address, port))
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


# Inherited sockets


def _inherited(address: str) -> socket.socket:
    """A listening socket that the process inherited, e.g. fd:3 for the first one from systemd."""
    try:
        sock = socket.socket(fileno=os.dup(int(address.removeprefix("fd:"))))
    except (OSError, OverflowError) as error:
        raise SettingsError([f"listen: {address} is not a socket that this process inherited"]) from error
    stream = sock.type == socket.SOCK_STREAM and (sock.family in {socket.AF_INET, socket.AF_INET6} or _is_unix(sock))
    if not stream or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.close()
        raise SettingsError([f"listen: {address} is not a listening TCP or unix socket"])
    sock.setblocking(False)
    return sock


# Unix sockets


@dataclass(frozen=True)
class _Place:
    """Path and permissions of a unix socket."""

    path: Path
    mode: int = 0o600
    user: int = -1
    group: int = -1


def _place(address: str) -> _Place:
    path, options = split_unix(address)
    try:
        user, group = _uid(options.get("user", "")), _gid(options.get("group", ""))
    except KeyError:
        raise SettingsError([f"listen: {address} names a user or group that this system does not have"]) from None
    return _Place(Path(path), int(options.get("mode", "0600"), 8), user, group)


def _uid(name: str) -> int:
    import pwd  # not on Windows

    return pwd.getpwnam(name).pw_uid if name and not name.isdecimal() else int(name or -1)


def _gid(name: str) -> int:
    import grp  # not on Windows

    return grp.getgrnam(name).gr_gid if name and not name.isdecimal() else int(name or -1)


def _unix_socket(address: str) -> tuple[socket.socket, Callable[[], None]]:
    """The socket, and a function that removes its file."""
    place = _place(address)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _alone_in(place.path.parent):
            _clear(place.path)
            _bind(sock, place)
        ours = place.path.lstat()
    except BaseException:
        sock.close()
        raise

    def remove() -> None:
        """Removes the file, unless another program has replaced it."""
        with suppress(OSError):
            if os.path.samestat(place.path.lstat(), ours):
                place.path.unlink()

    return sock, remove


def _bind(sock: socket.socket, place: _Place) -> None:
    """Creates the file with the narrowest mode, then widens it. So nobody gets in too early."""
    umask = os.umask(0o177)
    try:
        sock.bind(str(place.path))
    finally:
        os.umask(umask)
    try:
        if (place.user, place.group) != (-1, -1):
            os.chown(place.path, place.user, place.group)
        place.path.chmod(place.mode)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except BaseException:
        place.path.unlink()
        raise


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Locks `folder` while we replace a stale socket. Raises SettingsError if every user could replace ours."""
    import fcntl  # not on Windows

    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if (place := open_folder(folder)) is not None:
            raise SettingsError(
                [f"listen: every user may write to {place}; choose a folder that only the proxy can write to"]
            )
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _clear(path: Path) -> None:
    """Removes the stale socket of an earlier run. Raises SettingsError or OSError if something else is there."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise SettingsError([f"listen: {path} exists and is not a socket; remove it, or choose another path"])
    if found.st_uid != os.geteuid():
        raise SettingsError([f"listen: {path} belongs to another user; choose another path"])
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:
            pass  # its backlog is full, so a program listens
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


# Beyond loopback


def _check_exposure(sock: socket.socket, settings: Settings) -> None:
    if _is_unix(sock) or ip_address(sock.getsockname()[0].partition("%")[0]).is_loopback:
        return
    if not settings.access.expose or not says_who(settings):
        raise SettingsError([f"listen: {EXPOSE.format(address=_url_of(sock, 'http').removeprefix('http://'))}"])
