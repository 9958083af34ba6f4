"""What happened in the sandbox: counters for tests, sentences for people."""

from collections import Counter
from collections.abc import Callable


class Journal:
    """Counts events, and passes sentences about some of them to `say`."""

    def __init__(self, say: Callable[[str], None] | None = None) -> None:
        self.counters: Counter[str] = Counter()
        self._say = say

    def note(self, counter: str, sentence: str = "") -> None:
        """Adds one to `counter`, and says `sentence`, which must contain no token and no query."""
        self.counters[counter] += 1
        if sentence and self._say is not None:
            self._say(sentence)
