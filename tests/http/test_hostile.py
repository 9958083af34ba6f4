"""Hostile input against the real listener: a clean refusal, a close, or a correctly forwarded request."""

import os
import random
from collections.abc import Callable

import pytest

from tests.fakes.proxy import StartProxy
from tests.fakes.upstream import Upstream
from tests.http.corpus import CORPUS, Hostile, Kind
from tests.http.shooting_range import LIMITS, Attempt, Range, echo


def test_names_are_unique() -> None:
    names = [hostile.name for hostile in CORPUS]

    assert len(set(names)) == len(names)


@pytest.mark.parametrize("area", ["framing", "chunk", "path", "target", "line", "field", "host", "browser"])
async def test_corpus(shooting_range: Range, area: str) -> None:
    """Every entry of an area, one after the other on one proxy; all that failed are told together."""
    wrong: list[str] = []
    for hostile in CORPUS:
        if hostile.name.partition("_")[0] == area:
            try:
                attempt = await shooting_range.attempt(hostile.sent)
                _as_expected(hostile, attempt)
            except (AssertionError, TimeoutError, ValueError) as error:
                wrong.append(f"{hostile.name}: {type(error).__name__} {error}")

    assert not wrong, "\n".join([f"{len(wrong)} of {area}:", *wrong])


def _as_expected(hostile: Hostile, attempt: Attempt) -> None:
    first = attempt.responses[0] if attempt.responses else None
    if hostile.kind is Kind.VALID:
        assert first is not None, f"no answer\n{attempt}"
        assert (first.status, first.code) == (200, ""), str(attempt)
        assert attempt.calls, str(attempt)
        assert attempt.canary_answered or hostile.sent.find(b"HTTP/1.0") > 0, str(attempt)
    if hostile.kind in {Kind.INVALID, Kind.POLICY}:
        assert not [call for call in attempt.calls if call.complete and attempt.canary not in call.target], str(attempt)
        assert first is None or first.code, f"not refused\n{attempt}"
    if hostile.kind is Kind.INVALID:
        assert attempt.ended, f"not closed\n{attempt}"
        assert not attempt.canary_seen, f"the canary got through\n{attempt}"
        assert len(attempt.responses) <= 1, str(attempt)
    if hostile.kind is Kind.POLICY:
        assert first is not None, f"no answer\n{attempt}"


_SEEDS = [
    hostile.sent
    for hostile in CORPUS
    if len(hostile.sent) < 1000 and hostile.name.partition("_")[0] in {"framing", "chunk", "field"}
]
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


async def test_mutations_of_the_corpus(
    start_proxy: StartProxy, upstream: Upstream, effort: Callable[[int, int], int]
) -> None:
    """Seeded: the same each time, unless KREBIT_PROXY_TEST_SEED says otherwise. The seed names the failing input."""
    upstream.default = echo
    seed = int(os.environ.get("KREBIT_PROXY_TEST_SEED", "1"))
    wrong: list[str] = []

    lane = Range(await start_proxy(limits=LIMITS), upstream)
    for number in range(effort(1500, 100_000)):
        chance = random.Random(f"{seed}/{number}")
        sent = mutated(chance.choice(_SEEDS), chance)
        try:
            await lane.attempt(sent)
        except (AssertionError, TimeoutError, ValueError) as error:
            wrong.append(f"{seed}/{number}: {type(error).__name__} {error}\nsent {sent!r}")
        assert len(wrong) < 20, "\n\n".join(wrong)

    assert not wrong, "\n\n".join(wrong)
