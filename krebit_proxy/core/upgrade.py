"""Which offers to switch to another protocol (RFC 9110, 7.8) go upstream. After a switch, raw bytes go both ways."""

from typing import Final

from krebit_proxy.core.access import Rules
from krebit_proxy.core.admission import allowed_by
from krebit_proxy.core.head import Head
from krebit_proxy.core.target import origin_form

WEBSOCKET: Final = b"websocket"


def offered(method: bytes, head: Head) -> bytes | None:
    """The protocol of a request's Upgrade field that we may offer to the upstream: `websocket`, or none.

    RFC 9110, 7.8: "A server MAY ignore a received Upgrade header field". We ignore all other protocols. `TLS/1.0` and
    `h2c` would put an HTTP into the tunnel that none of our rules sees.
    """
    # RFC 9110, 7.8: "A server MUST ignore an Upgrade header field that is received in an HTTP/1.0 request."
    # RFC 6455, 4.1: "The method of the request MUST be GET, and the HTTP version MUST be at least 1.1."
    if method != b"GET" or head.http10 or head.length != 0:
        return None
    protocols = b",".join([head.fields[place][1] for place in head.names.at.get(b"upgrade", ())]).lower().split(b",")
    return WEBSOCKET if WEBSOCKET in [protocol.strip(b" \t") for protocol in protocols] else None


def may_switch(rules: Rules, caller: str, target: bytes) -> bool:
    """Whether the rules let an admitted caller switch protocols on `target`.

    A WebSocket can write, so neither `read_only` nor a rule that limits methods lets one through.
    """
    if rules.read_only:
        return False
    line = allowed_by(rules, caller, b"GET", origin_form(target)[0].partition(b"?")[0]) if rules.allow else None
    return line is None or not line.methods
