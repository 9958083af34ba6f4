"""`krebit-proxy health`."""

import click

from krebit_proxy.cli.invocation import Invocation, common_options, pass_invocation


@click.command
@common_options
@pass_invocation
def health(invocation: Invocation) -> int:
    """Check that the proxy is running, for container probes.

    Asks /healthz at the address in the settings. Exit status: 0 if the proxy is running, otherwise 1.

    The grant does not count: a proxy that waits for setup is healthy, and a restart would not help. To check that the
    proxy is ready, use: krebit-proxy wait --for 0
    """
    from krebit_proxy.cli.running_proxy import ask

    return 0 if ask(invocation.settings(), "/healthz").status == 200 else 1
