"""Faults on demand: what may be ordered, what is in force, and how it looks to a client."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args
from urllib.parse import parse_qsl

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, ValidationError

from krebit_proxy.sandbox.grants import Grants

# What the token endpoint does: works; 500 with an HTML page; 503 with Retry-After; never answers; 200 with a page that
# is no token response; or does its work and closes the connection before the answer, so that the token is spent.
TokenEndpointFault = Literal["ok", "error", "busy", "hang", "garbage", "lost"]
TOKEN_ENDPOINT_FAULTS: tuple[str, ...] = get_args(TokenEndpointFault)

_PAGE = "<!doctype html><title>{0}</title><h1>{0}</h1>"


@dataclass(slots=True)
class Faults:
    """What is in force now. Seconds where it is a time."""

    token_lifetime: float = 3600.0  # of the access tokens issued from now on
    latency: float = 0.0  # before every answer
    unauthorized: int = 0  # so many API requests are answered 401 whatever their token is
    token_endpoint: TokenEndpointFault = "ok"
    times: int | None = None  # so many token requests meet that fault; None: until it is set to "ok"

    def take_unauthorized(self) -> bool:
        """Whether this API request shall be answered 401."""
        if self.unauthorized == 0:
            return False
        self.unauthorized -= 1
        return True

    def take_token_endpoint(self) -> TokenEndpointFault:
        """What this token request shall meet."""
        fault = self.token_endpoint
        if fault != "ok" and self.times is not None:
            self.times -= 1
            if self.times <= 0:
                self.token_endpoint, self.times = "ok", None
        return fault


class Order(BaseModel):
    """What `POST /sandbox/faults` takes, as JSON or as a form. What is left out stays as it is."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    token_lifetime: PositiveFloat | None = None
    latency: NonNegativeFloat | None = None
    unauthorized: NonNegativeInt | None = None
    token_endpoint: TokenEndpointFault | None = None
    times: int | None = Field(default=None, ge=1)
    revoke: Literal["access", "refresh", "all"] | None = None

    def apply(self, faults: Faults, grants: Grants) -> None:
        """Puts the order into force."""
        wanted = self.model_dump(exclude_none=True, exclude={"revoke"})
        if self.token_endpoint is not None:
            wanted["times"] = self.times
        for name, value in wanted.items():
            setattr(faults, name, value)
        if self.revoke is not None:
            grants.revoke_all(access=self.revoke != "refresh", refresh=self.revoke != "access")


async def read_order(request: web.BaseRequest) -> Order:
    """The order in a request's content. Raises ValueError with a sentence for a person."""
    text = await request.text()
    try:
        # curl -d calls everything a form, JSON too.
        wanted = json.loads(text) if text.lstrip().startswith("{") else dict(parse_qsl(text))
        order = Order.model_validate(wanted)
    except ValidationError as error:
        raise ValueError("; ".join(f"{_key(problem)}: {problem['msg']}" for problem in error.errors())) from None
    except json.JSONDecodeError as error:
        raise ValueError(f"This is not JSON: {error}") from None
    if not order.model_fields_set:
        raise ValueError(f"Say what to do, e.g. revoke=access. Known: {', '.join(Order.model_fields)}.")
    return order


def _key(problem: Mapping[str, Any]) -> str:
    return ".".join(str(part) for part in problem["loc"]) or "order"


async def broken_answer(fault: TokenEndpointFault) -> web.Response:
    """The answer of a token endpoint that does not work and has spent nothing; for "hang" it never comes."""
    if fault == "hang":
        await asyncio.Event().wait()
    if fault == "busy":
        return _page("Service Unavailable", status=503, headers={"Retry-After": "1"})
    if fault == "garbage":
        return _page("Please sign in to the network", status=200)
    return _page("Internal Server Error", status=500)


def _page(title: str, *, status: int, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(text=_PAGE.format(title), content_type="text/html", status=status, headers=headers)
