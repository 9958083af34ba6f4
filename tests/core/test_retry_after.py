"""The Retry-After field."""

import pytest

from krebit_proxy.core.retry_after import seconds_to_wait


@pytest.mark.parametrize(
    ("field", "seconds"),
    [
        ("7", 7),
        (" 7 ", 7),
        ("0", 1),
        ("99999", 600),
        ("-1", None),
        ("Thu, 01 Jan 1970 00:20:00 GMT", 200),  # 1200 seconds after the epoch; it is 1000 seconds after it
        ("Thu, 01 Jan 1970 00:00:00 GMT", 1),
        ("Wed, 21 Oct 2026 07:28:00 GMT", 600),
        ("Wed, 99 Oct 2026 07:28:00 GMT", None),
        ("tomorrow", None),
        ("", None),
        (None, None),
    ],
)
def test_patience_is_read_in_seconds_and_as_a_date_and_capped(field: str | None, seconds: float | None) -> None:
    assert seconds_to_wait(field, 1000) == seconds
