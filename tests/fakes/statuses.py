"""States of a grant, made by hand."""

from typing import Any

from krebit_proxy.core.grant_status import GrantStatus


def grant_status(code: str | None = None, **facts: Any) -> GrantStatus:
    """A state with this code: without one all is well, with one nothing is served unless `ready` is given."""
    detail, hint = (f"It is {code}.", "Do something.") if code else ("Authorized.", "")
    given: dict[str, Any] = {
        "ready": code is None,
        "code": code,
        "detail": detail,
        "hint": hint,
        "generation": 1,
        "obtained_at": None,
        "expires_at": None,
        "scope": "",
        "last_refresh_at": None,
        "last_refresh": None,
        "next_refresh_at": None,
        "refreshing": False,
        "lock_held": False,
        "lock_holder": None,
        "refresh_began_at": None,
        "store_error": None,
    }
    return GrantStatus(**given | facts)
