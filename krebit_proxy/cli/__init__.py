"""The command line. Each command has its own module, which is loaded when the command is used.

This floor alone reads argv and the environment. `main` is the one place where errors become an exit code and two
lines: what is wrong, and what to do.
"""

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import Final

import click

from krebit_proxy import __version__
from krebit_proxy.cli import terminal
from krebit_proxy.cli.invocation import Invocation, common_options
from krebit_proxy.errors import ProxyError, SettingsError

DONE: Final = 0
FAILED: Final = 1
WRONG_USE: Final = 2

_LOOK_AROUND: Final = "krebit-proxy check looks at the surroundings"
_TO_DO: Final = {
    errno.EEXIST: "move it away, or choose another name",
    errno.ENOENT: "make its folder first, or choose another place",
    errno.ENOTDIR: "choose another place",
    errno.EACCES: "look at its owner and its mode, or choose another place",
    errno.EROFS: "choose a place that can be written",
    errno.ENOSPC: "make room on the disk",
}

# In the order in which a person meets them.
COMMANDS: Final = {
    "demo": "Try it out: sandbox and proxy together, nothing to configure.",
    "init": "Write a settings file by asking, or from flags.",
    "check": "Look whether everything is in place, and say what is not.",
    "run": "Start the proxy in the foreground.",
    "setup": "Authorize the proxy in a browser, once.",
    "status": "Show the state of the grant.",
    "wait": "Wait until requests are authenticated.",
    "health": "Probe whether the proxy serves, for containers.",
    "policy": "Find out which requests callers need, and allow no others.",
    "key": "Make and change the keys that encrypt the stored grant.",
    "grant": "Move the grant from one machine to another, or in from another program.",
    "logout": "Forget the grant.",
    "sandbox": "Start the stand-in for Krebit alone.",
}


class _Commands(click.Group):
    """Lists the commands without loading them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands, in the order in which a person meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command called `cmd_name`, loaded only now; None if there is none."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"krebit_proxy.cli.{cmd_name}"), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes all commands into the help, in that order, without loading them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="%(prog)s %(version)s")
@common_options
def _krebit_proxy() -> None:
    """Lets tools without any authentication use Krebit's API through localhost.

    The settings come from --config, else $KREBIT_PROXY_CONFIG, ./config.yaml,
    $XDG_CONFIG_HOME/krebit-proxy/config.yaml or /etc/krebit-proxy/config.yaml; each may also come from the
    environment, e.g. KREBIT_PROXY_CLIENT_ID.

    Exit status: 0 done, 1 failed, 2 wrong use or wrong settings.
    """


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command. Takes the arguments without the program's name, and returns the exit status."""
    _have_streams()
    invocation = Invocation()
    try:
        result = _krebit_proxy.main(argv, prog_name="krebit-proxy", standalone_mode=False, obj=invocation)
    except Exception as error:  # the last stop before the person
        if invocation.debug:
            traceback.print_exc()
        return _report(error)
    except KeyboardInterrupt:
        return FAILED
    return result if isinstance(result, int) else DONE


def _have_streams() -> None:
    """Leads to nowhere what the caller has closed of standard input, output and error.

    Else a file or a socket would get its number: something might be printed into it, and libuv ends the process when
    it is closed.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # for the length of the process
    sys.stderr = sys.stderr or open(os.devnull, "w")


def _report(error: Exception) -> int:
    """Says what is wrong and what to do, and returns the exit status for it."""
    match error:
        case click.exceptions.Abort():
            terminal.complain("stopped")
        case click.exceptions.NoArgsIsHelpError():
            terminal.note(error.format_message())
            return WRONG_USE
        case click.UsageError():
            path = error.ctx.command_path if error.ctx else "krebit-proxy"
            terminal.complain(error.format_message(), hint=f"{path} --help shows what can be used")
            return WRONG_USE
        case click.ClickException():
            terminal.complain(error.format_message())
        case SettingsError():
            terminal.complain(*error.problems, hint=error.hint)
            return WRONG_USE
        case ProxyError():
            terminal.complain(error.detail, hint=error.hint)
        case OSError():
            what, _, to_do = (error.strerror or str(error)).partition("; ")
            named = f"{error.filename}: {what}" if error.filename else what
            terminal.complain(named, hint=to_do or _TO_DO.get(error.errno or 0, _LOOK_AROUND))
        case _:
            what = f"{type(error).__name__}, a mistake in krebit-proxy itself"
            terminal.complain(what, hint="repeat it with --debug, and report what it prints")
    return FAILED


if __name__ == "__main__":
    sys.exit(main())
