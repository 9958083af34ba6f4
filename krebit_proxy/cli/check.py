"""`krebit-proxy check`."""

import click

from krebit_proxy.cli import terminal
from krebit_proxy.cli.invocation import Invocation, common_options, pass_invocation


@click.command
@common_options
@pass_invocation
def check(invocation: Invocation) -> int:
    """Look whether everything is in place, and say what is not.

    First every setting, then the surroundings: name resolution, connection and TLS to Krebit, the clock, the address
    to listen on, the redirect URI, and whether the store can be read, written and locked. Nothing is changed, but
    that a new database gets its tables, and no token is spent. Exit status 0 if all is well, 1 if something is not, 2
    if the settings are wrong.
    """
    from krebit_proxy.cli.checks import findings
    from krebit_proxy.web.admission import access_rules
    from krebit_proxy.web.tls import server_certificate

    settings = invocation.settings()
    access_rules(settings), server_certificate(settings)  # what is in the files that they name
    terminal.tick("settings: all of them can work")
    for caution in settings.cautions:
        terminal.tick(f"settings: {caution}", held=False)
    well = not settings.cautions
    for finding in findings(settings):
        well = well and finding.held
        terminal.tick(finding.text, held=finding.held, hint=finding.hint)
    return 0 if well else 1
