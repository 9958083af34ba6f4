"""Which texts are the name or the address of a host."""

import re
from ipaddress import ip_address
from typing import Final

# RFC 952 has no `_`, but DNS and the names of services in compose files have.
_LABEL: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII | re.IGNORECASE)


def is_host(text: str) -> bool:
    """Whether `text` is an IP address (no brackets) or a DNS name, with or without a dot at the end."""
    try:
        ip_address(text)
    except ValueError:
        return len(text) <= 253 and all(map(_LABEL.fullmatch, text.removesuffix(".").split(".")))
    return True
