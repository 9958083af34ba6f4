"""Wrong client keys: who is slowed down, and what the log says of it."""

import pytest
from structlog.testing import capture_logs

from krebit_proxy.core.access import Peer, Rules
from krebit_proxy.errors import Refused
from krebit_proxy.web.wrong_keys import WrongKeys

LOCAL = Rules().peer("127.0.0.1", "127.0.0.1")
SOCKET = Rules().unix_peer(1000)
KEY = b"digest of a right key"


def wrong(keys: WrongKeys, peer: Peer, times: int) -> int:
    """How many of so many wrong keys were answered with "wait"."""
    slowed = 0
    for _ in range(times):
        try:
            keys.tried(peer, b"", guessable=False)
        except Refused as error:
            slowed += (error.code, error.retry_after) == ("rate_limited", 1)
    return slowed


async def test_whoever_is_wrong_too_often_must_wait_and_nobody_else() -> None:
    keys = WrongKeys()
    assert wrong(keys, LOCAL, 100) == 89
    assert wrong(keys, SOCKET, 5) == 0
    assert wrong(keys, Rules().peer("2001:db8::1", "::1"), 6) == 0
    assert wrong(keys, Rules().peer("2001:db8::2", "::1"), 6) == 1  # the same network
    with pytest.raises(Refused):
        keys.tried(LOCAL, KEY, guessable=True)
    keys.tried(LOCAL, KEY, guessable=False)
    keys.close()


async def test_the_log_counts_the_wrong_keys_of_each_address() -> None:
    keys = WrongKeys()
    with capture_logs() as events:
        wrong(keys, LOCAL, 30)
        wrong(keys, SOCKET, 1)
        keys.report()
        keys.report()  # there is nothing new
        wrong(keys, LOCAL, 1)
    told = [(event["event"], event["peer"], event["count"]) for event in events]
    assert told == [
        ("access.wrong_keys", "this computer", 1),
        ("access.wrong_keys", "uid:1000", 1),
        ("access.wrong_keys", "this computer", 29),
        ("access.wrong_keys", "this computer", 1),
    ]
    keys.close()


async def test_the_log_has_few_lines_however_many_addresses_there_are() -> None:
    keys = WrongKeys()
    with capture_logs() as events:
        for number in range(3000):
            wrong(keys, Rules().peer(f"2001:db8:0:{number:x}::1", "::1"), 1)
        keys.report()
    assert len(events) == 1002
    assert (events[-1]["peer"], events[-1]["count"]) == ("other addresses", 1999)
    keys.close()
