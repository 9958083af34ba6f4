"""How often each caller may send requests: a steady rate, plus a burst."""


class Rates:
    """One limit for each caller, by the generic cell rate algorithm. It stores a single time for each caller."""

    def __init__(self, rate: float, burst: int) -> None:
        """`rate`: requests per second, on average. `burst`: requests at once, after a pause."""
        self._interval = 1 / rate
        self._slack = (burst - 1) * self._interval
        self._due: dict[str, float] = {}  # when the next request of a caller is due at the steady rate

    def wait(self, caller: str, now: float) -> float:
        """Seconds until the caller may send a request. 0: now, and this request is counted."""
        due = max(self._due.get(caller, now), now)
        early = due - now - self._slack
        if early > 0:
            return early
        self._due[caller] = due + self._interval
        return 0.0
