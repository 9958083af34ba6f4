"""Which hosts are this computer."""

import re
from typing import Final

_OCTET: Final = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
# RFC 6761, 6.3: "The domain "localhost." and any names falling within ".localhost." are special", and loopback.
_LOOPBACK: Final = re.compile(
    rf"(?:(?:[a-z0-9_-]+\.)*localhost|127(?:\.{_OCTET}){{3}})\.?|::1|\[::1\]", re.ASCII | re.IGNORECASE
)


def is_loopback(host: str) -> bool:
    """Whether a host name or IP address stays on this computer.

    Any case, a dot at the end and brackets around IPv6 will do; an address must have its usual spelling, since
    programs do not agree on what `127.1`, `0x7f.0.0.1` or `::ffff:127.0.0.1` are.
    """
    return _LOOPBACK.fullmatch(host) is not None
