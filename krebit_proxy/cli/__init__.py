"""The command line. Each command has its own module, which is loaded when the command is used.

Only this floor reads argv and the environment. `main` alone turns an error into an exit status and two lines: what is
wrong, and what to do.
"""

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import Final

import click

from krebit_proxy import __version__
from krebit_proxy.cli import terminal
from krebit_proxy.cli.invocation import Invocation, common_options
from krebit_proxy.errors import ProxyError, SettingsError

DONE: Final = 0
FAILED: Final = 1
WRONG_USE: Final = 2

_CHECK: Final = "run `krebit-proxy check`"
_TO_DO: Final = {
    errno.EEXIST: "move it, or choose another name",
    errno.ENOENT: "create its folder first, or choose another path",
    errno.ENOTDIR: "choose another path",
    errno.EACCES: "check its owner and permissions, or choose another path",
    errno.EROFS: "choose a path on a writable disk",
    errno.ENOSPC: "free some disk space",
}

# In the order in which a new user needs them.
COMMANDS: Final = {
    "demo": "Try the proxy with a stand-in for Krebit, without any settings.",
    "init": "Write a settings file.",
    "check": "Check that everything is in place.",
    "run": "Start the proxy in the foreground.",
    "setup": "Authorize the proxy once, in a browser.",
    "status": "Show the state of the grant.",
    "wait": "Wait until the proxy is ready.",
    "health": "Check that the proxy is running, for container probes.",
    "notify": "Send a test message.",
    "policy": "Find out which requests your tools send, and allow only those.",
    "key": "Create and rotate the keys that encrypt the grant.",
    "grant": "Move the grant to another machine, or import one.",
    "logout": "Delete the grant.",
    "sandbox": "Start only the stand-in for Krebit.",
}


class _Commands(click.Group):
    """Lists the commands without loading them."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # click calls it
        """In the order of `COMMANDS`."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports the module of the command. None if there is no such command."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"krebit_proxy.cli.{cmd_name}"), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Uses the summaries in `COMMANDS`, so that no module is imported."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


# \b keeps click from joining the lines of the paragraph.
_HELP: Final = """Adds OAuth tokens to Krebit API requests, for tools that cannot log in.

\b
The settings file is the first of these:
  --config PATH
  $KREBIT_PROXY_CONFIG
  ./config.yaml
  $XDG_CONFIG_HOME/krebit-proxy/config.yaml
  /etc/krebit-proxy/config.yaml

Environment variables win over the file, for example KREBIT_PROXY_CLIENT_ID.

Exit status: 0 success, 1 failure, 2 wrong usage or invalid settings.
"""


@click.group(
    cls=_Commands, help=_HELP, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, message="%(prog)s %(version)s")
@common_options
def _krebit_proxy() -> None:
    """Runs the command that is named."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status. `argv` does not include the program's name."""
    _have_streams()
    # It names a file for the keys of TLS, with which everybody who sees the network could read the tokens. Python
    # opens the file for each context, and aiohttp makes one when it is imported.
    os.environ.pop("SSLKEYLOGFILE", None)
    invocation = Invocation()
    try:
        result = _krebit_proxy.main(argv, prog_name="krebit-proxy", standalone_mode=False, obj=invocation)
    except Exception as error:  # no error gets past here
        if invocation.debug:
            traceback.print_exc()
        return _report(error)
    except KeyboardInterrupt:
        return FAILED
    return result if isinstance(result, int) else DONE


def _have_streams() -> None:
    """Opens /dev/null for each of standard input, output and error that the parent process has closed.

    Otherwise a file or a socket gets that number. We would print into it, and libuv ends the process when it is closed.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # for the length of the process
    sys.stderr = sys.stderr or open(os.devnull, "w")


def _report(error: Exception) -> int:
    """Prints what is wrong and what to do. Returns the exit status."""
    if _is_without_folder(error):
        error = ProxyError("the working folder no longer exists", hint="change to another folder (cd)")
    match error:
        case click.exceptions.Abort():
            terminal.complain("stopped")
        case click.exceptions.NoArgsIsHelpError():
            terminal.note(error.format_message())
            return WRONG_USE
        case click.UsageError():
            path = error.ctx.command_path if error.ctx else "krebit-proxy"
            terminal.complain(error.format_message(), hint=f"run `{path} --help`")
            return WRONG_USE
        case click.ClickException():
            terminal.complain(error.format_message())
        case SettingsError():
            terminal.complain(*error.problems, hint=error.hint)
            return WRONG_USE
        case ProxyError():
            terminal.complain(error.detail, hint=error.hint)
        case OSError():
            what = error.strerror or str(error)
            named = f"{error.filename}: {what}" if error.filename else what
            terminal.complain(named, hint=_TO_DO.get(error.errno or 0, _CHECK))
        case _:
            what = f"internal error: {type(error).__name__}"
            terminal.complain(what, hint="run it again with --debug, and report the output")
    return FAILED


def _is_without_folder(error: Exception) -> bool:
    """Whether it failed because the folder in which it was started was deleted, or its file system went away."""
    match error:
        case OSError(filename=str() | PathLike() as name):
            relative = not Path(name).is_absolute()
        case OSError(filename=None):
            relative = True
        case click.BadParameter(param=click.Parameter(type=click.Path())):
            relative = True
        case _:
            relative = False
    if relative:
        try:
            Path.cwd()
        except OSError:
            return True
    return False


if __name__ == "__main__":
    sys.exit(main())
