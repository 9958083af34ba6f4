"""Turns a file and the environment into `Settings`, or into a list of all problems."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from itertools import takewhile
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from krebit_proxy.config.conflicts import cautions, conflicts
from krebit_proxy.config.document import PREFIX, Document, Key, Place, Problem, add_environment, dotted, read_file
from krebit_proxy.config.model import Settings
from krebit_proxy.config.names import SECRET, SECRET_FILE, lists, nearest, texts
from krebit_proxy.config.secrets import ABSENT, absent, doubt, exposure, file_problem, read_secret, replaceable
from krebit_proxy.core.way_out import WayOut
from krebit_proxy.errors import SettingsError
from krebit_proxy.ownership import open_folder
from krebit_proxy.trust import ca_file_problem

_ENCRYPTION: Final = ("encryption_key_file", "encryption_key")
_SECRETS: Final = (SECRET, "encryption_key")
_PLACEHOLDERS: Final[dict[str, Any]] = {"organization": "x", "client_id": "x", SECRET: "x"}
_TEXTS: Final = {
    "missing": "is missing",
    "string_type": "must be text; put it in quotes",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "path_type": "must be a file path",
    "tuple_type": "must be a list",
    "model_type": "must be a group of settings, each on its own line",
    "too_short": "must not be empty",
}


def find(environ: Mapping[str, str], directory: Path) -> Path | None:
    """The settings file to use without `--config`. None if there is none: then all settings are in the environment.

    Args:
        environ: the environment. `KREBIT_PROXY_CONFIG` names the file, even if it does not exist.
        directory: the working directory.
    """
    if named := environ.get(f"{PREFIX}CONFIG"):
        return directory / named
    home = environ.get("XDG_CONFIG_HOME") or f"{environ.get('HOME', '')}/.config"
    places = (directory, Path(home) / "krebit-proxy", Path("/etc/krebit-proxy"))
    return next((place / "config.yaml" for place in places if (place / "config.yaml").exists()), None)


def load(path: Path | None, environ: Mapping[str, str]) -> Settings:
    """Reads, checks and freezes the settings.

    Args:
        path: the settings file, or None.
        environ: the environment, which wins over the file.

    Raises:
        SettingsError: lists all problems, each with its place, setting and text.
    """
    document = read_file(path) if path else Document("environment")
    if document.problems and not document.values:  # all other problems would only follow from the unreadable file
        raise SettingsError(_lines(document.problems), hint=_hint(path))
    directory = path.resolve().parent if path else Path.cwd()
    in_file = {name: _given(document, name) for name in _SECRETS}
    if path and "encryption_key" in document.values and (problem := _strictly(path)):
        document.report(("encryption_key",), f"is in a file that is not private: {problem}")
    add_environment(document, environ, texts(), lists())
    _find_credential(document, environ)
    for name, given in in_file.items():
        _refuse_twice(document, name, given)
    _read_secret(document, path, directory)
    _make_absolute(document, directory)
    if path:
        document.caution((), replaceable(path))  # it names the servers, and a command to run
    settings = _validate(document).with_environment(WayOut.from_environment(environ))
    way = settings.way_out
    if way.problem and any(map(way.proxy_to, settings.destinations)):
        document.problems.append(Problem(Place(variable=True, line=0, name=way.source), "", way.problem))
    if document.problems:
        raise SettingsError(_lines(document.problems), hint=_hint(path))
    return settings.with_cautions(_lines(document.cautions))


def problems_of(values: dict[str, Any]) -> list[str]:
    """The problems of single values, before there is a settings file. Empty if there are none."""
    document = Document("", values=_PLACEHOLDERS | values)
    _validate(document)
    return [str(problem) for problem in document.problems]


def _hint(path: Path | None) -> str:
    if path is None:
        return "create a settings file with: krebit-proxy init"
    return "see config.example.yaml for all settings" if path.exists() else "create it with: krebit-proxy init"


def _lines(problems: list[Problem]) -> list[str]:
    return [str(problem) for problem in sorted(problems, key=attrgetter("where"))]


def _given(document: Document, name: str) -> list[tuple[str, Place]]:
    """Which of `name` and `name_file` are set, and where."""
    return [(key, document.place((key,))) for key in (name, f"{name}_file") if key in document.values]


def _refuse_twice(document: Document, name: str, in_file: list[tuple[str, Place]]) -> None:
    """Reports a secret that is set more than once: in a file of its own, in the settings file or in the environment."""
    given = [f"{key} ({place})" for key, place in dict.fromkeys([*in_file, *_given(document, name)])]
    if len(given) > 1:
        document.report((name,), f"is set more than once, by {' and by '.join(given)}; keep one of them")


def _read_secret(document: Document, path: Path | None, directory: Path) -> None:
    """Reads `client_secret_file` into `client_secret`, which is what the model expects."""
    values = document.values
    if SECRET_FILE in values:
        document.places[(SECRET,)] = document.place((SECRET_FILE,))
        file = _located(directory, str(values.pop(SECRET_FILE)))
        if absent(file):
            document.report((SECRET_FILE,), ABSENT)
            values[SECRET] = _PLACEHOLDERS[SECRET]
            return
        document.caution((SECRET_FILE,), exposure(file))
        document.caution((SECRET_FILE,), doubt(file))
        try:
            values[SECRET] = read_secret(file)
        except ValueError as error:
            document.report((SECRET_FILE,), str(error))
            values[SECRET] = _PLACEHOLDERS[SECRET]
    elif path and SECRET in values and not document.place((SECRET,)).variable:
        if problem := file_problem(path):
            document.report((SECRET,), f"is in a file that is not safe: {problem}")
        document.caution((SECRET,), exposure(path))
        document.caution((SECRET,), doubt(path))


def _find_credential(document: Document, environ: Mapping[str, str]) -> None:
    """Uses the key that systemd passes (LoadCredentialEncrypted=krebit-proxy-key) unless a setting names another."""
    file = Path(environ.get("CREDENTIALS_DIRECTORY", ""), "krebit-proxy-key")
    if file.is_absolute() and file.exists() and not any(document.values.get(key) for key in _ENCRYPTION):
        document.values[_ENCRYPTION[0]] = str(file)
        document.places[_ENCRYPTION[0],] = Place(variable=True, line=0, name="CREDENTIALS_DIRECTORY")


def _make_absolute(document: Document, directory: Path) -> None:
    """Makes paths absolute. They are relative to the settings file, not to the working directory. Checks the files."""
    for key, check in _CHECKS.items():
        section: Any = document.values
        for part in key[:-1]:
            section = section.get(part) if isinstance(section, dict) else None
        if isinstance(section, dict) and isinstance(value := section.get(key[-1]), str):
            section[key[-1]] = file = _located(directory, value)
            if absent(file):
                document.report(key, ABSENT)
                continue
            if (problem := check(file)) is not None:
                document.report(key, problem)
                continue
            if check is file_problem:
                document.caution(key, exposure(file))
            document.caution(key, doubt(file))
    store = document.values.get("store", "file:grant")
    if isinstance(store, str) and store.startswith("file:") and store != "file:":
        folder = _located(directory, store.removeprefix("file:"))
        document.values["store"] = f"file:{folder}"
        if (place := open_folder(folder.parent)) is not None:
            text = f"every user of this computer can write to {place}, and so move the grant away"
            document.caution(("store",), f"{text}; run: chmod o-w {place}")


def _located(directory: Path, name: str) -> Path:
    try:
        return directory / Path(name).expanduser()
    except RuntimeError:  # this user has no known home, so ~ is an ordinary name
        return directory / name


def _unreadable(file: Path) -> str | None:
    try:
        file.open("rb").close()
    except OSError as error:
        return f"{file} cannot be read: {error.strerror}"
    return None


def _strictly(file: Path) -> str | None:
    """For encryption keys: a file that others can read is refused, because they could decrypt every copy."""
    return file_problem(file) or exposure(file)


def _untrusted(file: Path) -> str | None:
    """For authorities: whoever can replace the file decides whom we trust."""
    return ca_file_problem(file) or replaceable(file)


# Every setting that is a path to a file, with the check of that file.
_CHECKS: Final[dict[Key, Callable[[Path], str | None]]] = {
    ("encryption_key_file",): _strictly,
    ("access", "client_keys_file"): file_problem,
    ("tls_key_file",): file_problem,
    ("upstream", "ca_file"): _untrusted,
    ("tls_cert_file",): _unreadable,
    ("tls_client_ca_file",): _untrusted,
}


def _validate(document: Document) -> Settings:
    """Validates everything. Invalid values get their defaults, so that the rules between settings check the rest."""
    failed: list[Key] = []
    try:
        settings = Settings.model_validate(document.values)
    except ValidationError as error:
        for detail in error.errors(include_url=False, include_input=False):
            failed.append(detail["loc"])
            document.report(detail["loc"], _text(detail, document.place(detail["loc"])))
        settings = Settings.model_validate(_without(document.values, failed))
    for key, text in conflicts(settings):
        if not any(bad[: len(key)] == key for bad in failed):
            document.report(key, text)
    for key, text in cautions(settings):
        document.caution(key, text)
    return settings


def _text(detail: ErrorDetails, place: Place) -> str:
    if detail["type"] == "extra_forbidden":
        name = nearest(dotted(detail["loc"]))
        spelt = f" ({PREFIX}{name.upper().replace('.', '__')})" if name and place.variable else ""
        return "is not a setting" + (f"; did you mean {name}{spelt}?" if name else "")
    if detail["type"] == "literal_error":
        return f"must be {detail['ctx']['expected']}"
    return _TEXTS.get(detail["type"], detail["msg"].replace("Input should", "must").replace("greater", "more"))


def _without(values: dict[str, Any], failed: list[Key]) -> dict[str, Any]:
    """A copy of `values` without those that failed, so that they get their defaults."""
    rest = deepcopy(values)
    for key in failed:
        section: Any = rest
        names = list(takewhile(lambda part: isinstance(part, str), key))
        for name in names[:-1]:
            section = section.get(name, {})
        if names:
            section.pop(names[-1], None)
    return _PLACEHOLDERS | rest
