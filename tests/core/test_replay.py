import pytest
from hypothesis import given
from hypothesis import strategies as st

from krebit_proxy.core.replay import Breaker, Decision, Kept, ReplayBudget, decide
from krebit_proxy.core.suspicion import PathRecord


@pytest.mark.parametrize("status", [200, 204, 302, 400, 403, 407, 500, 503])
def test_only_a_401_is_ever_replayed(status: int) -> None:
    assert decide(status, [], held=True, barred=False) is Decision.RELAY


@pytest.mark.parametrize("challenges", [[], [b"Bearer"], [b'Bearer error="invalid_token"'], [b"Basic realm=x"]])
def test_a_401_is_replayed_while_its_content_is_held(challenges: list[bytes]) -> None:
    assert decide(401, challenges, held=True, barred=False) is Decision.REPLAY
    assert decide(401, challenges, held=False, barred=False) is Decision.NOT_REPLAYED


@pytest.mark.parametrize(
    "challenge",
    [
        b'Bearer error="insufficient_scope"',
        b"Bearer realm=x, error=insufficient_scope",
        b'bearer ERROR = "INSUFFICIENT_SCOPE", scope="write"',
    ],
)
def test_a_missing_scope_is_relayed(challenge: bytes) -> None:
    assert decide(401, [b"Basic", challenge], held=True, barred=False) is Decision.RELAY


def test_a_401_is_relayed_while_the_breaker_is_open() -> None:
    assert decide(401, [], held=True, barred=True) is Decision.RELAY


def test_the_breaker_opens_for_thirty_seconds_and_doubles_up_to_fifteen_minutes() -> None:
    breaker, now = Breaker(), 1000.0
    for period in (30, 60, 120, 240, 480, 900, 900):
        breaker.trip(b"/api/x", now)

        assert breaker.is_open(b"/api/x", now + period - 0.1)
        assert not breaker.is_open(b"/api/x", now + period)
        now += period


def test_late_failures_do_not_lengthen_a_breaker_that_is_open() -> None:
    breaker = Breaker()
    for late in range(10):
        breaker.trip(b"/api/x", 1000.0 + late)

    assert not breaker.is_open(b"/api/x", 1030.0)


def test_a_success_forgets_the_path() -> None:
    breaker = Breaker()
    breaker.reset(b"/api/x")
    breaker.trip(b"/api/x", 0.0)
    breaker.trip(b"/api/y", 0.0)
    breaker.reset(b"/api/x?page=2")

    assert not breaker.is_open(b"/api/x", 1.0)
    assert breaker.is_open(b"/api/y", 1.0)


def test_the_breaker_remembers_the_last_paths_only() -> None:
    breaker = Breaker()
    for number in range(Breaker.PATHS + 1):
        breaker.trip(b"/api/%d" % number, 0.0)

    assert not breaker.is_open(b"/api/0", 1.0)
    assert breaker.is_open(b"/api/1", 1.0)
    assert breaker.is_open(b"/api/%d" % Breaker.PATHS, 1.0)


@pytest.mark.parametrize(("size", "complete"), [(9, True), (10, True), (11, False)])
def test_content_is_kept_up_to_the_limit_of_a_request(size: int, complete: bool) -> None:
    kept = Kept(10, ReplayBudget(100))
    kept.add(b"x" * size)

    assert kept.complete is complete
    assert b"".join(kept.pieces) == (b"x" * size if complete else b"")


def test_the_allowance_is_shared_and_given_back() -> None:
    budget = ReplayBudget(15)
    first, second = Kept(10, budget), Kept(10, budget)
    first.add(b"x" * 10)
    second.add(b"y" * 6)

    assert first.complete
    assert not second.complete
    assert budget.free == 5
    first.release()
    first.release()
    first.add(b"x")
    assert budget.free == 15
    assert not first.complete


def test_what_was_let_go_once_is_never_kept_in_part() -> None:
    kept = Kept(10, ReplayBudget(100))
    kept.add(b"x" * 11)
    kept.add(b"y")

    assert not kept.fits(1)
    assert kept.pieces == []


