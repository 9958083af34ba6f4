"""Path templates: how an `access.allow` rule describes paths, and how observed requests become such rules."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Final
from urllib.parse import unquote, unquote_to_bytes

# Segments that identify one item among many: numbers, UUIDs, dates, long hexadecimal names.
_PARAMETER: Final = re.compile(
    r"\d+|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|\d{4}-\d{2}(?:-\d{2}(?:T[0-9:.]+(?:Z|[+-][0-9:]+)?)?)?|[0-9a-f]{16,}",
    re.IGNORECASE,
)
_MOST_KINDS: Final = 5000
_MOST_SIBLINGS: Final = 20
_SEGMENT: Final = re.compile(r"\*\*|\{[A-Za-z_][A-Za-z0-9_]*\}|[^{}*/]+")


def template(path: bytes) -> str:
    """The path template for `path`: /api/invoices/17/lines becomes /api/invoices/{id}/lines."""
    folded: list[str] = []
    for spelt in path.split(b"/"):
        segment = unquote(spelt.partition(b";")[0].decode("ascii", "replace"))
        if "/" in segment:
            return "/".join(["", *folded, "**"])  # the upstream may read it as several segments
        if segment:
            folded.append("{id}" if _stands_for_one(segment) else segment)
    return "/".join(["", *folded])


def _stands_for_one(segment: str) -> bool:
    """Whether `{id}` should replace the segment: it is one of many, or a template cannot contain it."""
    return (
        bool(_PARAMETER.fullmatch(segment))
        or not _SEGMENT.fullmatch(segment)
        or not segment.replace("\ufffd", "\n").isprintable()
    )


def pattern(path_template: str) -> re.Pattern[bytes]:
    """A pattern for the paths of `path_template`: `{name}` is one segment, a final `**` is any number of segments.

    It ignores empty segments and `;…`, and decodes percent-encoded names. Raises ValueError with the reason if
    `path_template` is not a template.
    """
    if not path_template.startswith("/api/"):
        raise ValueError("it must start with /api/")
    parts = []
    segments = [segment for segment in path_template.split("/") if segment]
    for number, segment in enumerate(segments, start=1):
        if not _SEGMENT.fullmatch(segment) or "/" in unquote(segment):
            raise ValueError(f"{segment!r} is not a valid segment; write a name, {{id}} or a final **")
        if segment == "**":
            if number < len(segments):
                raise ValueError("** must be the last segment")
            parts.append(b"(?:/.*)?")
        elif segment.startswith("{"):
            parts.append(b"/+[^/]+")
        else:
            parts.append(b"/+" + re.escape(unquote_to_bytes(segment)) + b"(?:;[^/]*)?")
    return re.compile(b"".join(parts) + b"/*", re.DOTALL)


class Observations:
    """Counts how often each caller used each method on each path template."""

    def __init__(self) -> None:
        self._seen: Counter[tuple[str, str, str]] = Counter()

    def add(self, method: str, path: bytes, caller: str) -> bool:
        """Counts one request. Returns whether it is the first of its kind. Stores at most `_MOST_KINDS` kinds."""
        kind = (template(path), method, caller)
        known = kind in self._seen
        if known or len(self._seen) < _MOST_KINDS:
            self._seen[kind] += 1
        return not known

    def to_json(self) -> str:
        """Text for a file, with one kind on each line, sorted."""
        lines = [json.dumps([*kind, times]) for kind, times in sorted(self._seen.items())]
        return "[\n" + ",\n".join(lines) + "\n]\n"

    @classmethod
    def from_json(cls, text: str) -> "Observations":
        """Reads the text of `to_json`. Raises ValueError for any other text."""
        found = cls()
        match json.loads(text):
            case list() as lines:
                for line in lines:
                    found._count(line)
            case _:
                raise ValueError("is not a list of observations")
        return found

    def _count(self, line: object) -> None:
        match line:
            case [str(path), str(method), str(caller), int(times)]:
                self._seen[path, method, caller] += times
            case _:
                raise ValueError("contains a line that is not an observation")

    def suggested(self) -> list[str]:
        """YAML lines for `access.allow` that allow exactly these requests. They name callers only if those differ."""
        used: defaultdict[str, defaultdict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
        folded = _fold_siblings(path for path, _, _ in self._seen)
        for path, method, caller in self._seen:
            used[folded[path]][caller].add(method)
        everybody = frozenset(caller for _, _, caller in self._seen)
        lines: defaultdict[tuple[frozenset[str], frozenset[str]], list[str]] = defaultdict(list)
        for path, by_caller in sorted(used.items()):
            alike: defaultdict[frozenset[str], set[str]] = defaultdict(set)
            for caller, methods in by_caller.items():
                alike[frozenset(methods - {"HEAD"} if "GET" in methods else methods)].add(caller)
            for allowed, callers in alike.items():
                lines[frozenset() if callers == everybody else frozenset(callers), allowed].append(path)
        return [_line(*who, paths) for who, paths in lines.items()]


def _fold_siblings(templates: Iterable[str]) -> dict[str, str]:
    """Replaces names by `{id}` where a place has too many of them: these names are parameters too."""
    paths = {path: path.split("/")[1:] for path in templates}
    for place in range(max(map(len, paths.values()), default=0)):
        names: defaultdict[tuple[str, ...], set[str]] = defaultdict(set)
        longer = [segments for segments in paths.values() if len(segments) > place]
        for segments in longer:
            names[tuple(segments[:place])].add(segments[place])
        for segments in longer:
            if len(names[tuple(segments[:place])]) > _MOST_SIBLINGS:
                segments[place] = "{id}"
    return {path: "/" + "/".join(segments) for path, segments in paths.items()}


def _line(callers: Iterable[str], methods: Iterable[str], paths: Iterable[str]) -> str:
    named = f", callers: {json.dumps(sorted(callers))}" if callers else ""
    return f"{{methods: [{', '.join(sorted(methods))}], paths: {json.dumps(list(paths), ensure_ascii=False)}{named}}}"


def needed_line(method: str, path: bytes) -> str:
    """The YAML line for `access.allow` that would allow this request."""
    return _line((), [method], [template(path)])
