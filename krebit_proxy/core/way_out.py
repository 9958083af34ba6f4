"""The way to hosts beyond this computer: directly, or through a forward proxy.

`upstream.proxy` decides. If it is empty, the usual environment variables do, as curl reads them: `https_proxy`, else
`HTTPS_PROXY`, else `all_proxy`, else `ALL_PROXY`, and the exceptions in `no_proxy`, else `NO_PROXY`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Final, Self
from urllib.parse import SplitResult, urlsplit

from krebit_proxy.core.host import bracketed, is_host
from krebit_proxy.core.loopback import is_loopback

SETTING: Final = "upstream.proxy"
DIRECT: Final = "none"  # the value of `upstream.proxy` that ignores the environment
_VARIABLES: Final = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
_EXCEPTIONS: Final = ("no_proxy", "NO_PROXY")
_CURLS_PORT: Final = 1080  # of a forward proxy in the environment without a port, as in curl


@dataclass(frozen=True)
class WayOut:
    """How connections leave this computer.

    Attributes:
        proxy: The URL of the forward proxy, which may contain a password. Empty: there is none.
        source: The setting or the variable that names it.
        exceptions: The names and networks that are reached directly.
        problem: Why `proxy` cannot be used, without its value. Empty: it can.
    """

    proxy: str = ""
    source: str = SETTING
    exceptions: tuple[str, ...] = ()
    problem: str = ""

    @classmethod
    def from_setting(cls, value: str | None) -> Self:
        """The way that `upstream.proxy` names, without the environment."""
        return cls("" if value in {None, DIRECT} else str(value))

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Self:
        """The way that the environment names."""
        source = next(
            (name for name in _VARIABLES if environ.get(name)), ""
        )  # as in curl, an empty one counts as not set
        if not (value := environ.get(source, "").strip()):
            return cls(source=source)
        listed = next((environ[name] for name in _EXCEPTIONS if environ.get(name)), "")
        proxy = value if "://" in value else f"http://{value}"
        return cls(_with_port(proxy), source, tuple(listed.replace(",", " ").split()), _problem(proxy))

    def proxy_to(self, url: str) -> str | None:
        """The URL of the forward proxy for `url`. None: it is reached directly."""
        parts = urlsplit(url)
        # Plain http stays on this computer, and so does everything else on loopback.
        if not self.proxy or parts.scheme != "https" or self._is_excepted(parts.hostname or ""):
            return None
        return self.proxy

    def described(self, url: str) -> str:
        """The way to `url` in words, without a login."""
        proxy = self.proxy_to(url)
        if proxy is None:
            return "direct"
        parts = urlsplit(proxy)
        return f"through {bracketed(parts.hostname or '')}:{parts.port or 80} ({self.source})"

    def _is_excepted(self, host: str) -> bool:
        if self.source == SETTING:
            return False
        host = host.removesuffix(".").lower()
        if is_loopback(host) or self.exceptions == ("*",):
            return True
        return any(_covers(one, host) for one in self.exceptions)


def _covers(exception: str, host: str) -> bool:
    """Whether one item of NO_PROXY covers a host: a network, an address, or a name and all names below it."""
    exception = exception.lower()
    try:
        address = ip_address(host)
    except ValueError:
        name = exception.removeprefix(".").removesuffix(".")
        return bool(name) and (host == name or host.endswith(f".{name}"))
    try:
        return address in ip_network(exception.replace("[", "").replace("]", ""), strict=False)
    except ValueError:
        return False


def _with_port(proxy: str) -> str:
    parts = _split(proxy)
    if parts is None or parts.port is not None:
        return proxy
    return parts._replace(netloc=f"{parts.netloc.removesuffix(':')}:{_CURLS_PORT}", path="").geturl()


def _problem(proxy: str) -> str:
    parts = _split(proxy)
    if parts is None or not is_host(parts.hostname or ""):
        return "is not the URL of a proxy; correct it, or set upstream.proxy: none"
    if parts.scheme != "http":
        return "names a proxy that is not supported; set upstream.proxy to one that starts with http://, or to none"
    return ""


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts
