"""The outcomes of token requests."""

import pytest

from krebit_proxy.core.grant import Tokens
from krebit_proxy.core.secret import Secret
from krebit_proxy.core.token_response import Issued, NotSent, Outcome, Refusal, RefusalKind, Rotated, Unclear, word_for

TOKENS = Tokens(Secret("a"), Secret("r"), 1000, 1060)


@pytest.mark.parametrize(
    ("outcome", "word"),
    [
        (Issued(TOKENS), "ok"),
        (Rotated(Secret("r"), "a b"), "rotated"),
        (NotSent("a b"), "not_sent"),
        (Unclear("c d"), "unclear"),
        (Refusal("invalid_grant", "gone", RefusalKind.VERDICT), "invalid_grant"),
        (Refusal("BAD_REFRESH_TOKEN", kind=RefusalKind.VERDICT), "invalid_grant"),
        (Refusal("unauthorized_client", kind=RefusalKind.CLIENT), "unauthorized_client"),
        (Refusal("bad_client_secret", kind=RefusalKind.CLIENT), "invalid_client"),
        (Refusal("invalid_scope"), "invalid_scope"),
        (Refusal("made up"), "refused"),
    ],
)
def test_each_outcome_has_a_word_and_no_server_can_add_another(outcome: Outcome, word: str) -> None:
    assert word_for(outcome) == word
