"""What the sandbox has seen: counters for tests, and sentences for the person who watches."""

from collections import Counter
from collections.abc import Callable


class Journal:
    """Counts what happens, and tells about what is worth a line."""

    def __init__(self, say: Callable[[str], None] | None = None) -> None:
        self.counters: Counter[str] = Counter()
        self._say = say

    def note(self, counter: str, sentence: str = "") -> None:
        """Adds one to `counter`; `sentence`, if any, goes to whoever listens. It holds no token and no query."""
        self.counters[counter] += 1
        if sentence and self._say is not None:
            self._say(sentence)
