"""The few exceptions of the program. Each carries a code, an HTTP status and a hint for a person.

A class exists only if some code catches it. `detail` says what happened, `hint` says what to do next. Callers and logs
see both texts, so they never contain a token, a code, a secret or a query string.
"""

from typing import Final

# code -> (HTTP status, title). Callers tell our errors from Krebit's by the codes, so codes never change.
CODES: Final[dict[str, tuple[int, str]]] = {
    "setup_required": (503, "Setup required"),
    "reauthorization_required": (503, "New authorization required"),
    "misconfigured": (503, "The proxy is misconfigured"),
    "token_unavailable": (503, "No valid token right now"),
    "not_replayed": (503, "Send the request again"),
    "overloaded": (503, "Too many connections"),
    "upstream_unreachable": (502, "Krebit cannot be reached"),
    "upstream_invalid": (502, "Krebit's response is not valid HTTP"),
    "upstream_timeout": (504, "Krebit did not respond in time"),
    "bad_request": (400, "The request is not valid HTTP"),
    "header_too_large": (431, "The request header is too large"),
    "uri_too_long": (414, "The URL is too long"),
    "request_timeout": (408, "The request took too long to arrive"),
    "version_not_supported": (505, "This HTTP version is not supported"),
    "expectation_failed": (417, "This Expect header is not supported"),
    "not_implemented": (501, "This is not supported"),
    "not_forwarded": (404, "Only paths under /api/ are forwarded"),
    "forbidden_path": (403, "This path is not allowed"),
    "method_not_allowed": (405, "This method is not allowed"),
    "cross_site": (403, "Requests from other websites are blocked"),
    "client_not_allowed": (403, "This client is not allowed"),
    "host_not_allowed": (421, "This host name is not allowed"),
    "client_key_required": (401, "Client key required"),
    "rate_limited": (429, "Too many requests"),
    # For our own pages only, never for an API call:
    "setup_closed": (410, "Setup is closed"),
    "setup_failed": (400, "The authorization failed"),
    "setup_key_required": (403, "One-time key required"),
}

# Errors that a person resolves at /setup.
SETUP_CODES: Final = frozenset({"setup_required", "reauthorization_required"})


class ProxyError(Exception):
    """The base of all our errors. `detail` says what is wrong, `hint` says what to do."""

    code: str = "misconfigured"

    def __init__(self, detail: str, *, hint: str = "") -> None:
        super().__init__(detail)
        self.detail = detail
        self.hint = hint

    @property
    def status(self) -> int:
        """The HTTP status of the answer."""
        return CODES[self.code][0]

    @property
    def title(self) -> str:
        """A short summary that is the same for each error with this code (RFC 9457, 3.1.3)."""
        return CODES[self.code][1]


class Refused(ProxyError):
    """A request that we answer ourselves.

    `code` is a key of `CODES`. `retry_after` is in whole seconds. `allow` lists the methods that a 405 still allows.
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
    """Invalid settings. `problems` has one line for each problem, ready to print."""

    def __init__(self, problems: list[str], *, hint: str = "see config.example.yaml for all settings") -> None:
        super().__init__("\n".join(problems), hint=hint)
        self.problems = problems


class StoreError(ProxyError):
    """The grant store cannot be read, locked or written. The stored grant is unchanged.

    `code` is "misconfigured" if a person must act, "token_unavailable" if it may pass by itself.
    """

    def __init__(self, detail: str, *, hint: str = "", code: str = "misconfigured") -> None:
        super().__init__(detail, hint=hint)
        self.code = code

    def discreet(self) -> "StoreError":
        """The same without the place of the store and the words of a database, for callers and pages."""
        now = " right now" if self.code == "token_unavailable" else ""
        return StoreError(f"The proxy cannot use its store{now}.", hint=_SEE_LOG, code=self.code)


_SEE_LOG: Final = "The reason is in the log of the proxy. `krebit-proxy check` shows it too."


class StoreBusyError(StoreError):
    """Another process held the lock of the store for longer than our time-out."""


class StoreConflictError(StoreError):
    """Another process wrote first: compare-and-set found a different generation than expected."""
