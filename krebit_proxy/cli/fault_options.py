"""The flags that have the sandbox misbehave from the start. `POST /sandbox/faults` has the same names."""

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
                 help="Until the API accepts a new access token."),
    click.option("--unauthorized", type=click.IntRange(0), metavar="N", help="Reply so many API requests with 401."),
    click.option("--unauthorized-for", type=_SECONDS, metavar="SECONDS",
                 help="Reply all API requests with 401 for so long."),
    click.option("--unauthorized-path", metavar="PATH",
                 help="A path, or a template such as '/api/invoices/**', that always replies 401."),
    click.option("--token-endpoint", type=click.Choice(TOKEN_ENDPOINT_FAULTS), help="How the token endpoint behaves."),
    click.option("--times", type=click.IntRange(1), metavar="N",
                 help="So many token requests meet --token-endpoint; else all."),
    click.option("--retry-after", type=click.IntRange(0), metavar="SECONDS",
                 help="What a busy or limited token endpoint asks for."),
    click.option("--refusal", type=click.Choice(REFUSAL_WORDS), help="The words that refuse a dead refresh token."),
    click.option("--refusal-status", type=click.IntRange(200, 599), metavar="STATUS", help="The status with them."),
    click.option("--token-status", type=click.IntRange(200, 299), metavar="STATUS", help="Of a token response."),
    click.option("--token-type", metavar="TYPE", help="The token_type of a token response."),
    click.option("--token-shape", type=click.Choice(TOKEN_SHAPES), help="How a token response is written."),
    click.option("--refresh-lifetime", type=_SECONDS, metavar="SECONDS", help="Of a refresh token; 0: no end."),
    click.option("--refresh-end", type=click.Choice(REFRESH_ENDS),
                 help="Whether a renewal moves the end of the refresh token."),
    click.option("--refresh-lifetime-name", type=click.Choice(REFRESH_LIFETIME_NAMES),
                 help="The member of the token response that tells --refresh-lifetime."),
)  # fmt: skip
_ELSEWHERE: Final = frozenset({"token_lifetime", "latency", "revoke"})  # have flags of their own, or none
_NAMES: Final = frozenset(Order.model_fields) - _ELSEWHERE


def fault_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the flags. The command gets `order`: what they ask for, None without any."""

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
