"""What all commands share: the settings file, and whether an error shows its traceback."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from krebit_proxy.config import Settings

F = TypeVar("F", bound=Callable[..., Any])


@dataclass
class Invocation:
    """One call of the program."""

    config: Path | None = None
    debug: bool = False

    def settings(self) -> "Settings":
        """The settings of this call. Raises SettingsError.

        Removes our variables from the environment, so that no program started from here inherits a secret.
        """
        from krebit_proxy.config import find, is_setting, load  # help needs no settings

        environ = dict(os.environ)
        for name in filter(is_setting, environ):
            del os.environ[name]
        path = self.config or find(environ, Path())
        if path is not None and not path.is_absolute():
            Path.cwd()  # its absence is the better complaint than that of a file in it
        return load(path, environ)


class Seconds(click.FloatRange):
    """A time in seconds as an option."""

    name = "number of seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuses `nan`, which passes the range check."""
        seconds = super().convert(value, param, ctx)
        if isnan(seconds):
            self.fail(f"{value!r} is not a valid {self.name}.", param, ctx)
        return seconds


def common_options(command: F) -> F:
    """Adds `--config` and `--debug`. Both may come before or after the name of the command."""

    def remember(ctx: click.Context, option: click.Parameter, value: Any) -> None:
        if value:
            setattr(ctx.obj, str(option.name), value)

    path = click.Path(path_type=Path)
    config = click.option(
        "--config", type=path, metavar="PATH", expose_value=False, callback=remember, help="The settings file."
    )
    debug = click.option(
        "--debug", is_flag=True, expose_value=False, callback=remember, help="Show the traceback of an error."
    )
    return config(debug(command))


pass_invocation = click.make_pass_decorator(Invocation)
