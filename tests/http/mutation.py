"""Small changes of messages, as a careless or hostile program would make them."""

import random

_BYTES = [*b"\r\n\t :;,=0159aAfFxX/.%\\#?@\x00\x01\x0b\x7f\x80\xa0\xff", None]


def mutated(seed: bytes, chance: random.Random) -> bytes:
    """One to three small changes of bytes or lines."""
    data = bytearray(seed)
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(data) + 1)
        byte = bytes([chance.choice(_BYTES) or chance.randrange(256)])
        match chance.randrange(8):
            case 0:
                del data[at : at + 1]
            case 1:
                data[at : at + 1] = byte
            case 2:
                data[at:at] = byte
            case 3:
                data[at:at] = chance.choice([b"\r\n", b"\n", b"\r", b"\r\n ", b"\r\n\r\n"])
            case 4:
                data[:] = bytes(data).replace(b"\r\n", chance.choice([b"\n", b"", b"\r", b" "]), 1)
            case _:
                _shuffle_lines(data, chance)
    return bytes(data)


def _shuffle_lines(data: bytearray, chance: random.Random) -> None:
    lines = bytes(data).split(b"\r\n")
    one, other = chance.randrange(len(lines)), chance.randrange(len(lines))
    match chance.randrange(3):
        case 0:
            lines[one], lines[other] = lines[other], lines[one]
        case 1:
            lines.insert(one, lines[other])
        case _:
            lines[one : one + 2] = [b"".join(lines[one : one + 2])]
    data[:] = b"\r\n".join(lines)
