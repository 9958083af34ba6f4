"""Records which requests callers make, for `krebit-proxy run --observe`.

The file holds path templates. `krebit-proxy policy` turns it into rules that allow just these requests.
"""

import asyncio
from pathlib import Path
from typing import Final

import structlog

from krebit_proxy.core.policy import Observations
from krebit_proxy.core.target import origin_form
from krebit_proxy.errors import SettingsError
from krebit_proxy.files import replace
from krebit_proxy.web.call import Call

_log: Final = structlog.get_logger()
_PAUSE: Final = 5.0  # seconds between two writes


def read_observations(path: Path) -> Observations:
    """The observations of an earlier run, empty if there is no file. Raises SettingsError if it is unreadable."""
    try:
        return Observations.from_json(path.read_text("utf-8"))
    except FileNotFoundError:
        return Observations()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        hint = "use a file of an earlier `krebit-proxy run --observe`, or a new file name"
        raise SettingsError([f"{path} cannot be read as observations: {reason}"], hint=hint) from None


class Observer:
    """Counts successful requests by path template, method and caller, and keeps the counts in a file. No queries."""

    def __init__(self, path: Path) -> None:
        """Adds to an existing file. Raises SettingsError if it is unreadable, OSError if it cannot be written."""
        self._path = path
        self._observations = read_observations(path)
        self._later: asyncio.TimerHandle | None = None
        self._write()
        _log.warning("policy.observing", path=str(path), hint="access.read_only and access.allow are not enforced now")

    def __call__(self, call: Call) -> None:
        """Counts a finished call, if Krebit answered it with success or a redirect."""
        request, outcome, caller = call.request, call.outcome, call.caller
        if request.page or outcome.code or caller is None or caller.preflight or not 100 < outcome.status < 400:
            return
        path = origin_form(request.target)[0].partition(b"?")[0]
        self._observations.add(request.method.decode("ascii"), path, caller.name)
        if self._later is None:
            self._later = asyncio.get_running_loop().call_later(_PAUSE, self._write_later)

    def close(self) -> None:
        """Writes the last changes."""
        if self._later is not None:
            self._later.cancel()
            self._write()

    def _write_later(self) -> None:
        try:
            self._write()
        except OSError as error:
            _log.warning("policy.not_written", path=str(self._path), reason=error.strerror)

    def _write(self) -> None:
        """Replaces the whole file. It is small: `Observations` limits its size."""
        self._later = None
        replace(self._path, self._observations.to_json())
