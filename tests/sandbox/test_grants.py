from base64 import urlsafe_b64encode
from hashlib import sha256

import pytest

from krebit_proxy.sandbox.grants import CODE_LIFETIME, Grants, OAuthError, Pair, Rotation, Terms

URI = "http://localhost:8321/setup/callback"
VERIFIER = "v" * 43
CHALLENGE = urlsafe_b64encode(sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()


def exchange(grants: Grants, code: str, uri: str | None = URI, verifier: str | None = None, now: float = 0) -> Pair:
    return grants.exchange(code, uri, verifier, terms=Terms(60), now=now)


def authorized(rotation: Rotation, grace: float = 30) -> tuple[Grants, Pair]:
    grants = Grants(rotation, grace)
    return grants, exchange(grants, grants.code(URI, None, 0))


def refresh(grants: Grants, token: str | None, now: float = 0) -> Pair:
    assert token is not None
    return grants.refresh(token, terms=Terms(60), now=now)


def refused(grants: Grants, token: str | None, now: float = 0) -> bool:
    with pytest.raises(OAuthError) as caught:
        refresh(grants, token, now)
    return caught.value.error == "invalid_grant"


def test_a_code_expires_after_ten_minutes() -> None:
    grants = Grants("strict", 0)
    code = grants.code(URI, None, 1000)
    with pytest.raises(OAuthError, match="expired"):
        exchange(grants, code, now=1000 + CODE_LIFETIME)


def test_a_code_used_twice_takes_its_tokens_with_it() -> None:
    grants = Grants("strict", 0)
    code = grants.code(URI, None, 0)
    pair = exchange(grants, code)
    assert grants.live(pair.access_token, 0)
    with pytest.raises(OAuthError, match="used before"):
        exchange(grants, code)
    assert not grants.live(pair.access_token, 0)
    assert refused(grants, pair.refresh_token)


@pytest.mark.parametrize("uri", [None, URI + "/", "http://127.0.0.1:8321/setup/callback"])
def test_the_redirect_uri_must_be_the_same_in_both_requests(uri: str | None) -> None:
    grants = Grants("strict", 0)
    with pytest.raises(OAuthError, match="redirect_uri"):
        exchange(grants, grants.code(URI, None, 0), uri)


@pytest.mark.parametrize(("challenge", "verifier"), [(CHALLENGE, None), (CHALLENGE, "w" * 43), (None, VERIFIER)])
def test_a_verifier_that_does_not_fit_is_refused(challenge: str | None, verifier: str | None) -> None:
    grants = Grants("strict", 0)
    with pytest.raises(OAuthError) as caught:
        exchange(grants, grants.code(URI, challenge, 0), verifier=verifier)
    assert caught.value.error == "invalid_grant"


def test_the_right_verifier_brings_tokens() -> None:
    grants = Grants("strict", 0)
    assert exchange(grants, grants.code(URI, CHALLENGE, 0), verifier=VERIFIER).refresh_token


def test_an_access_token_is_dead_once_its_lifetime_is_over() -> None:
    grants, pair = authorized("strict")
    assert grants.live(pair.access_token, 59.9)
    assert not grants.live(pair.access_token, 60)


def test_strict_a_spent_refresh_token_is_dead_and_its_successor_lives() -> None:
    grants, first = authorized("strict")
    second = refresh(grants, first.refresh_token)
    assert refused(grants, first.refresh_token)
    assert refresh(grants, second.refresh_token).refresh_token


def test_off_the_refresh_token_stays_and_none_is_sent() -> None:
    grants, first = authorized("off")
    assert refresh(grants, first.refresh_token).refresh_token is None
    assert refresh(grants, first.refresh_token).refresh_token is None


def test_grace_the_same_pair_comes_again_until_the_time_is_over() -> None:
    grants, first = authorized("grace", grace=10)
    second = refresh(grants, first.refresh_token, now=1)
    assert refresh(grants, first.refresh_token, now=11) == second
    assert refused(grants, first.refresh_token, now=11.1)
    assert refresh(grants, second.refresh_token).refresh_token


def test_grace_brings_a_live_access_token_where_the_first_one_has_expired() -> None:
    grants, first = authorized("grace", grace=100)
    second = refresh(grants, first.refresh_token, now=0)
    again = refresh(grants, first.refresh_token, now=70)
    assert again.refresh_token == second.refresh_token
    assert grants.live(again.access_token, 70)


def test_family_a_second_use_revokes_what_came_of_the_first() -> None:
    grants, first = authorized("family")
    second = refresh(grants, first.refresh_token)
    assert refused(grants, first.refresh_token)
    assert refused(grants, second.refresh_token)
    assert not grants.live(second.access_token, 0)


def test_one_family_does_not_answer_for_another() -> None:
    grants, mine = authorized("family")
    other = exchange(grants, grants.code(URI, None, 0))
    refresh(grants, mine.refresh_token)
    assert refused(grants, mine.refresh_token)
    assert grants.live(other.access_token, 0)


def test_revoking_a_refresh_token_ends_its_access_tokens_too() -> None:
    grants, pair = authorized("strict")
    grants.revoke(pair.access_token)
    assert not grants.live(pair.access_token, 0)
    second = refresh(grants, pair.refresh_token)
    assert second.refresh_token is not None
    grants.revoke(second.refresh_token)
    assert not grants.live(second.access_token, 0)
    grants.revoke("never issued")


def test_all_is_there_again_after_dump_and_load() -> None:
    grants, pair = authorized("grace")
    second = refresh(grants, pair.refresh_token)
    copy = Grants("grace", 30)
    copy.load(grants.dump())
    assert copy.dump() == grants.dump()
    assert refresh(copy, pair.refresh_token) == second


@pytest.mark.parametrize("rotation", ["strict", "off", "grace", "family"])
def test_a_sliding_end_moves_with_each_renewal_and_a_fixed_one_stays(rotation: Rotation) -> None:
    for fixed, ends in ((False, [10, 15, 20]), (True, [10, 10, 10])):
        grants = Grants(rotation, 30)
        terms = Terms(60, refresh_lifetime=10, fixed_end=fixed)
        pairs = [grants.exchange(grants.code(URI, None, 0), URI, None, terms=terms, now=0)]
        for now in (5, 10):
            token = pairs[0].refresh_token if rotation == "off" else pairs[-1].refresh_token
            assert token is not None
            if fixed and now == 10:
                with pytest.raises(OAuthError, match="expired"):
                    grants.refresh(token, terms=terms, now=now)
                break
            pairs.append(grants.refresh(token, terms=terms, now=now))
        assert [pair.refresh_expires_at for pair in pairs] == ends[: len(pairs)]


def test_an_access_token_is_not_accepted_before_its_lag_is_over() -> None:
    grants = Grants("strict", 0)
    pair = grants.exchange(grants.code(URI, None, 0), URI, None, terms=Terms(60, lag=2), now=0)
    assert [grants.live(pair.access_token, now) for now in (0, 1.9, 2, 59.9)] == [False, False, True, True]


def test_grace_gives_the_same_pair_again_before_the_api_accepts_it() -> None:
    grants, first = authorized("grace", grace=10)
    assert first.refresh_token is not None
    second = grants.refresh(first.refresh_token, terms=Terms(60, lag=5), now=1)
    assert grants.refresh(first.refresh_token, terms=Terms(60, lag=5), now=2) == second
