"""Warnings about other protocols: one a minute for each."""

import structlog

from krebit_proxy.core.access import Rules
from krebit_proxy.web.strangers import Strangers


def test_each_protocol_is_warned_of_once_a_minute() -> None:
    strangers, here = Strangers(), Rules().peer("127.0.0.1", "127.0.0.1")
    there = Rules().peer("192.0.2.7", "192.0.2.1")
    with structlog.testing.capture_logs() as events:
        strangers.warn("TLS", "plain-HTTP", here, 8321, 0)
        strangers.warn("TLS", "plain-HTTP", here, 8321, 59)
        strangers.warn("SOCKS", "plain-HTTP", there, 8321, 59)
        strangers.warn("TLS", "plain-HTTP", here, None, 60)
        strangers.warn("plain HTTP", "TLS", there, 443, 61)
    assert [event["reason"] for event in events] == [
        "TLS was spoken to a plain-HTTP port: use http://localhost:8321",
        "SOCKS was spoken to a plain-HTTP port: use http://192.0.2.1:8321",
        "TLS was spoken to a plain-HTTP port",
        "Plain HTTP was spoken to a TLS port: use https://192.0.2.1:443",
    ]
