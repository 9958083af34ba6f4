"""`krebit-proxy check`."""

import click

from krebit_proxy.cli import terminal
from krebit_proxy.cli.invocation import Invocation, common_options, pass_invocation


@click.command
@common_options
@pass_invocation
def check(invocation: Invocation) -> int:
    """Check that everything is in place.

    Checks all settings. Then checks DNS, the connection to Krebit and its TLS certificate, the clock, the listening
    address, the redirect URI, and that the store can be read, written and locked.

    Also asks the running proxy about its grant, and checks notify.webhook and notify.command. Sends no message.

    Changes nothing and uses no token, but creates the tables in a new database.

    Exit status: 0 all is well, 1 a check failed, 2 invalid settings.
    """
    from krebit_proxy.cli.checks import findings
    from krebit_proxy.stores import store_cautions
    from krebit_proxy.web.admission import access_rules, key_cautions
    from krebit_proxy.web.tls import server_certificate

    settings = invocation.settings()
    access_rules(settings), server_certificate(settings)  # raise SettingsError for invalid keys and certificates
    terminal.tick("settings: valid")
    cautions = [*settings.cautions, *key_cautions(settings), *store_cautions(settings)]
    for caution in cautions:
        terminal.tick(f"settings: {caution}", held=False)
    well = not cautions
    for finding in findings(settings):
        well = well and finding.held
        terminal.tick(finding.text, held=finding.held, hint=finding.hint)
    return 0 if well else 1
