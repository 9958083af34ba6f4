"""Plain counters while requests run; Prometheus' text when it is asked for.

prometheus_client is loaded at the first scrape: a proxy that nobody scrapes does not pay for it.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from krebit_proxy import __version__
from krebit_proxy.core.grant_status import GrantStatus

if TYPE_CHECKING:
    from prometheus_client import Metric

# Seconds. From what a call costs on one machine to what a report takes.
BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
# A label must not take any value that a caller likes.
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """What happened since the start. The counting methods are for the hot path: no I/O, no locks, no objects kept."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, int]] = Counter()
        self._durations = [0] * (len(BUCKETS) + 1)
        self._seconds = 0.0
        self._sent = 0
        self._received = 0
        self._callers: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._replays: Counter[str] = Counter()
        self._refreshes: Counter[str] = Counter()
        self._notifications: Counter[tuple[str, str]] = Counter()
        self._gauges: dict[str, tuple[str, Callable[[], float]]] = {}

    def request(self, *, caller: str, method: str, status: int, seconds: float, sent: int, received: int) -> None:
        """A request is over: who sent it, its duration, octets of content sent to the caller and received from it.

        `caller` is the name that the access rules give to whoever sent it.
        """
        self._callers[caller] += 1
        self._requests[method if method in METHODS else "other", status] += 1
        self._durations[bisect_left(BUCKETS, seconds)] += 1
        self._seconds += seconds
        self._sent += sent
        self._received += received

    def refused(self, code: str) -> None:
        """A request got one of our own errors; `code` is one of `errors.CODES`."""
        self._refused[code] += 1

    def replayed(self, outcome: str) -> None:
        """A 401 led to a replay ("done"), or did not (the reason, one word)."""
        self._replays[outcome] += 1

    def refreshed(self, outcome: str) -> None:
        """A refresh of the token ended, "ok" or with a reason of one word."""
        self._refreshes[outcome] += 1

    def notified(self, way: str, outcome: str) -> None:
        """A message to people was tried by `way`, a setting of `notify`: it was "sent", or the try "failed"."""
        self._notifications[way, outcome] += 1

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Something that is measured when it is asked for, e.g. open connections."""
        self._gauges[name] = text, value

    def render(self, status: GrantStatus) -> bytes:
        """Everything in Prometheus' text format, as `CONTENT_TYPE`."""
        from prometheus_client import generate_latest  # loaded when first used

        return generate_latest(_Snapshot(self, status))

    def families(self, status: GrantStatus) -> "Iterator[Metric]":
        """The metrics one by one."""
        from prometheus_client.core import (  # loaded when first used
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
        )

        def counter(name: str, text: str, label: str, counts: Counter[str]) -> CounterMetricFamily:
            """A metric with one label."""
            family = CounterMetricFamily(f"krebit_proxy_{name}", text, labels=[label])
            for value, count in sorted(counts.items()):
                family.add_metric([value], count)
            return family

        requests = CounterMetricFamily("krebit_proxy_requests", "Requests.", labels=["method", "status"])
        for (method, code), count in sorted(self._requests.items()):
            requests.add_metric([method, str(code)], count)
        yield requests
        duration = HistogramMetricFamily("krebit_proxy_request_duration_seconds", "From head to last octet.")
        bounds = [*map(str, BUCKETS), "+Inf"]
        duration.add_metric([], list(zip(bounds, accumulate(self._durations), strict=True)), self._seconds)
        yield duration
        yield CounterMetricFamily("krebit_proxy_sent_bytes", "Content sent to callers.", self._sent)
        yield CounterMetricFamily("krebit_proxy_received_bytes", "Content received from callers.", self._received)
        yield counter("caller_requests", "Requests by who sent them.", "caller", self._callers)
        yield counter("refused", "Requests answered with an error of our own.", "code", self._refused)
        yield counter("replays", "What became of requests after a 401.", "outcome", self._replays)
        yield counter("refreshes", "Refreshes of the access token.", "outcome", self._refreshes)
        notifications = CounterMetricFamily(
            "krebit_proxy_notifications", "Tries to tell people about the grant.", labels=["way", "outcome"]
        )
        for (way, outcome), count in sorted(self._notifications.items()):
            notifications.add_metric([way, outcome], count)
        yield notifications
        for name, (text, value) in self._gauges.items():
            yield GaugeMetricFamily(f"krebit_proxy_{name}", text, value())
        for name, text, known in _grant(status):
            if known is not None:
                yield GaugeMetricFamily(f"krebit_proxy_{name}", text, known)
        build = GaugeMetricFamily("krebit_proxy_build_info", "The version that runs.", labels=["version"])
        build.add_metric([__version__], 1)
        yield build


def _grant(status: GrantStatus) -> list[tuple[str, str, float | None]]:
    return [
        ("ready", "1 if a request would be authenticated now.", status.ready),
        ("grant_generation", "Changes of the grant so far.", status.generation),
        ("token_obtained_timestamp_seconds", "When the access token was obtained.", status.obtained_at),
        ("token_expires_timestamp_seconds", "When the access token expires.", status.expires_at),
        (
            "token_suspected",
            "1 if the upstream refused the access token and has not accepted it since.",
            status.suspected,
        ),
        (
            "refresh_token_expires_timestamp_seconds",
            "When the refresh token expires, if the server has said so.",
            status.refresh_token_expires_at,
        ),
        ("last_refresh_timestamp_seconds", "When the token was refreshed last.", status.last_refresh_at),
        ("next_refresh_timestamp_seconds", "When the token is refreshed next.", status.next_refresh_at),
        ("refreshing", "1 while a refresh is under way.", status.refreshing),
        ("store_failed", "1 if the grant store cannot be used.", status.store_error is not None),
    ]


class _Snapshot:
    """What prometheus_client asks for metrics."""

    def __init__(self, metrics: Metrics, status: GrantStatus) -> None:
        self._metrics = metrics
        self._status = status

    def collect(self) -> "Iterator[Metric]":
        """The metrics as they are now."""
        return self._metrics.families(self._status)
