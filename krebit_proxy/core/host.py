"""What a valid host name or address is."""

import re
from ipaddress import ip_address
from typing import Final

# RFC 952 does not allow `_`, but DNS does, and names of services in compose files use it.
_LABEL: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII | re.IGNORECASE)


def is_host(text: str) -> bool:
    """Whether `text` is an IP address (no brackets) or a DNS name. A final dot is allowed."""
    try:
        ip_address(text)
    except ValueError:
        return len(text) <= 253 and all(map(_LABEL.fullmatch, text.removesuffix(".").split(".")))
    return True
