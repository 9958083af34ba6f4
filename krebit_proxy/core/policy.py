"""Path templates: what an `access.allow` rule says about paths, and how traffic is folded into such rules."""

import re
from typing import Final

# What differs from one thing of a kind to the next: numbers, UUIDs, dates, long hexadecimal names.
_PARAMETER: Final = re.compile(
    rb"\d+|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|\d{4}-\d{2}(?:-\d{2}(?:T[0-9:.]+(?:Z|[+-][0-9:]+)?)?)?|[0-9a-f]{16,}",
    re.IGNORECASE,
)
_SEGMENT: Final = re.compile(r"\*\*|\{[A-Za-z_][A-Za-z0-9_]*\}|[^{}*/]+")


def template(path: bytes) -> str:
    """The path template that `path` is a case of: /api/invoices/17/lines becomes /api/invoices/{id}/lines."""
    segments = [segment for segment in path.split(b"/") if segment]
    return "/" + "/".join("{id}" if _PARAMETER.fullmatch(s) else s.decode("ascii", "replace") for s in segments)


def pattern(path_template: str) -> re.Pattern[bytes]:
    """What matches the paths of `path_template`: `{name}` is one segment, a final `**` any number of them, also none.

    Empty segments do not count, on either side. Raises ValueError with the reason if it is not a template.
    """
    if not path_template.startswith("/api/"):
        raise ValueError("a path template starts with /api/")
    parts = []
    segments = [segment for segment in path_template.split("/") if segment]
    for number, segment in enumerate(segments, start=1):
        if not _SEGMENT.fullmatch(segment):
            raise ValueError(f"{segment!r} is no segment of a path template; write a name, {{id}} or a final **")
        if segment == "**":
            if number < len(segments):
                raise ValueError("** stands for all that follows, so it comes last")
            parts.append(b"(?:/.*)?")
        elif segment.startswith("{"):
            parts.append(b"/+[^/]+")
        else:
            parts.append(b"/+" + re.escape(segment.encode()))
    return re.compile(b"".join(parts) + b"/*", re.DOTALL)
