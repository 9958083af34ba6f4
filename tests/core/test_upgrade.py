"""Which protocols a caller may switch to."""

import pytest

from krebit_proxy.core.access import Rules
from krebit_proxy.core.fields import withheld
from krebit_proxy.core.head import Head
from krebit_proxy.core.upgrade import may_switch, offered
from krebit_proxy.errors import Refused

HANDSHAKE = [(b"Host", b"localhost"), (b"Upgrade", b"websocket")]


def head(*more: tuple[bytes, bytes], upgrade: bytes = b"websocket", http10: bool = False) -> Head:
    fields = [(name, upgrade if name == b"Upgrade" else value) for name, value in HANDSHAKE] + list(more)
    return Head.examined(fields, http10=http10, withheld=withheld())


@pytest.mark.parametrize("upgrade", [b"websocket", b"WebSocket", b"TLS/1.0, websocket", b"h2c ,\tWEBSOCKET"])
def test_a_websocket_is_offered_and_nothing_else_of_a_list(upgrade: bytes) -> None:
    assert offered(b"GET", head(upgrade=upgrade)) == b"websocket"


@pytest.mark.parametrize(
    "upgrade", [b"TLS/1.0", b"HTTP/2.0, h2c;q=1", b"h2c", b"websocket/13", b"xwebsocket", b"websocket;q=1", b"", b","]
)
def test_other_protocols_are_not_offered(upgrade: bytes) -> None:
    assert offered(b"GET", head(upgrade=upgrade)) is None


def test_a_handshake_is_a_get_of_http_1_1_without_content() -> None:
    assert offered(b"POST", head()) is None
    assert offered(b"GET", head(http10=True)) is None
    assert offered(b"GET", head((b"Content-Length", b"1"))) is None


def test_rules_that_limit_methods_let_no_websocket_through() -> None:
    assert may_switch(Rules.compiled(), "loopback", b"/api/x")
    assert not may_switch(Rules.compiled(read_only=True), "loopback", b"/api/x")
    rules = Rules.compiled(allow=[([], ["/api/live"], []), (["GET"], ["/api/x"], [])])
    assert may_switch(rules, "loopback", b"/api/live?x")
    assert not may_switch(rules, "loopback", b"/api/x")
    with pytest.raises(Refused):
        may_switch(rules, "loopback", b"/api/y")
