"""Reads the settings as they are written, and remembers the file and line, or the variable, of each one."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from krebit_proxy.config.names import sections

Key = tuple[str | int, ...]

PREFIX: Final = "KREBIT_PROXY_"
# Quoted text in an error of YAML. After "expected" it is YAML's own syntax, otherwise a part of the file.
_QUOTED: Final = re.compile(r"""((?:expected|or) )?(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")""")
# If a service is called krebit-proxy, Kubernetes sets such variables in every container. They are not settings.
_SERVICE_LINK: Final = re.compile(r"SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?")


def is_setting(variable: str) -> bool:
    """Whether a variable may contain a setting, and so a secret. KREBIT_PROXY_CONFIG is only the name of the file."""
    return variable.startswith(PREFIX) and variable != f"{PREFIX}CONFIG"


@dataclass(frozen=True, order=True)
class Place:
    """Where a setting is. Places sort in reading order: the lines of the file, then the variables."""

    variable: bool
    line: int  # 0: none
    name: str  # of the file or the variable

    def __str__(self) -> str:
        return f"{self.name}:{self.line}" if self.line else self.name


@dataclass(frozen=True)
class Problem:
    """One problem with one setting. `str` gives the line for people: `config.yaml:3: listen: is missing`."""

    where: Place
    key: str
    text: str

    def __str__(self) -> str:
        return ": ".join(part for part in (str(self.where), self.key, self.text) if part)


@dataclass
class Document:
    """The settings as nested dicts and lists, with their places and problems. `cautions` do not stop the start."""

    name: str  # of the file, or "environment"
    values: dict[str, Any] = field(default_factory=dict)
    places: dict[Key, Place] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    cautions: list[Problem] = field(default_factory=list)

    def at(self, line: int) -> Place:
        return Place(variable=False, line=line, name=self.name)

    def place(self, key: Key) -> Place:
        """Where `key` is. If that is unknown, where the section around it is."""
        while key and key not in self.places:
            key = key[:-1]
        return self.places.get(key) or self.at(0)

    def report(self, key: Key, text: str) -> None:
        self.problems.append(Problem(self.place(key), dotted(key), text))

    def caution(self, key: Key, text: str | None) -> None:
        """Adds a caution: the setting works, but needs attention. Does nothing if `text` is None."""
        if text is not None:
            self.cautions.append(Problem(self.place(key), dotted(key), text))


