"""`krebit-proxy health`."""

import click

from krebit_proxy.cli.invocation import Invocation, common_options, pass_invocation


@click.command
@common_options
@pass_invocation
def health(invocation: Invocation) -> int:
    """Probe whether the proxy serves, for containers.

    Asks /healthz at the address that the settings say the proxy listens on. Exit status 0 if it serves, else 1. It
    says nothing about the grant: a proxy that waits for its setup is healthy, and restarting it would not help. For
    readiness use: krebit-proxy wait --for 0
    """
    from krebit_proxy.cli.running_proxy import ask

    return 0 if ask(invocation.settings(), "/healthz").status == 200 else 1
