"""Faults on demand: what may be ordered, and what is in force."""

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

# What the token endpoint does: works; 500 with an HTML page; 503 or 429 with Retry-After; closes the connection without
# an answer; never answers; 200 with a page that is no token response; refuses every refresh token, and spends none; or
# does its work and closes the connection before the answer, so that the token is spent.
TokenEndpointFault = Literal["ok", "error", "busy", "limited", "away", "hang", "garbage", "refuse", "lost"]
# In which words a dead refresh token is refused; `token_answers` has them.
RefusalWords = Literal[
    "invalid_grant",
    "invalid_request",
    "bad_refresh_token",
    "BAD_REFRESH_TOKEN",
    "invalid_refresh_token",
    "expired_token",
    "unprocessable",
]
# How a token response is written: as RFC 6749 has it; form-encoded; one level down; or behind a notice of PHP.
TokenShape = Literal["json", "form", "data", "authed_user", "notice"]
# Whether each renewal gives the refresh token its whole lifetime again, or its end stays where it was at setup.
RefreshEnd = Literal["sliding", "fixed"]
# The member of the token response that tells the refresh token's lifetime. RFC 6749 has none.
RefreshLifetimeName = Literal["refresh_expires_in", "refresh_token_expires_in", "x_refresh_token_expires_in", "untold"]

TOKEN_ENDPOINT_FAULTS: Final[tuple[str, ...]] = get_args(TokenEndpointFault)
REFUSAL_WORDS: Final[tuple[str, ...]] = get_args(RefusalWords)
TOKEN_SHAPES: Final[tuple[str, ...]] = get_args(TokenShape)
REFRESH_ENDS: Final[tuple[str, ...]] = get_args(RefreshEnd)
REFRESH_LIFETIME_NAMES: Final[tuple[str, ...]] = get_args(RefreshLifetimeName)


@dataclass(slots=True)
class Faults:
    """What is in force now. Seconds where it is a time."""

    token_lifetime: float = 3600.0  # of the access tokens issued from now on
    replication_lag: float = 0.0  # until the API accepts the access tokens issued from now on
    latency: float = 0.0  # before every answer
    unauthorized: int = 0  # so many API requests are answered 401 whatever their token is
    unauthorized_until: float = 0.0  # since the epoch; until then all of them are
    unauthorized_path: str = ""  # and always those on this path, or path template
    token_endpoint: TokenEndpointFault = "ok"
    times: int | None = None  # so many token requests meet that fault; None: until it is set to "ok"
    retry_after: int = 1  # what a busy or limited token endpoint asks for
    refusal: RefusalWords = "invalid_grant"
    refusal_status: int | None = None  # None: the usual one for these words
    token_status: int = 200  # of a token response
    token_type: str = "Bearer"
    token_shape: TokenShape = "json"
    refresh_lifetime: float = 0.0  # of the refresh tokens issued from now on; 0: no end
    refresh_end: RefreshEnd = "sliding"
    refresh_lifetime_name: RefreshLifetimeName = "refresh_expires_in"

    def refuses(self, path: bytes, now: float) -> bool:
        """Whether an API request on `path` is answered 401 whatever its token is. Counts it."""
        if now < self.unauthorized_until:
            return True
        if self.unauthorized_path and _matcher(self.unauthorized_path).fullmatch(path):
            return True
        if self.unauthorized == 0:
            return False
        self.unauthorized -= 1
        return True

    def take_token_endpoint(self) -> TokenEndpointFault:
        """What this token request meets. Counts it."""
        fault = self.token_endpoint
        if fault != "ok" and self.times is not None:
            self.times -= 1
            if self.times <= 0:
                self.token_endpoint, self.times = "ok", None
        return fault

    def terms(self) -> Terms:
        """What new tokens are issued on."""
        return Terms(
            lifetime=self.token_lifetime,
            lag=self.replication_lag,
            refresh_lifetime=self.refresh_lifetime or None,
            fixed_end=self.refresh_end == "fixed",
        )

    def in_force(self, now: float) -> dict[str, Any]:
        """All of it by the names of an order."""
        shown = asdict(self)
        shown["unauthorized_for"] = max(0.0, round(shown.pop("unauthorized_until") - now, 1))
        return shown


_matcher: Final = lru_cache(pattern)


class Order(BaseModel):
    """What `POST /sandbox/faults` takes, as JSON or as a form. What is left out stays as it is."""

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
        """The order for these values by name. Raises ValueError with a sentence for each that cannot be used."""
        try:
            return cls.model_validate(wanted)
        except ValidationError as error:
            raise ValueError(" ".join(map(_sentence, error.errors()))) from None

    def apply(self, faults: Faults, grants: Grants, now: float) -> None:
        """Puts the order into force."""
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
    """The order in a request's content. Raises ValueError with a sentence for a person."""
    text = await request.text()
    try:
        # curl -d calls everything a form, JSON too.
        wanted = json.loads(text) if text.lstrip().startswith("{") else _form(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"This is not JSON: {error}") from None
    order = Order.of(wanted)
    if not order.model_fields_set:
        raise ValueError(f"Say what to do, e.g. revoke=access. Known: {_known()}.")
    return order


def _form(text: str) -> dict[str, str]:
    """The values of a form. A number that is left empty is left out; an empty text is one."""
    pairs = parse_qsl(text, keep_blank_values=True)
    return {name: value for name, value in pairs if value or name in _MAY_BE_EMPTY}


def _sentence(problem: Mapping[str, Any]) -> str:
    """What is wrong with one value."""
    name = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"{name}: there is no such fault. Known: {_known()}."
    return f"{name}: {re.sub('^Value error, ', '', problem['msg'])}."


def _known() -> str:
    return ", ".join(Order.model_fields)
