"""`krebit-proxy policy`."""

from pathlib import Path

import click

from krebit_proxy.cli import terminal
from krebit_proxy.cli.invocation import Invocation, common_options, pass_invocation


@click.group
@common_options
def policy() -> None:
    """Find out which requests your tools send, and allow only those.

    `krebit-proxy run --observe FILE` records the requests. `policy suggest FILE` prints the rules that allow exactly
    these. `policy test` shows whether the rules in the settings allow one request.
    """


@policy.command
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@common_options
def suggest(file: Path) -> int:
    """Print the `access.allow` rules for the requests recorded in FILE.

    Review the rules, then paste them into the settings. A rule names clients only if not all clients need it.
    """
    from krebit_proxy.web.observer import read_observations

    lines = read_observations(file).suggested()
    if not lines:
        terminal.complain(f"{file} contains no requests", hint="use your tools while `run --observe` is running")
        return 1
    for line in ("access:", "  allow:", *[f"    - {line}" for line in lines]):
        terminal.say(line)
    return 0


@policy.command
@click.argument("method")
@click.argument("path")
@click.option("--caller", metavar="NAME", help="Name of the client key that sends the request.")
@common_options
@pass_invocation
def test(invocation: Invocation, method: str, path: str, caller: str | None) -> int:
    """Show whether the proxy would forward a request, and why.

    For example: krebit-proxy policy test GET /api/invoices/17

    Exit status: 0 if it would forward the request, otherwise 1.
    """
    from krebit_proxy.core.admission import allowed_by, check_method
    from krebit_proxy.core.target import encoded_letters, upstream_target
    from krebit_proxy.errors import Refused
    from krebit_proxy.web.admission import access_rules

    rules = access_rules(invocation.settings())
    verb = method.upper().encode("ascii", "replace")
    try:
        target = upstream_target(encoded_letters(path.encode("utf-8", "surrogateescape")))
        check_method(verb)
        names = list(rules.keys.values())
        if names and caller not in names:
            raise Refused("client_key_required", "No client key is given.", hint=f"use --caller {' or '.join(names)}")
        line = allowed_by(rules, caller or "loopback", verb, target.partition(b"?")[0])
    except Refused as refusal:
        terminal.complain(f"refused with {refusal.status} {refusal.code}: {refusal.detail}", hint=refusal.hint)
        return 1
    terminal.say(f"Forwarded: {line.text}." if line else "Forwarded: access.allow is empty.")
    if rules.require_header:
        terminal.say(f"It needs the header {rules.require_header.decode()} (access.require_header).")
    return 0
