"""Which host names and addresses mean this computer."""

import re
from typing import Final

_OCTET: Final = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
# RFC 6761, 6.3: "The domain "localhost." and any names falling within ".localhost." are special", and loopback.
_LOOPBACK: Final = re.compile(
    rf"(?:(?:[a-z0-9_-]+\.)*localhost|127(?:\.{_OCTET}){{3}})\.?|::1|\[::1\]", re.ASCII | re.IGNORECASE
)


def is_loopback(host: str) -> bool:
    """Whether a host name or IP address stays on this computer.

    Accepts any case, a final dot, and brackets around IPv6. An address must be in its usual form, because programs
    disagree about `127.1`, `0x7f.0.0.1` and `::ffff:127.0.0.1`.
    """
    return _LOOPBACK.fullmatch(host) is not None
