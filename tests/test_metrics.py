"""What is counted is what Prometheus reads."""

import subprocess
import sys

from prometheus_client.parser import text_string_to_metric_families

from krebit_proxy.core.grant_status import GrantStatus
from krebit_proxy.metrics import BUCKETS, Metrics
from tests.fakes.statuses import grant_status

READY = grant_status(generation=3, obtained_at=1000.0, expires_at=4600.0, next_refresh_at=4300.0)


def scraped(metrics: Metrics, status: GrantStatus = READY) -> dict[tuple[str, ...], float]:
    """Each sample by its name and the values of its labels."""
    return {
        (sample.name.removeprefix("krebit_proxy_"), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(metrics.render(status).decode())
        for sample in family.samples
    }


def count(metrics: Metrics, method: str, status: int, *, seconds: float = 0, sent: int = 0, received: int = 0) -> None:
    metrics.request(caller="me", method=method, status=status, seconds=seconds, sent=sent, received=received)


def test_requests_are_counted_by_method_and_status() -> None:
    metrics = Metrics()
    for _ in range(3):
        count(metrics, "GET", 200, sent=10)
    count(metrics, "POST", 502, sent=1, received=5)
    count(metrics, "X" * 1000, 400)
    samples = scraped(metrics)
    assert samples["requests_total", "GET", "200"] == 3
    assert samples["requests_total", "POST", "502"] == 1
    assert samples["requests_total", "other", "400"] == 1
    assert samples["caller_requests_total", "me"] == 5
    assert (samples["sent_bytes_total",], samples["received_bytes_total",]) == (31, 5)


def test_durations_fall_into_buckets() -> None:
    metrics = Metrics()
    for seconds in (0.0005, BUCKETS[0], 0.3, 1000.0):
        count(metrics, "GET", 200, seconds=seconds)
    samples = scraped(metrics)
    assert samples["request_duration_seconds_bucket", "0.001"] == 2
    assert samples["request_duration_seconds_bucket", "0.5"] == 3
    assert samples["request_duration_seconds_bucket", "+Inf"] == 4
    assert samples["request_duration_seconds_count",] == 4
    assert samples["request_duration_seconds_sum",] == 1000.3015


def test_what_is_counted_elsewhere_is_read_at_each_scrape() -> None:
    metrics = Metrics()
    lost = [0]
    metrics.counter("log_dropped", "Lines.", lambda: lost[0])
    assert scraped(metrics)["log_dropped_total",] == 0
    lost[0] = 3
    assert scraped(metrics)["log_dropped_total",] == 3
    assert b"# TYPE krebit_proxy_log_dropped_total counter" in metrics.render(READY)


def test_outcomes_are_counted() -> None:
    metrics = Metrics()
    metrics.refused("bad_request")
    metrics.replayed("done")
    metrics.retried("done")
    metrics.refreshed("ok")
    metrics.notified("webhook", "failed")
    metrics.notified("webhook", "sent")
    metrics.gauge("connections", "Open connections.", lambda: 7)
    samples = scraped(metrics)
    assert samples["refused_total", "bad_request"] == 1
    assert samples["replays_total", "done"] == 1
    assert samples["retries_total", "done"] == 1
    assert samples["refreshes_total", "ok"] == 1
    assert samples["notifications_total", "failed", "webhook"] == 1
    assert samples["notifications_total", "sent", "webhook"] == 1
    assert samples["connections",] == 7


def test_the_grant_is_told_without_what_is_unknown() -> None:
    samples = scraped(Metrics())
    assert (samples["ready",], samples["grant_generation",]) == (1, 3)
    assert samples["token_expires_timestamp_seconds",] == 4600.0
    assert ("last_refresh_timestamp_seconds",) not in samples
    assert ("refresh_token_expires_timestamp_seconds",) not in samples
    assert samples["token_suspected",] == 0


def test_suspicion_and_the_end_of_the_refresh_token_are_told() -> None:
    samples = scraped(Metrics(), grant_status(suspected=True, refresh_token_expires_at=9000.0))
    assert samples["token_suspected",] == 1
    assert samples["refresh_token_expires_timestamp_seconds",] == 9000.0


def test_the_library_is_loaded_by_the_first_scrape_only() -> None:
    program = "import sys, krebit_proxy.metrics; print('prometheus_client' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
