"""The origin at which browsers reach this proxy."""

from urllib.parse import urlsplit

from krebit_proxy.core.loopback import is_loopback


def own_origin(redirect_uri: str, allowed_hosts: tuple[str, ...] = ()) -> str | None:
    """The origin of `redirect_uri`, for example http://localhost:8321. None if it does not lead to this proxy."""
    try:
        url = urlsplit(redirect_uri)
        host = _host(url.hostname)
    except ValueError:
        return None
    if url.scheme not in {"http", "https"} or not host:
        return None
    ours = is_loopback(host) or host in map(_host, allowed_hosts)
    return f"{url.scheme}://{url.netloc}" if ours else None


def serves(origin: str, authority: str) -> bool:
    """Whether `authority`, the value of a Host field, names the same host and port as `origin`.

    A default port is that of `origin`'s scheme, since a reverse proxy may end TLS in front of this proxy.
    """
    scheme = urlsplit(origin).scheme
    try:
        return _place(origin) == _place(f"{scheme}://{authority}")
    except ValueError:
        return False


def _place(origin: str) -> tuple[str, int]:
    url = urlsplit(origin)
    return _host(url.hostname), url.port or (443 if url.scheme == "https" else 80)


def _host(name: str | None) -> str:
    return (name or "").lower().removesuffix(".").strip("[]")