@given(st.lists(st.binary(max_size=9000), max_size=40), st.integers(0, 60_000), st.integers(0, 60_000))
def test_kept_content_is_whole_or_nothing_and_never_over_a_limit(pieces: list[bytes], limit: int, total: int) -> None:
    budget = ReplayBudget(total)
    kept = Kept(limit, budget)
    sent = b""
    for piece in pieces:
        kept.add(piece)
        sent += piece

        held = b"".join(kept.pieces)
        assert held == (sent if kept.complete else b"")
        assert budget.free == total - len(held)
        assert len(held) <= min(limit, total)
        assert kept.complete == (len(sent) <= min(limit, total)) or not kept.complete
    kept.release()
    assert budget.free == total


@given(st.lists(st.tuples(st.sampled_from([b"/api/a", b"/api/b"]), st.booleans(), st.floats(0, 500)), max_size=60))
def test_a_path_is_open_at_most_fifteen_minutes_after_its_last_failure(
    events: list[tuple[bytes, bool, float]],
) -> None:
    breaker, now = Breaker(), 0.0
    for path, failed, later in events:
        now += later
        if failed:
            breaker.trip(path, now)
            assert breaker.is_open(path, now)
        else:
            breaker.reset(path)
            assert not breaker.is_open(path, now)
        assert not breaker.is_open(path, now + Breaker.LONGEST)


def test_one_path_is_one_path_however_it_is_spelt() -> None:
    breaker = Breaker()
    breaker.trip(b"/api/a%62c?x=1", 0)

    assert breaker.is_open(b"/api/abc", 1)
    assert breaker.is_open(b"/api/%2561%62%63", 1)
    assert not breaker.is_open(b"/api/abd", 1)
    breaker.reset(b"/api/%61bc?y=2")
    assert not breaker.is_open(b"/api/abc", 1)


def test_a_403_that_says_that_the_token_is_bad_is_as_good_as_a_401() -> None:
    bad = [b'Bearer realm="krebit", error="invalid_token"']

    assert decide(403, bad, held=True, barred=False) is Decision.REPLAY
    assert decide(403, [b'Bearer error="insufficient_scope"'], held=True, barred=False) is Decision.RELAY
    assert decide(403, [], held=True, barred=False) is Decision.RELAY


def test_what_the_api_said_to_a_path_is_remembered_for_the_token_at_hand() -> None:
    breaker = Breaker()
    breaker.note_accepted(b"/api/good?x=1")
    breaker.suspect(b"/api/o%64d", 1)

    assert breaker.record(b"/api/good?y=2", 1) is PathRecord.ACCEPTED
    assert breaker.record(b"/api/odd", 1) is PathRecord.REFUSED
    assert breaker.record(b"/api/odd", 2) is PathRecord.NEW
    assert breaker.record(b"/api/other", 1) is PathRecord.NEW


def test_when_a_token_turns_out_to_be_good_the_401s_spoke_of_their_paths() -> None:
    breaker = Breaker()
    breaker.suspect(b"/api/odd", 1)
    breaker.clear(2, 0)
    assert not breaker.is_open(b"/api/odd", 1)
    breaker.clear(1, 0)

    assert breaker.is_open(b"/api/odd", 1)
    assert breaker.record(b"/api/odd", 1) is PathRecord.NEW


def test_what_is_said_of_a_new_token_replaces_what_was_said_of_the_old_one() -> None:
    breaker = Breaker()
    breaker.suspect(b"/api/a", 1)
    breaker.suspect(b"/api/b", 2)

    assert breaker.record(b"/api/a", 2) is PathRecord.NEW


def test_memory_of_paths_is_bounded() -> None:
    breaker = Breaker()
    for number in range(Breaker.PATHS + 1):
        breaker.suspect(b"/api/%d" % number, 1)
        breaker.note_accepted(b"/api/x%d" % number)
    breaker.note_accepted(b"/api/" + b"l" * 1000)

    assert breaker.record(b"/api/0", 1) is PathRecord.NEW
    assert breaker.record(b"/api/x0", 1) is PathRecord.NEW
    assert breaker.record(b"/api/" + b"l" * 1000, 1) is PathRecord.NEW


def test_long_paths_are_remembered_too_and_cost_little() -> None:
    breaker = Breaker()
    for number in range(300):
        breaker.suspect(b"/api/%d/" % number + b"x" * 10_000, 1)
        breaker.trip(b"/api/%d/" % number + b"x" * 10_000, 0)

    assert breaker.is_open(b"/api/299/" + b"x" * 10_000, 1)
    assert not breaker.is_open(b"/api/300/" + b"x" * 10_000, 1)
    assert sum(map(len, [*breaker._paths, *breaker._refused])) < 512 * 512
