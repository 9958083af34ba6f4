"""Faults on demand: the faults that are on, and the orders that change them.

`curl -d token_endpoint=error -d times=3 http://127.0.0.1:8322/sandbox/faults` is an order.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Final, Literal, get_args
from urllib.parse import parse_qsl

from aiohttp import web
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    ValidationError,
    field_validator,
)

from krebit_proxy.core.policy import pattern
from krebit_proxy.sandbox.grants import Grants, Terms

# What the token endpoint does:
# ok: works. error: 500 with an HTML page. busy, limited: 503 or 429 with Retry-After.
# away: closes the connection without a response. hang: never responds. garbage: 200 with an HTML page.
# refuse: refuses every refresh token, and spends none. lost: spends the token, then closes the connection.
TokenEndpointFault = Literal["ok", "error", "busy", "limited", "away", "hang", "garbage", "refuse", "lost"]
# The error for a refresh token that no longer works. `token_answers` has the full responses.
RefusalWords = Literal[
    "invalid_grant",
    "invalid_request",
    "bad_refresh_token",
    "BAD_REFRESH_TOKEN",
    "invalid_refresh_token",
    "expired_token",
    "unprocessable",
]
# The format of a token response.
# json: as in RFC 6749. form: form-encoded. data, authed_user: one level down. notice: after a PHP notice.
TokenShape = Literal["json", "form", "data", "authed_user", "notice"]
# sliding: each renewal starts the lifetime of the refresh token again. fixed: its end stays as it was at setup.
RefreshEnd = Literal["sliding", "fixed"]
# The member of the token response with the lifetime of the refresh token. RFC 6749 has none. untold: no member.
RefreshLifetimeName = Literal["refresh_expires_in", "refresh_token_expires_in", "x_refresh_token_expires_in", "untold"]

TOKEN_ENDPOINT_FAULTS: Final[tuple[str, ...]] = get_args(TokenEndpointFault)
REFUSAL_WORDS: Final[tuple[str, ...]] = get_args(RefusalWords)
TOKEN_SHAPES: Final[tuple[str, ...]] = get_args(TokenShape)
REFRESH_ENDS: Final[tuple[str, ...]] = get_args(RefreshEnd)
REFRESH_LIFETIME_NAMES: Final[tuple[str, ...]] = get_args(RefreshLifetimeName)


@dataclass(slots=True)
class Faults:
    """The faults that are on now. Times are in seconds."""

    token_lifetime: float = 3600.0  # of new access tokens
    replication_lag: float = 0.0  # until the API accepts a new access token
    latency: float = 0.0  # before every response
    unauthorized: int = 0  # number of API requests that get a 401 with any token
    unauthorized_until: float = 0.0  # seconds since the epoch; until then, all API requests get a 401
    unauthorized_path: str = ""  # a path or path template that always gets a 401
    token_endpoint: TokenEndpointFault = "ok"
    times: int | None = None  # number of token requests that meet `token_endpoint`; None: all, until it is "ok"
    retry_after: int = 1  # of a busy or limited token endpoint
    refusal: RefusalWords = "invalid_grant"
    refusal_status: int | None = None  # None: the usual one for `refusal`
    token_status: int = 200  # of a token response
    token_type: str = "Bearer"
    token_shape: TokenShape = "json"
    refresh_lifetime: float = 0.0  # of new refresh tokens; 0: they never expire
    refresh_end: RefreshEnd = "sliding"
    refresh_lifetime_name: RefreshLifetimeName = "refresh_expires_in"

    def refuses(self, path: bytes, now: float) -> bool:
        """Whether an API request on `path` gets a 401 with any token. Counts down `unauthorized`."""
        if now < self.unauthorized_until:
            return True
        if self.unauthorized_path and _matcher(self.unauthorized_path).fullmatch(path):
            return True
        if self.unauthorized == 0:
            return False
        self.unauthorized -= 1
        return True

    def take_token_endpoint(self) -> TokenEndpointFault:
        """The fault for this token request. Counts down `times`."""
        fault = self.token_endpoint
        if fault != "ok" and self.times is not None:
            self.times -= 1
            if self.times <= 0:
                self.token_endpoint, self.times = "ok", None
        return fault

    def terms(self) -> Terms:
        return Terms(
            lifetime=self.token_lifetime,
            lag=self.replication_lag,
            refresh_lifetime=self.refresh_lifetime or None,
            fixed_end=self.refresh_end == "fixed",
        )

    def in_force(self, now: float) -> dict[str, Any]:
        """All faults, by the names of `Order`."""
        shown = asdict(self)
        shown["unauthorized_for"] = max(0.0, round(shown.pop("unauthorized_until") - now, 1))
        return shown


_matcher: Final = lru_cache(pattern)


class Order(BaseModel):
    """The body of `POST /sandbox/faults`, as JSON or as a form. A fault that is not named stays as it is."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    token_lifetime: PositiveFloat | None = None
    replication_lag: NonNegativeFloat | None = None
    latency: NonNegativeFloat | None = None
    unauthorized: NonNegativeInt | None = None
    unauthorized_for: NonNegativeFloat | None = None
    unauthorized_path: str | None = None
    token_endpoint: TokenEndpointFault | None = None
    times: int | None = Field(default=None, ge=1)
    retry_after: NonNegativeInt | None = None
    refusal: RefusalWords | None = None
    refusal_status: int | None = Field(default=None, ge=200, le=599)
    token_status: int | None = Field(default=None, ge=200, le=299)
    token_type: str | None = Field(default=None, max_length=100)
    token_shape: TokenShape | None = None
    refresh_lifetime: NonNegativeFloat | None = None
    refresh_end: RefreshEnd | None = None
    refresh_lifetime_name: RefreshLifetimeName | None = None
    revoke: Literal["access", "refresh", "all"] | None = None

    @field_validator("unauthorized_path")
    @classmethod
    def _is_a_template(cls, value: str) -> str:
        if value:
            pattern(value)
        return value

    @classmethod
    def of(cls, wanted: Mapping[str, Any]) -> "Order":
        """The order for these names and values. Raises ValueError with one sentence for each invalid value."""
        try:
            return cls.model_validate(wanted)
        except ValidationError as error:
            raise ValueError(" ".join(map(_sentence, error.errors()))) from None

    def apply(self, faults: Faults, grants: Grants, now: float) -> None:
        """Changes `faults`, and revokes tokens. A new `token_endpoint` resets `times`, a new `refusal` its status."""
        wanted = self.model_dump(exclude_none=True, exclude={"revoke", "unauthorized_for"})
        if self.unauthorized_for is not None:
            wanted["unauthorized_until"] = now + self.unauthorized_for
        if self.token_endpoint is not None:
            wanted["times"] = self.times
        if self.refusal is not None:
            wanted["refusal_status"] = self.refusal_status
        for name, value in wanted.items():
            setattr(faults, name, value)
        if self.revoke is not None:
            grants.revoke_all(access=self.revoke != "refresh", refresh=self.revoke != "access")


_MAY_BE_EMPTY: Final = frozenset({"unauthorized_path", "token_type"})


async def read_order(request: web.BaseRequest) -> Order:
    """The order in the body of a request. Raises ValueError with a sentence for people."""
    text = await request.text()
    try:
        # curl -d sends JSON with the content type of a form.
        wanted = json.loads(text) if text.lstrip().startswith("{") else _form(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"The body is not valid JSON: {error}.") from None
    order = Order.of(wanted)
    if not order.model_fields_set:
        raise ValueError(f"No fault is named. Write for example revoke=access. All names: {_known()}.")
    return order


def _form(text: str) -> dict[str, str]:
    """The values of a form. An empty number counts as missing, an empty text as a value."""
    pairs = parse_qsl(text, keep_blank_values=True)
    return {name: value for name, value in pairs if value or name in _MAY_BE_EMPTY}


def _sentence(problem: Mapping[str, Any]) -> str:
    name = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"{name}: there is no such fault. All names: {_known()}."
    return f"{name}: {re.sub('^Value error, ', '', problem['msg'])}."


def _known() -> str:
    return ", ".join(Order.model_fields)
