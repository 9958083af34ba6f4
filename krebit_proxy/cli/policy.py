"""`krebit-proxy policy`."""

from pathlib import Path

import click

from krebit_proxy.cli import terminal
from krebit_proxy.cli.invocation import Invocation, common_options, pass_invocation


@click.group
@common_options
def policy() -> None:
    """Find out which requests callers need, and allow no others.

    `krebit-proxy run --observe FILE` writes down what callers use; `policy suggest FILE` prints the rules that allow
    just that; `policy test` tells what the rules in the settings make of one request.
    """


@policy.command
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@common_options
def suggest(file: Path) -> int:
    """Print the `access.allow` rules for what was observed in FILE.

    Look them over, and paste them into the settings. They name a caller only where not all callers do the same.
    """
    from krebit_proxy.web.observer import read_observations

    lines = read_observations(file).suggested()
    if not lines:
        terminal.complain(f"{file} has no request", hint="let the tools do their work while the proxy observes")
        return 1
    for line in ("access:", "  allow:", *[f"    - {line}" for line in lines]):
        terminal.say(line)
    return 0


@policy.command
@click.argument("method")
@click.argument("path")
@click.option("--caller", metavar="NAME", help="Whose request it is: the name of a client key.")
@common_options
@pass_invocation
def test(invocation: Invocation, method: str, path: str, caller: str | None) -> int:
    """Tell whether a request would be forwarded, and why. Exits 1 if not.

    For example: krebit-proxy policy test GET /api/invoices/17
    """
    from krebit_proxy.core.admission import allowed_by, check_method
    from krebit_proxy.core.target import upstream_target
    from krebit_proxy.errors import Refused
    from krebit_proxy.web.admission import access_rules

    rules = access_rules(invocation.settings())
    verb = method.upper().encode("ascii", "replace")
    try:
        target = upstream_target(path.encode("utf-8", "surrogateescape"))
        check_method(verb)
        names = [name for name, _ in rules.keys]
        if names and caller not in names:
            raise Refused("client_key_required", "This caller has no key.", hint=f"use --caller {' or '.join(names)}")
        line = allowed_by(rules, caller or "loopback", verb, target.partition(b"?")[0])
    except Refused as refusal:
        terminal.complain(f"refused with {refusal.status} {refusal.code}: {refusal.detail}", hint=refusal.hint)
        return 1
    terminal.say(f"Forwarded: {line.text}." if line else "Forwarded: no rule of access.allow limits requests.")
    if rules.require_header:
        terminal.say(f"It needs the field {rules.require_header.decode()}, by access.require_header.")
    return 0