def dotted(key: Key) -> str:
    """The name of a setting as people write it: `access.allow[0].methods`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key).removeprefix(".")


def read_file(path: Path) -> Document:
    """Reads a YAML file. Errors become problems of the document."""
    document = Document(str(path))
    try:
        loader = _Loader(path.read_text(encoding="utf-8"))
    except OSError as error:
        document.report((), f"cannot be read: {error.strerror}")
    except (UnicodeDecodeError, yaml.reader.ReaderError):
        document.report((), "is not UTF-8 text")
    else:
        _Reading(document, loader).read()
    return document


class _Loader(yaml.SafeLoader):
    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        """The next node. Raises MarkedYAMLError for an alias: with aliases, a small file could become huge."""
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(None, None, "* starts an alias; put the value in quotes", mark)
        return super().compose_node(parent, index)


class _Reading:
    """Walks the nodes of one file. YAML's own constructor forgets the places, and accepts a key twice."""

    _PLAIN: Final = frozenset({"null", "bool", "int", "float", "str"})

    def __init__(self, document: Document, loader: _Loader, variable: str = "") -> None:
        """`variable`: the name of the one that is read. Empty: the document's file is."""
        self._document = document
        self._loader = loader
        self._variable = variable

    def read(self) -> None:
        """Fills the document with values, places and problems."""
        try:
            root = self._loader.get_single_node()
        except yaml.MarkedYAMLError as error:
            self._document.problems.append(self._problem(error))
            return
        except RecursionError:
            self._document.report((), "is nested too deeply")
            return
        if isinstance(root, MappingNode):
            self._document.values = self._mapping(root, ())
        elif root is not None:
            self._document.report((), "must contain settings in the form `name: value`")

    def _problem(self, error: yaml.MarkedYAMLError) -> Problem:
        mark = error.problem_mark
        at_tab = mark is not None and mark.buffer is not None and mark.buffer[mark.pointer] == "\t"
        advice = "; indent with spaces, not with tabs" if at_tab else ""
        reason = _QUOTED.sub(lambda quoted: quoted[0] if quoted[1] else "…", error.problem or "")  # hides secrets
        return Problem(self._document.at(mark.line + 1 if mark else 1), "", f"invalid YAML: {reason}{advice}")

    def read_value(self, key: Key) -> Any:
        """The value of a variable. Raises YAMLError or RecursionError."""
        root = self._loader.get_single_node()
        return None if root is None else self._value(root, key)

    def _value(self, node: Node, key: Key) -> Any:
        if isinstance(node, MappingNode):
            return self._mapping(node, key)
        if isinstance(node, SequenceNode):
            return [self._item(item, (*key, i)) for i, item in enumerate(node.value)]
        return self._scalar(node, key)

    def _item(self, node: Node, key: Key) -> Any:
        self._mark(node, key)
        return self._value(node, key)

    def _mapping(self, node: MappingNode, parent: Key) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for name, value in node.value:
            key = (*parent, str(name.value) if isinstance(name, ScalarNode) else "?")
            if key in self._document.places:
                text = f"is set twice; the first is at {self._document.place(key)}"
                # Below a group of settings, names are names. In the place of a value they may be a part of a secret.
                shown = key if dotted(parent) in sections() else (*parent, "?")
                self._document.problems.append(Problem(self._line(name), dotted(shown), text))
                continue
            self._mark(name, key)
            read = self._value(value, key)
            if read is not None:  # an empty `scope:` means the default
                values[str(key[-1])] = read
        return values

    def _scalar(self, node: Node, key: Key) -> Any:
        kind = node.tag.removeprefix("tag:yaml.org,2002:")
        if node.tag.startswith("!"):
            self._document.report(key, "has a YAML tag (!...); put the value in quotes")
            return None
        if "\0" in node.value:
            self._document.report(key, "contains a NUL character; remove it")
            return None
        try:
            return self._loader.construct_object(node) if kind in self._PLAIN else node.value
        except (LookupError, ValueError):  # `!!bool maybe`, `!!int ''`
            return node.value

    def _mark(self, node: Node, key: Key) -> None:
        self._document.places[key] = self._line(node)

    def _line(self, node: Node) -> Place:
        if self._variable:
            return Place(variable=True, line=0, name=self._variable)
        return self._document.at(node.start_mark.line + 1)


def add_environment(
    document: Document, environ: Mapping[str, str], texts: frozenset[str], lists: frozenset[str]
) -> None:
    """Adds the variables `KREBIT_PROXY_...` to the document. They win over the file.

    Args:
        document: the settings from the file.
        environ: the environment. An empty variable counts as not set, because compose files pass empty ones.
        texts: dotted names of the settings that are text and taken literally. All others are read as YAML.
        lists: dotted names of the settings that are lists of text. Commas may separate their items.
    """
    for variable, raw in sorted(environ.items()):
        name = variable.removeprefix(PREFIX)
        # CONFIG names the file. EVENT is set for `notify.command`, which may run krebit-proxy in turn.
        if not raw or name in {variable, "CONFIG", "EVENT"} or _SERVICE_LINK.fullmatch(name):
            continue
        key: Key = tuple(name.lower().split("__"))
        document.places[key] = Place(variable=True, line=0, name=variable)
        try:
            value = raw if dotted(key) in texts else _read_variable(document, variable, raw, key)
        except (yaml.YAMLError, RecursionError):
            value = raw
            if dotted(key) not in lists:
                document.report(key, "is not valid YAML; write a number, true, false or a list: [a, b]")
                continue
        if dotted(key) in lists and isinstance(value, str):
            value = [part.strip() for part in value.split(",")]
        _put(document, key, value)


def _read_variable(document: Document, variable: str, raw: str, key: Key) -> Any:
    """The YAML value of a variable. Raises YAMLError or RecursionError."""
    alone = Document(variable, places={key: document.place(key)})  # what the file says of this setting does not count
    value = _Reading(alone, _Loader(raw), variable).read_value(key)
    document.places |= alone.places
    document.problems += alone.problems
    return value


def _put(document: Document, key: Key, value: Any) -> None:
    values = document.values
    for part in key[:-1]:
        inner = values.setdefault(str(part), {})
        if not isinstance(inner, dict):
            document.report(key, f"is not a setting: {dotted(key[:-1])} is a single value, not a group of settings")
            return
        values = inner
    values[str(key[-1])] = value
