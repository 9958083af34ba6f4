"""How often each caller may call: a steady rate, and a burst beyond it."""


class Rates:
    """One allowance for each caller, by the generic cell rate algorithm: all it keeps is one moment a caller."""

    def __init__(self, rate: float, burst: int) -> None:
        """`rate`: requests a second in the long run. `burst`: requests at once, after a pause."""
        self._interval = 1 / rate
        self._slack = (burst - 1) * self._interval
        self._due: dict[str, float] = {}  # when the caller's next request would come, had it kept the rate

    def wait(self, caller: str, now: float) -> float:
        """0 for a request that may pass, which is then counted; else the seconds until one may."""
        due = max(self._due.get(caller, now), now)
        early = due - now - self._slack
        if early > 0:
            return early
        self._due[caller] = due + self._interval
        return 0.0
