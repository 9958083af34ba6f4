"""Base64 for URLs, without padding (RFC 4648, 5)."""

from base64 import urlsafe_b64encode


def base64url(data: bytes) -> str:
    """`data` as text of letters, digits, hyphens and underscores."""
    return urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
