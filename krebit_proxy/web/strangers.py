"""Warns of callers that speak another protocol than the port they connect to, for example TLS to a plain port."""

from math import inf
from typing import Final

import structlog

from krebit_proxy.core.access import Peer

_PAUSE: Final = 60.0  # seconds between two warnings about the same protocol
_log: Final = structlog.get_logger()


class Strangers:
    """Logs one warning a minute for each protocol."""

    def __init__(self) -> None:
        self._warned: dict[str, float] = {}

    def warn(self, protocol: str, expected: str, peer: Peer, port: int | None, now: float) -> None:
        """Warns that `peer` spoke `protocol` to a port that expects `expected`. `now`: in seconds, by any clock."""
        if now - self._warned.get(protocol, -inf) < _PAUSE:
            return
        self._warned[protocol] = now
        scheme = "http" if expected == "plain-HTTP" else "https"
        host = "localhost" if peer.loopback else peer.local.decode("ascii")
        use = f": use {scheme}://{host}:{port}" if port else ""
        spoken = protocol[:1].upper() + protocol[1:]
        _log.warning(
            "connection.wrong_protocol", reason=f"{spoken} was spoken to a {expected} port{use}", peer=peer.address
        )
