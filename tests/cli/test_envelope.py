"""A grant on its way to another machine."""

import pytest

from krebit_proxy.cli.envelope import Receiver, seal
from tests.cli.site import GRANT


def test_an_envelope_opens_for_its_receiver_only() -> None:
    receiver, other = Receiver(), Receiver()
    envelope = seal(GRANT, receiver.address)

    assert receiver.open(envelope) == GRANT
    assert receiver.open("\n".join((envelope[:99], envelope[99:], ""))) == GRANT
    for opener, text in [
        (other, envelope),
        (receiver, envelope[:-4]),
        (receiver, envelope[:40]),
        (receiver, ""),
        (receiver, "ä"),
        (receiver, envelope + "AAAA"),
    ]:
        with pytest.raises(ValueError, match=r"^(this|it) (is|was) no"):
            opener.open(text)
    with pytest.raises(ValueError, match="no address"):
        seal(GRANT, "abcd")


def test_an_address_does_not_look_like_an_option() -> None:
    assert not [address for address in (Receiver().address for _ in range(500)) if address.startswith("-")]
