"""What a 401 says of a token, and what 401s may cost."""

from krebit_proxy.core.suspicion import BURST, PROBE_EVERY, REFILL, SETTLED, YOUNG, Budget, Trust, Unauthorized

OLD = 600.0  # seconds
NOW = 1000.0


def test_a_refused_token_may_be_tried_by_the_next_call_at_once() -> None:
    trust = Trust().refused(Unauthorized(1), OLD, NOW)

    assert trust.suspected
    assert trust.probe_at == NOW


def test_after_a_probe_the_next_one_waits_a_second() -> None:
    trust = Trust().refused(Unauthorized(1), OLD, NOW).probed(NOW)

    assert trust.probe_at == NOW + PROBE_EVERY
    assert trust.refused(Unauthorized(1), OLD, NOW + 0.5) == trust  # the late 401 of a call that was under way


def test_an_accepted_probe_clears_the_suspicion() -> None:
    trust = Trust().refused(Unauthorized(1), OLD, NOW).probed(NOW)

    assert not trust.proven(trust.number, NOW).suspected


def test_a_call_that_was_under_way_before_the_401_clears_nothing() -> None:
    trust = Trust().refused(Unauthorized(1), OLD, NOW)

    assert trust.proven(0, NOW).suspected


def test_a_probe_that_was_sent_before_another_was_refused_clears_nothing() -> None:
    trust = Trust().refused(Unauthorized(1), OLD, NOW)
    older = trust.number

    trust = trust.refused(Unauthorized(1, probe=older), OLD, NOW + 1)

    assert trust.proven(older, NOW).suspected
    assert not trust.proven(trust.number, NOW).suspected


def test_a_probe_of_an_earlier_suspicion_clears_no_later_one() -> None:
    first = Trust().refused(Unauthorized(1), OLD, NOW)
    second = first.proven(first.number, NOW).refused(Unauthorized(1), OLD, NOW + 10)

    assert second.proven(first.number, NOW).suspected


def test_a_young_token_that_was_never_accepted_gets_time() -> None:
    trust = Trust()

    assert trust.must_settle(Unauthorized(1), YOUNG - 0.1)
    assert not trust.must_settle(Unauthorized(1), YOUNG)
    assert not trust.must_settle(Unauthorized(1, repeated=True), SETTLED)
    assert not trust.proven(0, NOW).must_settle(Unauthorized(1), 0)
    assert not trust.refused(Unauthorized(1), 0, NOW).suspected


def test_an_api_that_learned_of_one_token_late_may_learn_of_the_next_one_late() -> None:
    trust = Trust().refused(Unauthorized(1), 0, NOW).proven(0, NOW)

    assert trust.lagging
    assert trust.of_next(NOW, charge=0).lagging


def test_another_token_is_trusted_and_the_budget_is_the_same() -> None:
    spent = Trust(budget=Budget(1, NOW)).refused(Unauthorized(1), OLD, NOW)

    assert not spent.of_next(NOW, charge=0).suspected
    assert spent.of_next(NOW, charge=0).budget.left(NOW) == 1
    assert spent.of_next(NOW, charge=1).budget.is_spent(NOW)


def test_three_renewals_may_follow_at_once_and_one_more_each_minute() -> None:
    budget = Budget()
    for _ in range(int(BURST)):
        assert not budget.is_spent(NOW)
        budget = budget.changed(-1, NOW)

    assert budget.is_spent(NOW)
    assert budget.next_at(NOW) == NOW + REFILL
    assert not budget.is_spent(NOW + REFILL)
    assert budget.changed(-1, NOW + REFILL).is_spent(NOW + REFILL)


def test_no_more_than_three_are_saved() -> None:
    assert Budget().left(NOW + 100 * REFILL) == BURST
    assert Budget().changed(1, NOW).left(NOW) == BURST
