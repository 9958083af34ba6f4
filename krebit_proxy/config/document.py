"""Reads the settings as they were written, and remembers where each one stands."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

Key = tuple[str | int, ...]

PREFIX: Final = "KREBIT_PROXY_"
# What an error of YAML quotes: behind "expected" its own syntax, and else a part of the file.
_QUOTED: Final = re.compile(r"""((?:expected|or) )?(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")""")
# For a service called krebit-proxy, Kubernetes gives such variables to every container; they are no settings.
_SERVICE_LINK: Final = re.compile(r"SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?")


def is_setting(variable: str) -> bool:
    """Whether a variable of the environment may hold a setting, and so a secret; one names no more than the file."""
    return variable.startswith(PREFIX) and variable != f"{PREFIX}CONFIG"


@dataclass(frozen=True, order=True)
class Place:
    """Where a setting stands. They sort as a person reads them: the file from top to bottom, then the variables."""

    variable: bool
    line: int  # 0 for what has none
    name: str  # of the file, or of the variable

    def __str__(self) -> str:
        return f"{self.name}:{self.line}" if self.line else self.name


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where it stands, which setting, and what to say about it."""

    where: Place
    key: str
    text: str

    def __str__(self) -> str:
        return ": ".join(part for part in (str(self.where), self.key, self.text) if part)


@dataclass
class Document:
    """Values of the settings as nested dicts and lists, with their places."""

    name: str  # of the file, or "environment"
    values: dict[str, Any] = field(default_factory=dict)
    places: dict[Key, Place] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    cautions: list[Problem] = field(default_factory=list)

    def at(self, line: int) -> Place:
        """A line of the file."""
        return Place(variable=False, line=line, name=self.name)

    def place(self, key: Key) -> Place:
        """Where `key` stands, or the nearest of what surrounds it."""
        while key and key not in self.places:
            key = key[:-1]
        return self.places.get(key) or self.at(0)

    def report(self, key: Key, text: str) -> None:
        """Notes a problem with the setting `key`."""
        self.problems.append(Problem(self.place(key), dotted(key), text))

    def caution(self, key: Key, text: str | None) -> None:
        """Notes what works, but should be looked at; None is nothing."""
        if text is not None:
            self.cautions.append(Problem(self.place(key), dotted(key), text))


def dotted(key: Key) -> str:
    """The name of a setting as a person writes it, e.g. `access.allow[0].methods`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key).removeprefix(".")


def read_file(path: Path) -> Document:
    """Reads a YAML file. What cannot be read becomes a problem of the document."""
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
        """The next node. Raises MarkedYAMLError for an alias, by which a small file could become a large one."""
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(None, None, "* starts an alias; put the value in quotes", mark)
        return super().compose_node(parent, index)


class _Reading:
    """Walks the nodes of one file: YAML's own constructor keeps no places and accepts a key twice."""

    _PLAIN: Final = frozenset({"null", "bool", "int", "float", "str"})

    def __init__(self, document: Document, loader: _Loader) -> None:
        self._document = document
        self._loader = loader

    def read(self) -> None:
        """Fills the document, and reports what in the file cannot be read."""
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
        told = _QUOTED.sub(lambda quoted: quoted[0] if quoted[1] else "…", error.problem or "")  # it may be a secret
        return Problem(self._document.at(mark.line + 1 if mark else 1), "", f"invalid YAML: {told}{advice}")

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
                self._document.problems.append(Problem(self._line(name), dotted(key), text))
                continue
            self._mark(name, key)
            read = self._value(value, key)
            if read is not None:  # `scope:` with nothing behind it leaves the default
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
        except ValueError:
            return node.value

    def _mark(self, node: Node, key: Key) -> None:
        self._document.places[key] = self._line(node)

    def _line(self, node: Node) -> Place:
        return self._document.at(node.start_mark.line + 1)


def add_environment(
    document: Document, environ: Mapping[str, str], texts: frozenset[str], lists: frozenset[str]
) -> None:
    """Lays the variables `KREBIT_PROXY_...` over the document; they win over the file.

    Args:
        document: what the file gave.
        environ: the environment. An empty variable counts as not set: compose files pass such.
        texts: the dotted names of settings that are text, taken as they come; all others are read as YAML.
        lists: the dotted names of settings that are lists of text, which commas may separate too.
    """
    for variable, raw in sorted(environ.items()):
        name = variable.removeprefix(PREFIX)
        # CONFIG names the file; EVENT is what `notify.command` finds in its environment, and it may call us.
        if not raw or name in {variable, "CONFIG", "EVENT"} or _SERVICE_LINK.fullmatch(name):
            continue
        key: Key = tuple(name.lower().split("__"))
        document.places[key] = Place(variable=True, line=0, name=variable)
        try:
            value = raw if dotted(key) in texts else yaml.safe_load(raw)
        except (yaml.YAMLError, RecursionError):
            value = raw
            if dotted(key) not in lists:
                document.report(key, "is not valid YAML; write a number, true, false or a list: [a, b]")
                continue
        if dotted(key) in lists and isinstance(value, str):
            value = [part.strip() for part in value.split(",")]
        _put(document, key, value)


def _put(document: Document, key: Key, value: Any) -> None:
    values = document.values
    for part in key[:-1]:
        inner = values.setdefault(str(part), {})
        if not isinstance(inner, dict):
            document.report(key, f"is not a setting: {dotted(key[:-1])} is a single value, not a group of settings")
            return
        values = inner
    values[str(key[-1])] = value
