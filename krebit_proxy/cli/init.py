"""`krebit-proxy init`."""

import sys
from pathlib import Path
from typing import Final

import click

from krebit_proxy.cli import terminal
from krebit_proxy.cli.invocation import Invocation, common_options, pass_invocation
from krebit_proxy.errors import ProxyError, SettingsError
from krebit_proxy.files import create

_SECRET_FILE: Final = "client-secret"
_DEFAULT_LISTEN: Final = "localhost:8321"


@click.command
@click.option("--organization", metavar="NAME", help="The word before .krebit.se.")
@click.option("--client-id", metavar="ID", help="Client id of your app.")
@click.option("--client-secret-file", type=click.Path(path_type=Path), metavar="PATH",
              help="File with the client secret. Without it, init asks for the secret.")  # fmt: skip
@click.option(
    "--redirect-uri", metavar="URI", help="Redirect URI of your app.  [default: http://localhost:PORT/setup/callback]"
)
@click.option("--listen", metavar="ADDRESS", default=_DEFAULT_LISTEN, show_default=True, help="Address to listen on.")
@common_options
@pass_invocation
def init(
    invocation: Invocation,
    *,
    organization: str | None,
    client_id: str | None,
    client_secret_file: Path | None,
    redirect_uri: str | None,
    listen: str,
) -> None:
    """Write a settings file.

    Asks for each value that no option gives. Writes config.yaml, or the file from --config, and the client secret in
    a second file beside it. Only you can read these files. init never overwrites a file.
    """
    path = invocation.config or Path("config.yaml")
    secret_path = path.parent / _SECRET_FILE
    for taken in (path, *([] if client_secret_file else [secret_path])):
        if taken.exists():
            raise ProxyError(f"{taken} already exists", hint="move it, or choose another path with --config")
    flags = {"organization": organization, "client_id": client_id, "redirect_uri": redirect_uri, "listen": listen}
    _check({name: value for name, value in flags.items() if value is not None})
    values = {"organization": organization or _answer("organization", "Organization (the word before .krebit.se)")}
    values["client_id"] = client_id or _answer("client_id", "Client id")
    secret = None if client_secret_file else _answer("client_secret", "Client secret (not shown)", hidden=True)
    default = f"http://localhost:{_port(listen)}/setup/callback"
    values["redirect_uri"] = redirect_uri or _answer("redirect_uri", "Redirect URI", default=default)
    if listen != _DEFAULT_LISTEN:
        values["listen"] = listen
    values["client_secret_file"] = str(client_secret_file.absolute() if client_secret_file else _SECRET_FILE)
    _write(path, values, secret_path, secret)
    terminal.say(f"Wrote {path}." if client_secret_file else f"Wrote {path} and {secret_path}.")
    _next_steps(path, values)


def _check(flags: dict[str, str]) -> None:
    from krebit_proxy.config.load import problems_of

    if problems := problems_of(flags):
        raise SettingsError(problems, hint="run `krebit-proxy init --help`")


def _port(listen: str) -> int:
    """The port for the redirect URI: the one of `listen`, or 8321 if that is not a fixed TCP port."""
    from krebit_proxy.config.addresses import split_listen

    tcp = split_listen(listen)
    return tcp[1] if tcp and tcp[1] else 8321


def _answer(name: str, question: str, *, default: str | None = None, hidden: bool = False) -> str:
    """Asks until the answer is a valid value of the setting `name`."""
    from krebit_proxy.config.load import problems_of

    while True:
        answer = str(_ask(question, default=default, hidden=hidden)).strip()
        if not (problems := problems_of({name: answer})):
            return answer
        terminal.complain(problems[0])


def _ask(question: str, *, default: str | None, hidden: bool) -> str:
    if hidden and not sys.stdin.isatty():  # click hides input on the terminal, but the secret comes from a pipe
        line = sys.stdin.readline()
        if not line:
            raise click.Abort
        return line
    answer: str = click.prompt(question, default=default, hide_input=hidden)
    return answer


def _write(path: Path, values: dict[str, str], secret_path: Path, secret: str | None) -> None:
    """Writes both files or none."""
    import yaml

    text = "# Settings of krebit-proxy. For all settings and their defaults, see config.example.yaml.\n\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    if secret is not None:
        create(secret_path, secret + "\n")
    try:
        create(path, text + yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
    except OSError:
        if secret is not None:
            secret_path.unlink()
        raise


def _next_steps(path: Path, values: dict[str, str]) -> None:
    option = "" if path == Path("config.yaml") else f" --config {path}"
    terminal.say()
    terminal.say("Register exactly this redirect URI in your app at")
    terminal.say(f"https://{values['organization']}.krebit.se/developer/my-apps")
    terminal.say(f"    {values['redirect_uri']}")
    terminal.say()
    terminal.say("Then:")
    terminal.say(f"    krebit-proxy check{option}      checks that everything is in place")
    terminal.say(f"    krebit-proxy run{option}        starts the proxy")
    terminal.say(f"    krebit-proxy setup{option}      authorizes it once; run it in another window")
