"""A grant on its way to another machine."""

import re

import pytest

from krebit_proxy.cli.envelope import Receiver, fingerprint, seal
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
        with pytest.raises(ValueError, match=r"^this (is not|grant was exported to another)"):
            opener.open(text)
    for address in ("abcd", receiver.address[:-4], "Ag" + 43 * "A", "ä"):
        with pytest.raises(ValueError, match="not an address"):
            seal(GRANT, address)


def test_an_address_does_not_look_like_an_option() -> None:
    assert not [address for address in (Receiver().address for _ in range(500)) if address.startswith("-")]


def test_what_another_version_printed_is_told_to_be_that() -> None:
    receiver = Receiver()
    for text in (receiver.address[1:], "B" + receiver.address[1:]):
        with pytest.raises(ValueError, match="same version of krebit-proxy"):
            seal(GRANT, text)
        with pytest.raises(ValueError, match="same version of krebit-proxy"):
            receiver.open(text)


def test_each_address_has_a_fingerprint_that_people_can_compare() -> None:
    addresses = [Receiver().address for _ in range(50)]
    fingerprints = {fingerprint(address) for address in addresses}

    assert len(fingerprints) == 50
    assert all(re.fullmatch("([0-9A-HJKMNP-TV-Z]{4}-){3}[0-9A-HJKMNP-TV-Z]{4}", one) for one in fingerprints)
    assert fingerprint("Ag" + 42 * "A") == fingerprint("Ag" + 41 * "A" + "\nA")
    with pytest.raises(ValueError, match="not an address"):
        fingerprint("abcd")
