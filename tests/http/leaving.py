"""The rule of the request target in plain words, independent of the program's own."""

import re
from urllib.parse import unquote_to_bytes


def leaves_api(target: bytes) -> bool:
    """Whether some reading of `target`, decoded again and again, leaves /api/ or leads to the token endpoint."""
    path, _, query = target.partition(b"?")
    if b"#" in query:
        return True
    seen = set()
    while path not in seen:
        seen.add(path)
        if re.search(rb"[\x00\r\n#\\]", path):
            return True
        if any(segment.split(b";")[0] in {b".", b".."} for segment in path.split(b"/")):
            return True
        path = unquote_to_bytes(path)
    segments = [segment for part in path.split(b"/") if (segment := part.split(b";")[0].lower())]
    return segments[:1] == [b"api"] and re.match(rb"oauth(?![a-z0-9_-])", b"/".join(segments[1:])) is not None
