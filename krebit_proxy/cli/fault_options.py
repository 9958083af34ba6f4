"""The flags that turn on faults of the sandbox from the start. `POST /sandbox/faults` uses the same names."""

from collections.abc import Callable
from functools import wraps
from typing import Any, Final

import click

from krebit_proxy.cli.invocation import Seconds
from krebit_proxy.sandbox import Order
from krebit_proxy.sandbox.faults import (
    REFRESH_ENDS,
    REFRESH_LIFETIME_NAMES,
    REFUSAL_WORDS,
    TOKEN_ENDPOINT_FAULTS,
    TOKEN_SHAPES,
)

_SECONDS: Final = Seconds(min=0, max=366 * 86400)
_OPTIONS: Final = (
    click.option("--replication-lag", type=_SECONDS, metavar="SECONDS",
                 help="Delay before the API accepts a new access token."),
    click.option("--unauthorized", type=click.IntRange(0), metavar="N", help="Answer N API requests with 401."),
    click.option("--unauthorized-for", type=_SECONDS, metavar="SECONDS",
                 help="Answer every API request with 401 for this long."),
    click.option("--unauthorized-path", metavar="PATH",
                 help="Always answer this path with 401. A template such as '/api/invoices/**' works too."),
    click.option("--token-endpoint", type=click.Choice(TOKEN_ENDPOINT_FAULTS), help="Fault of the token endpoint."),
    click.option("--times", type=click.IntRange(1), metavar="N",
                 help="Number of token requests that meet --token-endpoint. Default: all."),
    click.option("--retry-after", type=click.IntRange(0), metavar="SECONDS",
                 help="Retry-After of a busy or limited token endpoint."),
    click.option("--refusal", type=click.Choice(REFUSAL_WORDS), help="Error that refuses a dead refresh token."),
    click.option("--refusal-status", type=click.IntRange(200, 599), metavar="STATUS", help="Status of --refusal."),
    click.option("--token-status", type=click.IntRange(200, 299), metavar="STATUS", help="Status of a token response."),
    click.option("--token-type", metavar="TYPE", help="token_type of a token response."),
    click.option("--token-shape", type=click.Choice(TOKEN_SHAPES), help="Format of a token response."),
    click.option("--refresh-lifetime", type=_SECONDS, metavar="SECONDS",
                 help="Lifetime of a refresh token. 0: it never expires."),
    click.option("--refresh-end", type=click.Choice(REFRESH_ENDS),
                 help="sliding: each renewal extends the refresh token. fixed: none does."),
    click.option("--refresh-lifetime-name", type=click.Choice(REFRESH_LIFETIME_NAMES),
                 help="Member of a token response that holds the lifetime of the refresh token."),
)  # fmt: skip
_ELSEWHERE: Final = frozenset({"token_lifetime", "latency", "revoke"})  # defined by the commands, or not a flag
_NAMES: Final = frozenset(Order.model_fields) - _ELSEWHERE


def fault_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the flags to a command. It gets one argument `order` for all of them: None if no flag is given."""

    @wraps(command)
    def with_order(**given: Any) -> Any:
        wanted = {name: value for name in _NAMES if (value := given.pop(name)) is not None}
        try:
            order = Order.of(wanted) if wanted else None
        except ValueError as error:
            raise click.UsageError(str(error)) from None
        return command(order=order, **given)

    for option in reversed(_OPTIONS):
        with_order = option(with_order)
    return with_order
