"""The few exceptions of the program. Each carries a code, an HTTP status and a hint for a person.

A class exists only where somebody catches it. Texts say what happened (`detail`) and what to do next (`hint`),
and never hold a token, a code, a secret or a query string: they are shown to callers and written to logs.
"""

from typing import Final

# code -> (HTTP status, title). The contract with callers; they tell our errors from Krebit's by these codes.
CODES: Final[dict[str, tuple[int, str]]] = {
    "setup_required": (503, "Setup is needed"),
    "reauthorization_required": (503, "A new authorization is needed"),
    "misconfigured": (503, "The settings do not work"),
    "token_unavailable": (503, "No valid token for now"),
    "not_replayed": (503, "Send the request again"),
    "overloaded": (503, "Too many connections"),
    "upstream_unreachable": (502, "The upstream cannot be reached"),
    "upstream_invalid": (502, "The upstream's answer is not valid HTTP"),
    "upstream_timeout": (504, "The upstream did not answer in time"),
    "bad_request": (400, "The request is not valid HTTP"),
    "header_too_large": (431, "The request's head is too large"),
    "uri_too_long": (414, "The request target is too long"),
    "request_timeout": (408, "The request took too long to arrive"),
    "version_not_supported": (505, "This HTTP version is not supported"),
    "expectation_failed": (417, "This expectation is not supported"),
    "not_implemented": (501, "This is not supported"),
    "not_forwarded": (404, "Only /api/ is forwarded"),
    "forbidden_path": (403, "This path is not allowed"),
    "method_not_allowed": (405, "This method is not allowed"),
    "cross_site": (403, "Requests from other web sites are refused"),
    "client_not_allowed": (403, "This caller is not allowed"),
    "host_not_allowed": (421, "This host name is not served"),
    "client_key_required": (401, "A client key is needed"),
    "rate_limited": (429, "Too many requests"),
    # Our own pages only, never in answer to an API call:
    "setup_closed": (410, "Setup is closed"),
    "setup_failed": (400, "The authorization did not work"),
    "setup_key_required": (403, "A one-time key is needed"),
}

# Those that a person ends at /setup.
SETUP_CODES: Final = frozenset({"setup_required", "reauthorization_required"})


class ProxyError(Exception):
    """What all our errors share: `detail` says what is wrong, `hint` what to do about it."""

    code: str = "misconfigured"

    def __init__(self, detail: str, *, hint: str = "") -> None:
        super().__init__(detail)
        self.detail = detail
        self.hint = hint

    @property
    def status(self) -> int:
        """The HTTP status that answers this error."""
        return CODES[self.code][0]

    @property
    def title(self) -> str:
        """A short sentence for the kind of error, the same each time (RFC 9457, 3.1.3)."""
        return CODES[self.code][1]


class Refused(ProxyError):
    """A request that we answer ourselves.

    `code` is one of `CODES`; `retry_after` is whole seconds or None; `allow` are the methods that a 405 leaves.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        hint: str = "",
        retry_after: int | None = None,
        allow: tuple[str, ...] = (),
    ) -> None:
        super().__init__(detail, hint=hint)
        self.code = code
        self.retry_after = retry_after
        self.allow = allow


class SettingsError(ProxyError):
    """Settings that can not work. `problems` lists every one, each a line ready to print."""

    def __init__(self, problems: list[str], *, hint: str = "config.example.yaml explains every setting") -> None:
        super().__init__("\n".join(problems), hint=hint)
        self.problems = problems


class StoreError(ProxyError):
    """The grant store cannot be read, locked or written. The grant that it holds is untouched.

    `code` is "misconfigured" where only a person can help, "token_unavailable" where time may.
    """

    def __init__(self, detail: str, *, hint: str = "", code: str = "misconfigured") -> None:
        super().__init__(detail, hint=hint)
        self.code = code


class StoreBusyError(StoreError):
    """Another process holds the lock of the store for longer than we were ready to wait."""


class StoreConflictError(StoreError):
    """A compare-and-set found another generation than the expected one: somebody else was quicker."""
