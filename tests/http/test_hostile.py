"""Hostile input against the real listener: a clean refusal, a close, or a correctly forwarded request."""

import os
import random
from collections.abc import Callable

import pytest

from tests.fakes.proxy import StartProxy
from tests.fakes.upstream import Upstream
from tests.http.corpus import CORPUS, Hostile, Kind
from tests.http.mutation import mutated
from tests.http.shooting_range import LIMITS, Attempt, Range, echo


def test_each_entry_of_the_corpus_has_a_name_of_its_own() -> None:
    names = [hostile.name for hostile in CORPUS]

    assert len(set(names)) == len(names)


@pytest.mark.parametrize("area", ["framing", "chunk", "path", "target", "line", "field", "host", "browser"])
async def test_each_hostile_request_is_refused_cut_off_or_forwarded_as_it_was_meant(
    shooting_range: Range, area: str
) -> None:
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


@pytest.mark.slow
async def test_no_mutated_request_is_read_in_two_ways(
    start_proxy: StartProxy, upstream: Upstream, effort: Callable[[int, int], int]
) -> None:
    """Seeded: the same each time, unless KREBIT_TEST_SEED says otherwise. The seed names the failing input."""
    upstream.default = echo
    seed = int(os.environ.get("KREBIT_TEST_SEED", "1"))
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
