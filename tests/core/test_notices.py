"""What people are told about a grant beside its state."""

from typing import Any

import pytest

from krebit_proxy.core.grant_status import GrantStatus
from krebit_proxy.core.notices import notices, refresh_token_end
from tests.fakes.statuses import grant_status

NOW = 1_800_000_000.0
DAY = 86400.0


def texts(status: GrantStatus) -> list[str]:
    return [notice.text for notice in notices(status, NOW)]


def test_a_grant_that_is_well_needs_no_words() -> None:
    assert notices(grant_status(expires_at=NOW + 60), NOW) == []


def test_a_grant_that_nobody_can_renew_serves_until_its_token_ends() -> None:
    [notice] = notices(grant_status("reauthorization_required", ready=True, expires_at=NOW + 3000), NOW)

    assert notice.text.startswith("Calls still work until ")
    assert notice.text.endswith(", in 50 minutes.")
    assert notice.hint == "Authorize again before then."


def test_nobody_needs_to_authorize_again_where_a_refresh_only_fails_for_now() -> None:
    [notice] = notices(grant_status("token_unavailable", ready=True, expires_at=NOW + 3000), NOW)

    assert notice.hint == ""


@pytest.mark.parametrize("code", [None, "reauthorization_required"])
def test_without_a_token_nothing_is_served(code: str | None) -> None:
    assert notices(grant_status(code, ready=False), NOW) == []


def test_a_suspected_token_is_explained_with_what_to_do() -> None:
    [notice] = notices(grant_status(suspected=True, expires_at=NOW + 60), NOW)

    assert "Krebit refused the access token" in notice.text
    assert "You need not do anything" in notice.hint


def test_beside_a_trouble_that_says_what_to_do_suspicion_is_only_named() -> None:
    [notice] = notices(grant_status("misconfigured", ready=False, suspected=True), NOW)

    assert (notice.text, notice.hint) == ("Krebit refused the access token, and has not accepted it since.", "")


@pytest.mark.parametrize(("left", "told"), [(-1, 0), (1, 1), (7 * DAY, 1), (7 * DAY + 1, 0)])
def test_a_fixed_end_is_told_in_the_last_week(left: float, told: int) -> None:
    status = grant_status(refresh_token_expires_at=NOW + left, refresh_token_end_is_fixed=True)

    assert len(texts(status)) == told


def test_a_fixed_end_has_its_date_in_words_and_what_to_do() -> None:
    status = grant_status(refresh_token_expires_at=NOW + 3 * DAY, refresh_token_end_is_fixed=True)
    [notice] = notices(status, NOW)

    assert notice.text.startswith("The authorization ends on ")
    assert "January 2027" in notice.text
    assert "in 3 days. Renewals do not extend it." in notice.text
    assert "`krebit-proxy setup`" in notice.hint


def test_an_end_that_renewals_move_is_no_reason_to_tell_anybody() -> None:
    assert texts(grant_status(refresh_token_expires_at=NOW + 60)) == []


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"refresh_token_expires_at": None}, ""),
        ({"refresh_token_expires_at": NOW - 60}, "60 seconds ago"),
        ({"refresh_token_expires_at": NOW + 60}, "in 60 seconds; renewals may extend it"),
        (
            {"refresh_token_expires_at": NOW + 60, "refresh_token_end_is_fixed": True},
            "in 60 seconds; renewals do not extend it",
        ),
    ],
)
def test_the_end_of_the_refresh_token_is_a_fact_of_its_own(facts: dict[str, Any], expected: str) -> None:
    end = refresh_token_end(grant_status(**facts), NOW)

    assert end.endswith(expected)
    assert end.startswith(("expires ", "expired ") if expected else "")
