"""Metrics: plain counters for the hot path, and Prometheus' text format on demand.

prometheus_client is loaded at the first scrape, so a proxy that nobody scrapes does not pay for it.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final

from krebit_proxy import __version__
from krebit_proxy.core.grant_status import GrantStatus

if TYPE_CHECKING:
    from prometheus_client import Metric

# Seconds: from a quick call on one machine to a slow report.
BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
# All other methods count as "other": a caller must not create any number of labels.
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Counts since the start. The counting methods are for the hot path: no I/O, no locks, no objects kept."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, int]] = Counter()
        self._durations = [0] * (len(BUCKETS) + 1)
        self._seconds = 0.0
        self._sent = 0
        self._received = 0
        self._callers: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._replays: Counter[str] = Counter()
        self._retries: Counter[str] = Counter()
        self._refreshes: Counter[str] = Counter()
        self._notifications: Counter[tuple[str, str]] = Counter()
        self._gauges: dict[str, tuple[str, Callable[[], float]]] = {}
        self._counters: dict[str, tuple[str, Callable[[], int]]] = {}

    def request(self, *, caller: str, method: str, status: int, seconds: float, sent: int, received: int) -> None:
        """Counts a finished request.

        Args:
            caller: the name that the access rules give to its sender.
            method: its method.
            status: the status of the response.
            seconds: its duration.
            sent: octets sent to the caller.
            received: octets of content received from the caller.
        """
        self._callers[caller] += 1
        self._requests[method if method in METHODS else "other", status] += 1
        self._durations[bisect_left(BUCKETS, seconds)] += 1
        self._seconds += seconds
        self._sent += sent
        self._received += received

    def refused(self, code: str) -> None:
        """Counts a request that got one of our own errors. `code`: one of `errors.CODES`."""
        self._refused[code] += 1

    def replayed(self, outcome: str) -> None:
        """Counts a 401 that led to a replay ("done"), or did not (the reason, one word)."""
        self._replays[outcome] += 1

    def retried(self, outcome: str) -> None:
        """Counts a second attempt after a connection died or was silent, by what came of it, in one word."""
        self._retries[outcome] += 1

    def refreshed(self, outcome: str) -> None:
        """Counts a refresh of the token: "ok", or a reason of one word."""
        self._refreshes[outcome] += 1

    def notified(self, way: str, outcome: str) -> None:
        """Counts an attempt to send an alarm by `way`, a setting of `notify`. `outcome`: "sent" or "failed"."""
        self._notifications[way, outcome] += 1

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Adds a metric that is measured at each scrape, e.g. open connections. `text`: its description."""
        self._gauges[name] = text, value

    def counter(self, name: str, text: str, value: Callable[[], int]) -> None:
        """Adds a metric that is counted elsewhere. `name` is without `_total`. `text`: its description."""
        self._counters[name] = text, value

    def render(self, status: GrantStatus) -> bytes:
        """All metrics in Prometheus' text format, `CONTENT_TYPE`."""
        from prometheus_client import generate_latest  # loaded when first used

        return generate_latest(_Snapshot(self, status))

    def families(self, status: GrantStatus) -> "Iterator[Metric]":
        """All metrics, for prometheus_client. Those of the grant that are unknown are left out."""
        from prometheus_client.core import (  # loaded when first used
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
        )

        def counter(name: str, text: str, labels: list[str], counts: Mapping[Any, int]) -> CounterMetricFamily:
            family = CounterMetricFamily(f"krebit_proxy_{name}", text, labels=labels)
            for key, count in sorted(counts.items()):
                values = key if isinstance(key, tuple) else (key,)
                family.add_metric([str(value) for value in values], count)
            return family

        yield counter("requests", "Requests.", ["method", "status"], self._requests)
        duration = HistogramMetricFamily(
            "krebit_proxy_request_duration_seconds", "Time from the request headers to the last byte of the response."
        )
        bounds = [*map(str, BUCKETS), "+Inf"]
        duration.add_metric([], list(zip(bounds, accumulate(self._durations), strict=True)), self._seconds)
        yield duration
        yield CounterMetricFamily("krebit_proxy_sent_bytes", "Bytes sent to callers.", self._sent)
        yield CounterMetricFamily(
            "krebit_proxy_received_bytes", "Bytes of request bodies from callers.", self._received
        )
        yield counter("caller_requests", "Requests by caller.", ["caller"], self._callers)
        yield counter("refused", "Requests answered with an error of the proxy.", ["code"], self._refused)
        yield counter("replays", "Requests that met a 401, by what followed.", ["outcome"], self._replays)
        yield counter("retries", "Second attempts after a connection failure.", ["outcome"], self._retries)
        yield counter("refreshes", "Refreshes of the access token.", ["outcome"], self._refreshes)
        yield counter("notifications", "Attempts to send an alarm.", ["way", "outcome"], self._notifications)
        for name, (text, count) in self._counters.items():
            yield CounterMetricFamily(f"krebit_proxy_{name}", text, count())
        for name, (text, value) in self._gauges.items():
            yield GaugeMetricFamily(f"krebit_proxy_{name}", text, value())
        for name, text, known in _grant(status):
            if known is not None:
                yield GaugeMetricFamily(f"krebit_proxy_{name}", text, known)
        build = GaugeMetricFamily("krebit_proxy_build_info", "The running version.", labels=["version"])
        build.add_metric([__version__], 1)
        yield build


def _grant(status: GrantStatus) -> list[tuple[str, str, float | None]]:
    return [
        ("ready", "1 if the proxy has a valid token.", status.ready),
        ("grant_generation", "How often the grant has changed.", status.generation),
        ("token_obtained_timestamp_seconds", "When the access token was obtained.", status.obtained_at),
        ("token_expires_timestamp_seconds", "When the access token expires.", status.expires_at),
        (
            "token_suspected",
            "1 if Krebit refused the access token and has not accepted it since.",
            status.suspected,
        ),
        (
            "refresh_token_expires_timestamp_seconds",
            "When the refresh token expires, if Krebit has said so.",
            status.refresh_token_expires_at,
        ),
        ("last_refresh_timestamp_seconds", "When the token was last refreshed.", status.last_refresh_at),
        ("next_refresh_timestamp_seconds", "When the next refresh is due.", status.next_refresh_at),
        ("refreshing", "1 while a refresh is under way.", status.refreshing),
        ("store_failed", "1 if the grant store cannot be used.", status.store_error is not None),
    ]


class _Snapshot:
    """The collector that prometheus_client expects."""

    def __init__(self, metrics: Metrics, status: GrantStatus) -> None:
        self._metrics = metrics
        self._status = status

    def collect(self) -> "Iterator[Metric]":
        return self._metrics.families(self._status)
