import pytest

from krebit_proxy.core.base64url import base64url


@pytest.mark.parametrize(
    ("data", "text"), [(b"", ""), (b"f", "Zg"), (b"fo", "Zm8"), (b"foo", "Zm9v"), (b"\xfb\xff", "-_8")]
)
def test_text_is_safe_in_a_url_and_has_no_padding(data: bytes, text: str) -> None:
    assert base64url(data) == text
