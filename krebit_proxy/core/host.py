"""Host names and IP addresses."""

import re
from ipaddress import ip_address
from typing import Final

# RFC 952 forbids `_`, but DNS allows it, and service names in compose files use it.
_LABEL: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII | re.IGNORECASE)


def bracketed(host: str) -> str:
    """The host as a URL has it: an IPv6 address is in brackets (RFC 3986, 3.2.2)."""
    return f"[{host}]" if ":" in host else host


def is_host(text: str) -> bool:
    """Whether `text` is an IP address without brackets, or a DNS name, with or without a final dot."""
    try:
        ip_address(text)
    except ValueError:
        return len(text) <= 253 and all(map(_LABEL.fullmatch, text.removesuffix(".").split(".")))
    return True
